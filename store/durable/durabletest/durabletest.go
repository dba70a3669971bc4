// Package durabletest breaks a file system on purpose: it makes the n-th call fail, and notes what is renamed before it
// is synced. It is for tests of what writes through [durable.FS] and must not be linked into a program.
package durabletest

import (
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"certagent/store/durable"
)

// Mode is how the n-th call fails, and which calls are counted.
type Mode int

// The modes. In all but the last the call returns EIO.
const (
	// Fail: the call does nothing. All calls count, reads and closes too.
	Fail Mode = iota
	// Lie: the call works, and says it failed. Only calls that change something, and syncs, count.
	Lie
	// Stop: neither this call nor any later one does anything, as if the process had died before it, which is after the
	// one before. Only calls that change something, and syncs, count: between two of them the disk is the same.
	Stop
	// Kill: the process dies for real, by SIGKILL, where Stop would pretend to. It is for child processes of a test, and
	// not among Modes.
	Kill
)

// Modes are all that a test can use on itself.
var Modes = [...]Mode{Fail, Lie, Stop}

func (m Mode) String() string { return [...]string{"fail", "lie", "stop", "kill"}[m] }

// FS is a [durable.FS] whose n-th call fails. It is safe for concurrent use.
type FS struct {
	base durable.FS
	mode Mode

	mu       sync.Mutex      // guards what follows
	at       int             // the call that fails
	calls    int             // so far
	last     string          // the call that failed
	dead     bool            // later calls do nothing
	dirty    map[string]bool // files and directories changed and not synced
	names    map[string]bool // names that came since their directory was synced
	unsynced []string        // what was renamed while dirty
}

// New makes call number at of base fail, counted from 1; 0 makes none fail.
func New(base durable.FS, at int, mode Mode) *FS {
	return &FS{base: base, at: at, mode: mode, dirty: map[string]bool{}, names: map[string]bool{}}
}

// Arm begins to count anew: call number at from now on fails, whatever was to fail before. 0 disarms it.
func (f *FS) Arm(at int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at, f.calls, f.last = at, 0, ""
}

// Restart is a new process on the same disk, in which nothing fails: what was not synced is not synced still, and may be
// lost to a power cut as before.
func (f *FS) Restart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at, f.dead = 0, false
}

// Fired is the call that failed, empty if there were too few.
func (f *FS) Fired() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// Dirty are the paths, sorted, whose last change has not been synced. A directory is changed by what happens to names
// in it.
func (f *FS) Dirty() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.dirty))
}

// Names are the names, sorted, that came since their directory was synced: a power cut may take them away.
func (f *FS) Names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.names))
}

// Unsynced says what was renamed before it, or something in it, had been synced; or was a link to a name that had not.
func (f *FS) Unsynced() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.unsynced)
}

// read counts a call that changes nothing.
func (f *FS) read(op, path string, real func() error) error {
	return f.call(op, path, f.mode == Fail, real, nil)
}

// change counts a call that changes something or syncs it. After one that worked then is told, under the lock.
func (f *FS) change(op, path string, real func() error, then func()) error {
	return f.call(op, path, true, real, then)
}

func (f *FS) call(op, path string, counts bool, real func() error, then func()) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	works, fail := f.strike(op, path, counts)
	if !works {
		return fail
	}
	err := real()
	if err == nil && then != nil {
		then()
	}
	if fail != nil {
		return fail
	}
	return err
}

// strike counts a call, and tells whether it works and what it says it failed of; nil is what it says of itself. f.mu is
// held.
func (f *FS) strike(op, path string, counts bool) (works bool, fail error) {
	fail = &fs.PathError{Op: op, Path: path, Err: syscall.EIO}
	if f.dead {
		return false, fail
	}
	if counts {
		f.calls++
	}
	if !counts || f.calls != f.at {
		return true, nil
	}
	f.last = fmt.Sprintf("%d: %s %s", f.calls, op, path)
	switch f.mode {
	case Kill:
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL) // nothing can be said any more
		select {}
	case Stop:
		f.dead = true
	}
	return f.mode == Lie, fail
}

// Do counts what is done beside the file system, a request to a server for example, as one more call, and does it as far
// as the mode lets it. The error is of a fault alone; what do finds out it keeps for itself. Other calls may be made
// meanwhile, also by do.
func (f *FS) Do(op, about string, do func()) error {
	f.mu.Lock()
	works, fail := f.strike(op, about, true)
	f.mu.Unlock()
	if works {
		do()
	}
	return fail
}

func (f *FS) soil(paths ...string) func() {
	return func() {
		for _, p := range paths {
			f.dirty[p] = true
		}
	}
}

// named notes a new name, made a new file or directory.
func (f *FS) named(path string) func() {
	return func() { f.names[path], f.dirty[filepath.Dir(path)] = true, true }
}

func (f *FS) made(path string) func() {
	return func() { f.named(path)(); f.soil(path)() }
}

// OpenFile implements [durable.FS].
func (f *FS) OpenFile(path string, flag int, mode fs.FileMode) (durable.File, error) {
	var file durable.File
	open := func() (err error) {
		file, err = f.base.OpenFile(path, flag, mode)
		return err
	}
	var err error
	if flag&syscall.O_CREAT != 0 {
		err = f.change("create", path, open, f.made(path))
	} else {
		err = f.read("open", path, open)
	}
	if err != nil {
		if file != nil {
			file.Close()
		}
		return nil, err
	}
	return &openFile{file, f, path}, nil
}

