package durable_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"certagent/store/durable"
	"certagent/store/durable/durabletest"
)

// underUmask runs do for the extremes of the umask. The umask is the process's, so nothing here runs in parallel.
func underUmask(t *testing.T, do func(t *testing.T)) {
	for _, mask := range []int{0, 0o077} {
		t.Run(fmt.Sprintf("umask %03o", mask), func(t *testing.T) {
			old := syscall.Umask(mask)
			defer syscall.Umask(old)
			do(t)
		})
	}
}

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var ns []string
	for _, e := range entries {
		ns = append(ns, e.Name())
	}
	return ns
}

func TestWriteFileSetsTheModeWhateverTheUmask(t *testing.T) {
	underUmask(t, func(t *testing.T) {
		dir := t.TempDir()
		for _, m := range []fs.FileMode{0o600, 0o640, 0o644} {
			path := filepath.Join(dir, m.String())
			for _, text := range []string{"first", "second"} {
				if err := durable.WriteFile(durable.OS{}, path, []byte(text), durable.Mode(m)); err != nil {
					t.Fatal(err)
				}
				if got := read(t, path); got != text || mode(t, path) != m {
					t.Errorf("%s: %q with mode %v, want %q with %v", path, got, mode(t, path), text, m)
				}
			}
		}
		sub := filepath.Join(dir, "a", "b")
		if err := durable.MkdirAll(durable.OS{}, sub, durable.Mode(0o755)); err != nil {
			t.Fatal(err)
		}
		for _, d := range []string{sub, filepath.Dir(sub)} {
			if got := mode(t, d); got != 0o755|fs.ModeDir {
				t.Errorf("%s has mode %v", d, got)
			}
		}
	})
}

// modeBeforeData is a file system that looks at the mode of a file when its first byte is written.
type modeBeforeData struct {
	durable.FS
	modes *[]fs.FileMode
}

type watchedFile struct {
	durable.File
	modes *[]fs.FileMode
}

func (w modeBeforeData) OpenFile(path string, flag int, m fs.FileMode) (durable.File, error) {
	f, err := w.FS.OpenFile(path, flag, m)
	if err != nil {
		return nil, err
	}
	return watchedFile{f, w.modes}, nil
}

func (w watchedFile) Write(p []byte) (int, error) {
	info, err := w.Stat()
	if err != nil {
		return 0, err
	}
	*w.modes = append(*w.modes, info.Mode())
	return w.File.Write(p)
}

func TestWriteFileSetsTheModeBeforeTheFirstByte(t *testing.T) {
	var modes []fs.FileMode
	fsys := modeBeforeData{durable.OS{}, &modes}
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	dir := t.TempDir()
	err := errors.Join(durable.WriteFile(fsys, filepath.Join(dir, "key"), []byte("secret"), durable.Mode(0o600)),
		durable.WriteFile(fsys, filepath.Join(dir, "shared"), []byte("secret"), durable.Mode(0o640)))
	if err != nil || !slices.Equal(modes, []fs.FileMode{0o600, 0o640}) {
		t.Errorf("modes at the first byte: %v, error %v", modes, err)
	}
}

func TestWriteFileRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	aim := filepath.Join(dir, "aim")
	for kind, plant := range map[string]func(path string) error{
		"a symbolic link": func(p string) error { return os.Symlink(aim, p) },
		"a directory":     func(p string) error { return os.Mkdir(p, 0o755) },
		"a FIFO":          func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"a socket": func(p string) error {
			l, err := net.Listen("unix", p)
			if err == nil {
				l.(*net.UnixListener).SetUnlinkOnClose(false)
				err = l.Close()
			}
			return err
		},
	} {
		path := filepath.Join(dir, "target")
		if err := plant(path); err != nil {
			t.Fatal(err)
		}
		before := mode(t, path)
		err := durable.WriteFile(durable.OS{}, path, []byte("x"), durable.Mode(0o600))
		if e, ok := errors.AsType[*durable.KindError](err); !ok || !strings.Contains(e.Error(), kind) {
			t.Errorf("writing over %s: %v", kind, err)
		}
		if _, _, err := durable.ReadFile(durable.OS{}, path, 100); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("reading %s: %v", kind, err)
		}
		if mode(t, path) != before || !slices.Equal(names(t, dir), []string{"target"}) {
			t.Errorf("writing over %s left %v", kind, names(t, dir))
		}
		os.Remove(path)
	}
}

