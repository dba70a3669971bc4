package check

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"certagent/agent/status"
)

// unsafe tells that a problem is that the state directory is not safe, which state tells.
func (p *probes) unsafe(problem *status.Problem) bool {
	if problem.Code != "store" || p.Store == nil {
		return false
	}
	err := p.Store.Safe()
	return err != nil && strings.HasSuffix(problem.Text, err.Error())
}

// state judges the state directory.
func (p *probes) state() []*Result {
	const id, space = "state-permissions", "state-space"
	if r, is := unseen(id, p.StateDir, p.StoreError); is {
		return []*Result{r}
	}
	switch {
	case errors.Is(p.StoreError, fs.ErrNotExist):
		return []*Result{skipped(id, p.StateDir, "there is none yet: the agent makes it when it starts")}
	case errors.Is(p.StoreError, os.ErrDeadlineExceeded):
		return []*Result{failed(id, p.StateDir, p.StoreError.Error(), findHanging)}
	case p.StoreError != nil:
		return []*Result{failed(id, p.StateDir, p.StoreError.Error(), "it must be a directory that belongs to the user that the agent runs as, and in which nobody else may write")}
	}
	if err := p.Store.Safe(); err != nil {
		return []*Result{failed(id, p.StateDir, err.Error(), "look at the state directory's owner and mode")}
	}
	w, err := look(p.Store.Dir())
	if err != nil {
		return []*Result{failed(id, p.StateDir, err.Error(), "")}
	}
	r, blocked := p.User.entered(id, p.StateDir, w)
	switch {
	case blocked:
	case !p.User.may(w.End, Write) || !p.User.may(w.End, Enter):
		r = failed(id, p.StateDir, fmt.Sprintf("user %s may not write in %s", p.User.Name, w.End),
			fmt.Sprintf("chown -R %s: %s", p.User.Name, p.StateDir))
	default:
		r = ok(id, p.StateDir, fmt.Sprintf("user %s can write in it, and nobody else", p.User.Name))
		if who := p.User.others(w.End, Write, -1); who != "" {
			r = failed(id, p.StateDir, fmt.Sprintf("%s may write %s", who, w.End), "chmod go-w "+p.StateDir)
		} else if f, is := p.User.barred(p.Store.Dir()); is {
			r = failed(id, p.StateDir, fmt.Sprintf("user %s may not change %s", p.User.Name, f), "chown -R "+p.User.Name+": "+p.StateDir)
		}
	}
	var s unix.Statfs_t
	if err := unix.Statfs(p.Store.Dir(), &s); err != nil {
		return []*Result{r, skipped(space, p.StateDir, fmt.Sprintf("find free space: %v", err))}
	}
	return []*Result{r, spaceOf(space, p.StateDir, room{
		bytes: uint64(s.Bavail) * uint64(s.Bsize), inodes: s.Ffree, counted: s.Files > 0, readOnly: s.Flags&unix.ST_RDONLY != 0,
	})}
}

// room is what is left on a file system.
type room struct {
	bytes, inodes uint64
	counted       bool // inodes are
	readOnly      bool
}

// spaceOf judges it: one generation and what surrounds its making are some 64 KiB in 20 files.
func spaceOf(id, subject string, left room) *Result {
	const little, files = 1 << 20, 100
	switch {
	case left.readOnly:
		return failed(id, subject, "its file system is mounted read-only", "find out why (dmesg; findmnt -T "+subject+
			"), and mount it for writing again (mount -o remount,rw)")
	case left.bytes < little/16:
		return failed(id, subject, fmt.Sprintf("its file system has %d bytes left", left.bytes), "make room: a renewal may find none")
	case left.counted && left.inodes < files/5:
		return failed(id, subject, fmt.Sprintf("its file system has room for %d files", left.inodes), "remove some: a renewal needs 20")
	case left.bytes < little || left.counted && left.inodes < files:
		return warning(id, subject, fmt.Sprintf("its file system has %d KiB left", left.bytes>>10), "make room before a renewal finds none")
	}
	return ok(id, subject, fmt.Sprintf("there is room (%d MiB)", left.bytes>>20))
}

// key judges the file of a live private key.
func (p *probes) key(path, group string) *Result {
	const id = "key-permissions"
	w, err := look(path)
	if r, is := unseen(id, path, err); is {
		return r
	}
	if err != nil {
		return failed(id, path, err.Error(), "nothing by hand: the agent has it issued anew")
	}
	gid := -1
	if group != "" {
		gid = groupID(group)
	}
	if who := p.User.others(w.End, Read|Write, gid); who != "" {
		return failed(id, path, fmt.Sprintf("%s may read or write %s", who, w.End),
			"chmod 0600 "+path+", and have a new key: certagent renew --new-key")
	}
	if !p.User.may(w.End, Read) {
		return failed(id, path, fmt.Sprintf("user %s may not read %s", p.User.Name, w.End), "chown "+p.User.Name+" "+path)
	}
	return ok(id, path, w.End.Mode.String()+" "+w.End.Owners)
}
