package est

import (
	"slices"
	"sync/atomic"
)

// Traffic is what a [Client] has cost and was answered so far. A first contact by [Provisional] is none of a Client's.
type Traffic struct {
	Connections    int   // TLS connections that were opened, or tried
	Sent, Received int64 // bytes over TCP, those of TLS and of a proxy included
	Statuses       []int // HTTP status of each answer, in order; at most 32
	PasswordSent   bool  // the Login was asked for and sent
}

// maxStatuses bounds Traffic.Statuses: a server may answer and redirect for as long as it is listened to.
const maxStatuses = 32

// meter counts bytes. They are read and written by net/http's goroutines, beside the client's.
type meter struct {
	sent, received atomic.Int64
}

// Traffic tells it of this attempt, also after Close. Like every method of a Client it is not for concurrent use.
func (c *Client) Traffic() Traffic {
	return Traffic{
		Connections: c.connections, Sent: c.meter.sent.Load(), Received: c.meter.received.Load(),
		Statuses: slices.Clone(c.statuses), PasswordSent: c.passwordSent(),
	}
}

func (c *Client) noteStatus(status int) {
	if len(c.statuses) < maxStatuses {
		c.statuses = append(c.statuses, status)
	}
}