// swapped is a file system on which somebody puts something else in a file's place between the look at it and its opening.
type swapped struct {
	durable.FS
	swap func(path string) error
}

func (s swapped) Lstat(path string) (fs.FileInfo, error) {
	info, err := s.FS.Lstat(path)
	if err == nil {
		err = errors.Join(os.Remove(path), s.swap(path))
	}
	return info, err
}

func TestReadFileLooksAtWhatItOpened(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "aim"), "theirs")
	for kind, swap := range map[string]func(path string) error{
		"a link": func(p string) error { return os.Symlink("aim", p) },
		"a FIFO": func(p string) error { return syscall.Mkfifo(p, 0o600) }, // nobody opens its other end
	} {
		for _, root := range []string{"", dir} {
			path := filepath.Join(dir, "f")
			write(t, path, "ours")
			data, _, err := durable.ReadFile(swapped{durable.OS{Root: root}, swap}, path, 100)
			if err == nil {
				t.Errorf("%s was read below %q: %q", kind, root, data)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestReadFileHasALimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, _, err := durable.ReadFile(durable.OS{}, path, 5); err != nil || string(data) != "12345" {
		t.Errorf("%q, %v", data, err)
	}
	if _, _, err := durable.ReadFile(durable.OS{}, path, 4); err == nil {
		t.Error("no error for a file above the limit")
	}
}

func TestLink(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "live")
	for _, target := range []string{"gen-1", "gen-2"} {
		if err := durable.Link(durable.OS{}, target, path, durable.Mode(0o777)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.Readlink(path); got != target {
			t.Errorf("link to %q, %v, want %q", got, err, target)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	err := durable.Link(durable.OS{}, "gen-3", path, durable.Mode(0o777))
	if _, ok := errors.AsType[*durable.KindError](err); !ok {
		t.Errorf("link over a directory: %v", err)
	}
}

func TestCreateLeavesWhatIsThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := durable.Create(durable.OS{}, path, []byte("old"), durable.Mode(0o600)); err != nil {
		t.Fatal(err)
	}
	if err := durable.Create(durable.OS{}, path, []byte("new"), durable.Mode(0o600)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second time: %v", err)
	}
	if got := read(t, path); got != "old" {
		t.Errorf("now it holds %q", got)
	}
}

// Every call of every writer fails once in every mode. Afterwards the old or the new state is there in full, an error
// was told (the new state is there when none was), and only a dead process leaves temporary names.
func TestEveryCallFails(t *testing.T) {
	big := bytes.Repeat([]byte("x"), 64<<10)
	for _, op := range []struct {
		name string
		do   func(fsys durable.FS, dir string) error
		old  func(t *testing.T, dir string) // prepares
		// state tells "old", "new", or what is wrong
		state func(dir string) string
	}{
		{
			name: "WriteFile",
			old:  func(t *testing.T, dir string) { write(t, filepath.Join(dir, "f"), "old") },
			do: func(fsys durable.FS, dir string) error {
				return durable.WriteFile(fsys, filepath.Join(dir, "f"), big, durable.Mode(0o640))
			},
			state: func(dir string) string {
				data, err := os.ReadFile(filepath.Join(dir, "f"))
				switch {
				case err != nil:
					return err.Error()
				case string(data) == "old":
					return "old"
				case bytes.Equal(data, big):
					return "new"
				}
				return "torn"
			},
		},
		{
			name: "Link",
			old: func(t *testing.T, dir string) {
				if err := os.Symlink("old", filepath.Join(dir, "l")); err != nil {
					t.Fatal(err)
				}
			},
			do: func(fsys durable.FS, dir string) error {
				return durable.Link(fsys, "new", filepath.Join(dir, "l"), durable.Perm{UID: os.Getuid(), GID: -1})
			},
			state: func(dir string) string {
				target, err := os.Readlink(filepath.Join(dir, "l"))
				if err != nil {
					return err.Error()
				}
				return target
			},
		},
		{
			name: "Mkdir",
			old:  func(t *testing.T, dir string) {},
			do: func(fsys durable.FS, dir string) error {
				return durable.Mkdir(fsys, filepath.Join(dir, "d"), durable.Mode(0o751))
			},
			state: func(dir string) string {
				info, err := os.Lstat(filepath.Join(dir, "d"))
				switch {
				case errors.Is(err, fs.ErrNotExist):
					return "old"
				case err == nil && info.Mode() == fs.ModeDir|0o751:
					return "new"
				}
				return "half made"
			},
		},
	} {
		for _, m := range durabletest.Modes {
			visited := 0
			for n := 1; ; n++ {
				dir := t.TempDir()
				op.old(t, dir)
				fsys := durabletest.New(durable.OS{}, n, m)
				err := op.do(fsys, dir)
				if fsys.Fired() == "" {
					if err != nil {
						t.Fatalf("%s without a fault: %v", op.name, err)
					}
					if d, u := fsys.Dirty(), fsys.Unsynced(); len(d)+len(u) > 0 {
						t.Errorf("%s returned before all was synced: %v %v", op.name, d, u)
					}
					break
				}
				visited++
				state := op.state(dir)
				if state != "old" && state != "new" || err == nil && state != "new" {
					t.Errorf("%s, %v at %s: state %q after error %v", op.name, m, fsys.Fired(), state, err)
				}
				// Only a call that opened and said it did not leaves a name behind, and a process that died.
				if m == durabletest.Fail && slices.ContainsFunc(names(t, dir), durable.IsTemp) {
					t.Errorf("%s, %v at %s: left %v", op.name, m, fsys.Fired(), names(t, dir))
				}
				if u := fsys.Unsynced(); len(u) > 0 {
					t.Errorf("%s, %v at %s: renamed %v", op.name, m, fsys.Fired(), u)
				}
			}
			t.Logf("%s, %v: %d fault points", op.name, m, visited)
			if visited < 4 {
				t.Errorf("%s, %v: only %d fault points", op.name, m, visited)
			}
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
}

func TestTempNames(t *testing.T) {
	a, b := durable.TempName("/d/key.pem"), durable.TempName("/d/key.pem")
	if a == b || filepath.Dir(a) != "/d" || !durable.IsTemp(filepath.Base(a)) {
		t.Errorf("%s and %s", a, b)
	}
	for _, name := range []string{"", "key.pem", ".certagent-.tmp", ".certagent-x.tmp", "gen-000001.tmp",
		".certagent-" + strings.Repeat("a", 26) + ".tmp", strings.Repeat("A", 26)} {
		if durable.IsTemp(name) {
			t.Errorf("%q is taken for a temporary name", name)
		}
	}
}

func TestTempNamesOfOnePath(t *testing.T) {
	tmp := filepath.Base(durable.TempName("/d/key.pem"))
	for path, want := range map[string]bool{"/d/key.pem": true, "/d/cert.pem": false, "/d/x": false} {
		if durable.IsTempOf(tmp, path) != want {
			t.Errorf("%s is of %s: %v", tmp, path, !want)
		}
	}
	if durable.IsTempOf("key.pem", "/d/key.pem") || durable.IsTempOf(tmp+"x", "/d/key.pem") {
		t.Error("a name that is no temporary one is taken for one")
	}
}

// givenAway is a file system as a process sees it that has CAP_CHOWN and not CAP_FOWNER: a file that belongs to another
// user takes no mode any more. It notes what is done.
type givenAway struct {
	durable.FS
	calls *[]string
}

type givenAwayFile struct {
	durable.File
	calls *[]string
	gone  bool
}

func (g givenAway) OpenFile(path string, flag int, m fs.FileMode) (durable.File, error) {
	f, err := g.FS.OpenFile(path, flag, m)
	if err != nil || flag&os.O_CREATE == 0 {
		return f, err
	}
	return &givenAwayFile{File: f, calls: g.calls}, nil
}

func (g *givenAwayFile) Chown(uid, gid int) error {
	*g.calls = append(*g.calls, fmt.Sprintf("chown %d:%d", uid, gid))
	g.gone = g.gone || uid >= 0
	return nil
}

func (g *givenAwayFile) Chmod(m fs.FileMode) error {
	*g.calls = append(*g.calls, fmt.Sprintf("chmod %04o", m))
	if g.gone {
		return syscall.EPERM
	}
	return g.File.Chmod(m)
}

func TestTheOwnerIsGivenLast(t *testing.T) {
	var calls []string
	err := durable.WriteFile(givenAway{durable.OS{}, &calls}, filepath.Join(t.TempDir(), "key"), []byte("x"),
		durable.Perm{Mode: 0o640, UID: 4711, GID: 4712})
	if want := []string{"chown -1:4712", "chmod 0640", "chown 4711:-1"}; err != nil || !slices.Equal(calls, want) {
		t.Errorf("%q, %v, want %q", calls, err, want)
	}
}

// noModes is a file system that has no modes, and does not say so.
type noModes struct{ durable.FS }

type noModesFile struct{ durable.File }

func (n noModes) OpenFile(path string, flag int, m fs.FileMode) (durable.File, error) {
	if flag&os.O_CREATE != 0 {
		m = 0o644
	}
	f, err := n.FS.OpenFile(path, flag, m)
	if err != nil {
		return nil, err
	}
	return noModesFile{f}, nil
}

func (noModesFile) Chmod(fs.FileMode) error { return nil }

func TestNothingIsWrittenWhereModesDoNotHold(t *testing.T) {
	dir := t.TempDir()
	err := durable.WriteFile(noModes{durable.OS{}}, filepath.Join(dir, "key"), []byte("secret"), durable.Mode(0o600))
	if err == nil || !strings.Contains(err.Error(), "mode 0644, not 0600") {
		t.Errorf("error %v", err)
	}
	if ns := names(t, dir); len(ns) > 0 {
		t.Errorf("it left %v", ns)
	}
}

func TestRemoveTreeFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	kept := filepath.Join(dir, "kept")
	tree := filepath.Join(dir, "tree", "sub")
	err := errors.Join(os.Mkdir(kept, 0o700), os.MkdirAll(tree, 0o700), os.Symlink(kept, filepath.Join(tree, "link")))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(kept, "f"), "still here")
	for range 2 { // the second time there is nothing
		if err := durable.RemoveTree(durable.OS{}, filepath.Dir(tree)); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, filepath.Join(kept, "f")); got != "still here" || len(names(t, dir)) != 1 {
		t.Errorf("%q, %v", got, names(t, dir))
	}
}

func TestRootIsNotLeft(t *testing.T) {
	outside := t.TempDir()
	write(t, filepath.Join(outside, "f"), "theirs")
	root := filepath.Join(t.TempDir(), "root")
	if err := durable.Mkdir(durable.OS{Root: root}, root, durable.Mode(0o755)); err != nil {
		t.Fatal(err)
	}
	fsys := durable.OS{Root: root}
	if err := fsys.Symlink(outside, filepath.Join(root, "out")); err != nil {
		t.Fatal(err)
	}
	in := filepath.Join(root, "out", "f")
	for name, err := range map[string]error{
		"write":  durable.WriteFile(fsys, in, []byte("ours"), durable.Mode(0o600)),
		"create": durable.Create(fsys, in+"2", nil, durable.Mode(0o600)),
		"mkdir":  durable.Mkdir(fsys, filepath.Join(root, "out", "d"), durable.Mode(0o700)),
		"link":   durable.Link(fsys, "x", filepath.Join(root, "out", "l"), durable.Mode(0o777)),
		"remove": fsys.Remove(in),
		"chown":  fsys.Lchown(in, os.Getuid(), -1),
		"swap":   fsys.Exchange(in, filepath.Join(root, "out", "g")),
		"rename": fsys.Rename(filepath.Join(root, "out"), filepath.Join(outside, "out")),
		"up":     durable.WriteFile(fsys, root+"/../up", nil, durable.Mode(0)),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if got := names(t, outside); !slices.Equal(got, []string{"f"}) || read(t, filepath.Join(outside, "f")) != "theirs" {
		t.Errorf("outside there is %v now", got)
	}
	// What was planted is still removed itself.
	if err := durable.RemoveTree(fsys, filepath.Join(root, "out")); err != nil {
		t.Error(err)
	}
}

func TestExchange(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write(t, a, "A")
	write(t, b, "B")
	if err := (durable.OS{Root: dir}).Exchange(a, b); err != nil {
		t.Fatal(err)
	}
	if read(t, a) != "B" || read(t, b) != "A" {
		t.Error("not exchanged")
	}
}

func TestOneHoldsTheLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	acquire := func() (*durable.Lock, error) { return durable.Acquire(durable.OS{}, path, durable.Mode(0o644)) }
	first, err := acquire()
	if err != nil {
		t.Fatal(err)
	}
	_, err = acquire()
	if e, ok := errors.AsType[*durable.LockedError](err); !ok || e.PID != os.Getpid() {
		t.Fatalf("second holder: %v", err)
	}
	if !first.Held() {
		t.Error("the holder does not think so")
	}
	// Somebody removes the file: the holder notices, and the name can be locked anew.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if first.Held() {
		t.Error("a removed lock still counts as held")
	}
	second, err := acquire()
	if err != nil {
		t.Fatal(err)
	}
	if first.Held() || !second.Held() {
		t.Error("who holds the lock?")
	}
	if err := errors.Join(first.Release(), second.Release()); err != nil {
		t.Error(err)
	}
	third, err := acquire()
	if err != nil {
		t.Fatal(err)
	}
	third.Release()
}

// TestALockOfTheDead: what a process had just forked when it was killed holds its lock until it executes its program.
func TestALockOfTheDead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, fmt.Appendf(nil, "%19d\n", dead.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	orphan, err := os.Open(path)
	if err == nil {
		err = syscall.Flock(int(orphan.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	l, err := durable.Acquire(letsGo{durable.OS{}, orphan}, path, durable.Mode(0o600))
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
}

// letsGo is a file system on which orphan is closed once the lock file has been found locked twice.
type letsGo struct {
	durable.FS
	orphan *os.File
}

type letsGoFile struct {
	durable.File
	looks  int
	orphan *os.File
}

func (l letsGo) OpenFile(path string, flag int, m fs.FileMode) (durable.File, error) {
	f, err := l.FS.OpenFile(path, flag, m)
	return &letsGoFile{f, 0, l.orphan}, err
}

func (f *letsGoFile) Fd() uintptr {
	if f.looks++; f.looks == 5 { // exclusive, shared, whose is it; exclusive, shared
		f.orphan.Close()
	}
	return f.File.Fd()
}

// TestALockThatWasReleasedIsFree: also where a program that its holder is starting has the descriptor still.
func TestALockThatWasReleasedIsFree(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	var forked []int
	l, err := durable.Acquire(forks{durable.OS{}, &forked}, path, durable.Mode(0o600))
	defer func() {
		for _, fd := range forked {
			syscall.Close(fd)
		}
	}()
	if err == nil {
		err = l.Release()
	}
	if err != nil || len(forked) == 0 {
		t.Fatalf("%v, %d descriptors", err, len(forked))
	}
	next, err := durable.Acquire(durable.OS{}, path, durable.Mode(0o600))
	if err != nil {
		t.Fatal(err)
	}
	next.Release()
}

// forks is a file system each of whose files is open a second time, as in a process that was forked.
type forks struct {
	durable.FS
	descriptors *[]int
}

func (f forks) OpenFile(path string, flag int, m fs.FileMode) (durable.File, error) {
	file, err := f.FS.OpenFile(path, flag, m)
	if err == nil {
		var fd int
		fd, err = syscall.Dup(int(file.Fd()))
		*f.descriptors = append(*f.descriptors, fd)
	}
	return file, err
}

// TestALockIsNotLeftOpenToOthers: whoever may open the file may lock it, and keep everybody else from doing so.
func TestALockIsNotLeftOpenToOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := durable.Acquire(durable.OS{}, path, durable.Mode(0o600))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// removing is a file system on which somebody removes the first lock file that is opened, just after.
type removing struct {
	durable.FS
	done *bool
}

func (r removing) OpenFile(path string, flag int, m fs.FileMode) (durable.File, error) {
	f, err := r.FS.OpenFile(path, flag, m)
	if err == nil && flag&os.O_CREATE == 0 && !*r.done {
		*r.done, err = true, os.Remove(path)
	}
	return f, err
}

func TestALockThatIsTakenIsTheOneThatIsThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := durable.Acquire(removing{durable.OS{}, new(bool)}, path, durable.Mode(0o644))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Release()
	if _, err := durable.Acquire(durable.OS{}, path, durable.Mode(0o644)); err == nil {
		t.Error("somebody else has the lock, too")
	}
}

// A try that fails as the one before says the same, so that it can be told to be no news.
func TestErrorsAreTheSameAtEachTry(t *testing.T) {
	dir := t.TempDir()
	full := &durabletest.Disk{FS: durable.OS{}, Err: syscall.ENOSPC}
	full.Shut.Store(true)
	for name, try := range map[string]func() error{
		"WriteFile": func() error { return durable.WriteFile(full, filepath.Join(dir, "f"), nil, durable.Mode(0o644)) },
		"Mkdir":     func() error { return durable.Mkdir(full, filepath.Join(dir, "d"), durable.Mode(0o755)) },
	} {
		a, b := try(), try()
		if !errors.Is(a, syscall.ENOSPC) || a.Error() != b.Error() || !strings.Contains(a.Error(), dir) {
			t.Errorf("%s: %v, then %v", name, a, b)
		}
	}
}
