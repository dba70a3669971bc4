package store

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Held reports whether an agent holds the state directory dir. It asks the kernel, so that it cannot be deceived by
// what a dead agent left in the lock file. The question takes a shared lock for an instant, which [Open] does not
// mistake for an agent. Who may not open the lock (nobody but its owner may, lest a stranger's lock keeps an agent from
// starting) is answered from the list of all locks, proc_locks(5).
func Held(dir string) (bool, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, fs.ErrPermission):
		held, err := listed(path)
		if err != nil {
			return false, fmt.Errorf("look for a running agent: %w", err)
		}
		return held, nil
	case err != nil:
		return false, fmt.Errorf("look for a running agent: %w", err)
	}
	defer f.Close()
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("look for a running agent: %w", err)
	}
	return false, nil
}

// listed reports whether the kernel's list of locks has an exclusive flock(2) on the file at path. A line of it is
//
//	1: FLOCK  ADVISORY  WRITE 30284 fe:00:10183524 0 EOF
//
// with the file as major:minor:inode. A lock that is waited for has an arrow after its number.
func listed(path string) (bool, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return false, err
	}
	st := info.Sys().(*syscall.Stat_t)
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	list, err := os.Open("/proc/locks")
	if err != nil {
		return false, err
	}
	defer list.Close()
	lines := bufio.NewScanner(list)
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) > 5 && f[1] == "FLOCK" && f[3] == "WRITE" && f[5] == file {
			return true, nil
		}
	}
	return false, lines.Err()
}

// Foreign tells that dir is there, and that no agent has made it its state directory. Of one that may not be looked into it is not
// known.
func Foreign(dir string) bool {
	if _, err := os.Stat(dir); err != nil {
		return false
	}
	for _, name := range []string{"lock", "certs"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}
