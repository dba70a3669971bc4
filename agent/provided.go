package agent

import (
	"time"

	"certagent/agent/config"
)

// provided is what a look needs of the files that a person provides: credentials, anchors, what a name is taken from. Unlike the
// state directory they may lie on a file system that hangs.
type provided struct {
	login string  // see Agent.login
	want  desired // and why it is not known
	err   error
}

// patience is how long a keeper waits for these files. Much longer, and it would count as stuck (busyAtMost): then the service
// manager would end the agent with all certificates for the sake of one.
const patience = 2 * time.Second

// readProvided reads them beside the keeper. ok is false while they cannot be had: then nothing is concluded, and no more is
// asked of that file system until what was asked has come to an end.
func (k *keeper) readProvided() (p provided, ok bool) {
	if k.reading != nil {
		select {
		case <-k.reading: // it is old, or of another configuration
		default:
			return provided{}, false
		}
	}
	read := make(chan provided, 1)
	k.reading = read
	go func(c *config.Certificate, stamp string) { // ends when it has read, unless a file system hangs
		p := provided{login: k.agent.login(c, stamp)}
		p.want, p.err = desire(c, k.agent.o.Host)
		read <- p
	}(k.cfg, k.stamp)
	select {
	case p = <-read:
		k.reading = nil
		return p, true
	case <-time.After(patience):
		return provided{}, false
	}
}
