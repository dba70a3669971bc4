package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// door is an open socket: a listener that knows its visitors.
type door struct {
	*net.UnixListener
	path  string
	file  fs.FileInfo // the socket, as it was made
	crowd *crowd
	once  sync.Once // Close
}

// open makes the socket under a name of its own and then gives it the right one, so that it is complete from the first
// moment, and what was left behind is replaced in one step. No two agents do that in one directory at once: the one that comes
// later finds a socket that answers.
func open(path string, uid, gid int, c *crowd) (*door, error) {
	fail := func(err error) (*door, error) { return nil, fmt.Errorf("open the control socket %s: %w", path, err) }
	defer alone(filepath.Dir(path))()
	if err := free(path); err != nil {
		return fail(err)
	}
	temp := path + ".new"
	if info, err := os.Lstat(temp); err == nil && info.Mode().Type() == fs.ModeSocket {
		_ = os.Remove(temp) // of an agent that was killed just then; listening says it if it cannot be removed
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return fail(plain(err, temp))
	}
	l.SetUnlinkOnClose(false) // by that time the name may be another agent's
	d := &door{UnixListener: l, path: path, crowd: c}
	d.file, err = dress(temp, uid, gid)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		_ = os.Remove(temp) // the first error is the one to tell
		l.Close()
		return fail(err)
	}
	return d, nil
}

// aloneWithin is how long another agent may take to open its socket in the same directory.
const aloneWithin = time.Second

// alone keeps other agents from opening a socket in dir until release is called, by flock(2) on the directory. Whoever may read a
// directory may lock it and never let go of it: so this is not waited for longer than an agent takes, nor needed by one that is
// alone.
func alone(dir string) (release func()) {
	f, err := os.Open(dir)
	if err != nil {
		return func() {} // what is wrong with it is found out soon
	}
	for deadline := time.Now().Add(aloneWithin); ; time.Sleep(aloneWithin / 100) {
		late := time.Now().After(deadline) // before the last try: on a busy machine the time may pass while nobody holds it
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); late || !errors.Is(err, unix.EWOULDBLOCK) {
			break
		}
	}
	return func() { f.Close() }
}

// dress gives the socket at path its owner, and mode 0666: to connect to one needs the right to write (unix(7)). It
// goes by what was opened, not by the name: where root runs the agent of another user, the directory is that user's,
// and what he may put in the socket's place must not become everybody's.
func dress(path string, uid, gid int) (fs.FileInfo, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || info.Mode().Type() != fs.ModeSocket || int(st.Uid) != os.Geteuid() || st.Nlink != 1 {
		return nil, errors.New("something else was put in its place")
	}
	// chmod(2) has no way to go by such a descriptor but this one (open(2), O_PATH).
	if err := os.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), 0o666); err != nil {
		return nil, err
	}
	if err := unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
		return nil, fmt.Errorf("give it to user %d and group %d: %w", uid, gid, err)
	}
	return info, nil
}

// maxPath is the longest path of a unix socket in bytes (unix(7)).
const maxPath = len(unix.RawSockaddrUnix{}.Path) - 1

// plain says what is wrong with a path that is too long; the kernel says "invalid argument".
func plain(err error, path string) error {
	if len(path) > maxPath {
		return fmt.Errorf("its path is too long: with %q it has %d bytes, and %d are the most (name a shorter run_dir)",
			filepath.Ext(path), len(path), maxPath)
	}
	return err
}

// free reports whether the name can be taken: nothing is there, or a socket at which nobody answers.
func free(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("something is there that is no socket: remove it, or name another place with run_dir")
	}
	c, err := net.Dial("unix", path) // it waits for nobody (unix(7)): a time limit would only say that this machine is busy
	if err == nil {
		c.Close()
		return errors.New("another program answers there; give each agent a run_dir of its own")
	}
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// there tells whether the socket is at path, and still the one that was made.
func (d *door) there(path string) bool {
	info, err := os.Lstat(path)
	return path == d.path && err == nil && os.SameFile(info, d.file)
}

// group is the group whose members may make changes, as the socket has it now; none once the socket is another one.
func (d *door) group() (uint32, bool) {
	info, err := os.Lstat(d.path)
	if err != nil || !os.SameFile(info, d.file) {
		return 0, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return st.Gid, true
}

// Close stops listening and removes the socket, if it is still this one.
func (d *door) Close() (err error) {
	d.once.Do(func() {
		if d.there(d.path) {
			_ = os.Remove(d.path) // one that stays is found dead by the next agent
		}
		err = d.UnixListener.Close()
	})
	return err
}

// Accept implements [net.Listener]. Who is one too many is shut out, which is no error.
func (d *door) Accept() (net.Conn, error) {
	for {
		c, err := d.AcceptUnix()
		if err != nil {
			return nil, err
		}
		p, err := peerOf(c)
		if err != nil {
			c.Close() // nobody to talk to
			continue
		}
		v := &visitor{UnixConn: c, peer: p, door: d}
		if v.leave = d.crowd.enter(p.uid, v.mayChange()); v.leave == nil {
			c.Close() // an answer would have to wait for the question
			continue
		}
		return v, nil
	}
}

// visitor is a connection with who is at its other end.
type visitor struct {
	*net.UnixConn
	peer  peer
	door  *door
	leave func()
}

// Close implements [net.Conn].
func (v *visitor) Close() error {
	v.leave()
	return v.UnixConn.Close()
}

// mayChange tells whether a visitor may change something: root, the agent's own user, a member of the socket's group.
func (v *visitor) mayChange() bool {
	if v.peer.uid == 0 || int(v.peer.uid) == os.Geteuid() {
		return true
	}
	group, ok := v.door.group()
	return ok && v.peer.in(group)
}

// forbidden says who may instead.
func (v *visitor) forbidden() *Error {
	e := &Error{Status: http.StatusForbidden, Text: "only root, the agent's user and members of the socket's group may change something"}
	if v == nil {
		return e
	}
	e.Text += fmt.Sprintf("; this is user %d", v.peer.uid)
	e.Hint = "run this as root"
	if gid, ok := v.door.group(); ok && gid != 0 {
		group := strconv.FormatUint(uint64(gid), 10)
		if g, err := user.LookupGroupId(group); err == nil {
			group = g.Name
		}
		e.Hint += ", or become a member of the group " + group + " (usermod -aG) and log in again"
	}
	return e
}

// How many connections there may be at once. A user who may change nothing cannot use up what others need, nor can many
// such users shut out one who may.
const (
	maxOfUser   = 8  // of one user who may change nothing
	maxOfOthers = 32 // of all who may change nothing
	maxTrusted  = 64 // of those who may
)

// crowd counts connections.
type crowd struct {
	mu      sync.Mutex // guards what follows
	users   map[uint32]int
	others  int
	trusted int
}

func newCrowd() *crowd { return &crowd{users: map[uint32]int{}} }

// enter counts one in; nil means that it is one too many. What it gives counts it out, however often it is called.
func (c *crowd) enter(uid uint32, trusted bool) (leave func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case trusted && c.trusted < maxTrusted:
		c.trusted++
		return sync.OnceFunc(func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.trusted--
		})
	case !trusted && c.users[uid] < maxOfUser && c.others < maxOfOthers:
		c.users[uid]++
		c.others++
		return sync.OnceFunc(func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.others--
			if c.users[uid]--; c.users[uid] == 0 {
				delete(c.users, uid)
			}
		})
	}
	return nil
}
