package control

import (
	"context"
	"fmt"
	"net"
	"slices"
)

// Listener asks the kernel as which user and with which groups the process runs that listens at a socket, its own group first, then
// the supplementary ones: those of an agent may come from its systemd unit, of which no database knows. Whoever listens was not
// judged.
func Listener(ctx context.Context, socket string) (uid uint32, groups []uint32, err error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", socket)
	if err != nil {
		return 0, nil, fmt.Errorf("find out who listens: %w", err)
	}
	defer c.Close()
	p, err := peerOf(c.(*net.UnixConn))
	if err != nil {
		return 0, nil, err
	}
	slices.Reverse(p.groups) // peerOf has its own group last
	return p.uid, p.groups, nil
}