// Mkdir implements [durable.FS].
func (f *FS) Mkdir(path string, mode fs.FileMode) error {
	return f.change("mkdir", path, func() error { return f.base.Mkdir(path, mode) }, f.made(path))
}

// Rename implements [durable.FS].
func (f *FS) Rename(from, to string) error {
	return f.change("rename", from+" "+to, func() error { return f.base.Rename(from, to) }, f.moved(from, to))
}

// Exchange implements [durable.FS].
func (f *FS) Exchange(a, b string) error {
	return f.change("exchange", a+" "+b, func() error { return f.base.Exchange(a, b) }, f.moved(a, b))
}

func (f *FS) moved(from, to string) func() {
	return func() {
		for p := range f.dirty {
			if p == from || strings.HasPrefix(p, from+"/") {
				f.unsynced = append(f.unsynced, fmt.Sprintf("%s before %s was synced", to, p))
				delete(f.dirty, p)
			}
		}
		if target, err := f.base.Readlink(to); err == nil && f.names[filepath.Join(filepath.Dir(to), target)] {
			f.unsynced = append(f.unsynced, fmt.Sprintf("%s before the name %s was synced", to, target))
		}
		delete(f.names, from)
		f.soil(filepath.Dir(from))()
		f.named(to)()
	}
}

// Symlink implements [durable.FS].
func (f *FS) Symlink(target, path string) error {
	return f.change("symlink", path, func() error { return f.base.Symlink(target, path) }, f.named(path))
}

// Readlink implements [durable.FS].
func (f *FS) Readlink(path string) (target string, err error) {
	err = f.read("readlink", path, func() (err error) { target, err = f.base.Readlink(path); return err })
	return target, err
}

// Lstat implements [durable.FS].
func (f *FS) Lstat(path string) (info fs.FileInfo, err error) {
	err = f.read("lstat", path, func() (err error) { info, err = f.base.Lstat(path); return err })
	return info, err
}

// Lchown implements [durable.FS].
func (f *FS) Lchown(path string, uid, gid int) error {
	return f.change("lchown", path, func() error { return f.base.Lchown(path, uid, gid) }, nil)
}

// Remove implements [durable.FS]. The directory does not count as dirty for it: what a crash brings back was not
// needed, or had its name taken away by a rename before.
func (f *FS) Remove(path string) error {
	return f.change("remove", path, func() error { return f.base.Remove(path) }, func() { delete(f.dirty, path); delete(f.names, path) })
}

// openFile is a file of an FS. What is not overridden here does not fail: Fd.
type openFile struct {
	durable.File
	fs   *FS
	path string
}

func (o *openFile) Read(p []byte) (n int, err error) {
	// The end of a file is no error of the call.
	var end error
	err = o.fs.read("read", o.path, func() error { n, end = o.File.Read(p); return nil })
	if err == nil {
		err = end
	}
	return n, err
}

func (o *openFile) Write(p []byte) (n int, err error) {
	err = o.fs.change("write", o.path, func() (err error) { n, err = o.File.Write(p); return err }, o.fs.soil(o.path))
	return n, err
}

func (o *openFile) Stat() (info fs.FileInfo, err error) {
	err = o.fs.read("fstat", o.path, func() (err error) { info, err = o.File.Stat(); return err })
	return info, err
}

func (o *openFile) ReadDir(n int) (entries []fs.DirEntry, err error) {
	err = o.fs.read("readdir", o.path, func() (err error) { entries, err = o.File.ReadDir(n); return err })
	return entries, err
}

func (o *openFile) Chmod(mode fs.FileMode) error {
	return o.fs.change("fchmod", o.path, func() error { return o.File.Chmod(mode) }, o.fs.soil(o.path))
}

func (o *openFile) Chown(uid, gid int) error {
	return o.fs.change("fchown", o.path, func() error { return o.File.Chown(uid, gid) }, o.fs.soil(o.path))
}

func (o *openFile) Sync() error {
	return o.fs.change("fsync", o.path, o.File.Sync, func() {
		delete(o.fs.dirty, o.path)
		maps.DeleteFunc(o.fs.names, func(name string, _ bool) bool { return filepath.Dir(name) == o.path })
	})
}

// Close closes the file even when it says that it did not: a dead process has no files open.
func (o *openFile) Close() error {
	var err error
	fail := o.fs.read("close", o.path, func() error { err = o.File.Close(); return err })
	if err == nil && fail != nil {
		o.File.Close()
	}
	return fail
}

// NoSync is a file system that syncs nothing, which saves a sweep most of its time: what a sync does cannot be seen
// without cutting the power. That they are made, and when, is what [FS] watches.
type NoSync struct{ durable.FS }

// OpenFile implements [durable.FS].
func (n NoSync) OpenFile(path string, flag int, mode fs.FileMode) (durable.File, error) {
	f, err := n.FS.OpenFile(path, flag, mode)
	if err != nil {
		return nil, err
	}
	return noSyncFile{f}, nil
}

type noSyncFile struct{ durable.File }

func (noSyncFile) Sync() error { return nil }
