package control

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// peer is who is at the other end of a connection, as the kernel noted it when the connection was made (unix(7)).
type peer struct {
	pid    int32
	uid    uint32
	groups []uint32 // the group and the supplementary groups of the process
}

// peerOf asks the kernel (SO_PEERCRED, SO_PEERGROUPS).
func peerOf(c *net.UnixConn) (peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var p peer
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			failed = err
			return
		}
		groups, err := peerGroups(int(fd))
		if err != nil && !errors.Is(err, unix.ENOPROTOOPT) { // Linux before 4.13 does not know them: then they do not count
			failed = err
			return
		}
		p = peer{pid: cred.Pid, uid: cred.Uid, groups: append(groups, cred.Gid)}
	})
	if err = errors.Join(err, failed); err != nil {
		return peer{}, fmt.Errorf("find out who is at the other end of the socket: %w", err)
	}
	return p, nil
}

// peerGroups reads the supplementary groups (SO_PEERGROUPS), for which package unix has no function. A process can have
// 65536 (credentials(7)).
func peerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 64)
	for {
		size := uint32(len(groups)) * 4
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch {
		case errno == 0:
			return groups[:size/4], nil
		case errno == unix.ERANGE && int(size/4) > len(groups): // it says how much room it wants
			groups = make([]uint32, size/4)
		default:
			return nil, errno
		}
	}
}

func (p peer) in(group uint32) bool { return slices.Contains(p.groups, group) }
