package agent

import "time"

// provided is what a look needs of the files that a person provides: credentials, anchors, what a name is taken from. Unlike the
// state directory they may lie on a file system that hangs.
type provided struct {
	of    configuration // that they are named in
	asked time.Time
	login string  // see Agent.login
	want  desired // and why it is not known
	err   error
	// crashed is a panic over them.
	crashed error
}

// patience is how long a keeper waits for these files. Much longer, and it would count as stuck (busyAtMost): then the service
// manager would end the agent with all certificates for the sake of one.
// A turn that nobody watches (Once) has no later look, and waits for as long as a file system may take to be mounted.
const (
	patience     = 2 * time.Second
	oncePatience = 30 * time.Second
)

// readProvided reads them beside the keeper. ok is false while they cannot be had: then nothing is concluded, and no more is
// asked of that file system until what was asked has come to an end. What comes late counts at the next look, a minute later, so
// that files which are always slow are of use; what hung for longer, or is of another configuration, is read again.
func (k *keeper) readProvided(patience time.Duration) (p provided, ok bool) {
	if k.reading != nil {
		select {
		case p = <-k.reading:
			k.reading = nil
		default:
			return provided{}, false
		}
	}
	if of := (configuration{k.cfg, k.stamp}); p.of != of || time.Since(p.asked) > 2*maxSleep {
		read := make(chan provided, 1)
		k.reading = read
		go func() { read <- k.agent.provided(of) }() // ends when it has read, unless a file system hangs
		select {
		case p = <-read:
			k.reading = nil
		case <-time.After(patience):
			return provided{}, false
		}
	}
	if p.crashed != nil {
		panic(p.crashed) // here it is this certificate's problem
	}
	return p, true
}

func (a *Agent) provided(of configuration) provided {
	p := provided{of: of, asked: time.Now()}
	p.crashed = guard(func() {
		p.login = a.login(of.certificate, of.stamp)
		p.want, p.err = desire(of.certificate, a.o.Host)
	})
	return p
}
