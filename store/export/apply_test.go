package export_test

import (
	"errors"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"certagent/store/durable"
	"certagent/store/durable/durabletest"
	"certagent/store/export"
)

// Whatever happens to a file: the next look says so, the next Apply makes it right, and the others are left alone.
func TestDrift(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(path string) error
		want   string // in Drift
	}{
		{"gone", os.Remove, "is not there"},
		{"cut off", func(p string) error { return os.Truncate(p, 10) }, "holds something else"},
		{"one byte", func(p string) error {
			data, err := os.ReadFile(p)
			data[len(data)/2] ^= 1
			return errors.Join(err, os.WriteFile(p, data, 0))
		}, "holds something else"},
		{"longer", func(p string) error {
			data, err := os.ReadFile(p)
			return errors.Join(err, os.WriteFile(p, append(data, '\n'), 0))
		}, "holds something else"},
		{"wider", func(p string) error { return os.Chmod(p, 0o666) }, "has mode 0666"},
		{"narrower", func(p string) error { return os.Chmod(p, 0o400) }, "has mode 0400"},
		{"set-uid", func(p string) error { return os.Chmod(p, fs.ModeSetuid|0o700) }, "has mode 4700"},
		{"another in its place", func(p string) error {
			return errors.Join(os.Remove(p), os.WriteFile(p, []byte("mine"), 0o600))
		}, "holds something else"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			_, pair := issuing(t)
			set := export.Set{Pair: pair, Outputs: outputs(dir, allFormats...)}
			w := writer(nil)
			first := w.Apply(set, nil)
			settled(t, first)
			before := contents(t, dir)
			for i, o := range set.Outputs {
				if o.Format == export.Chain && c.name == "cut off" {
					continue
				}
				must(t, c.change(o.Path))
				for _, known := range []map[string]export.Mark{marks(first), nil} {
					for j, r := range w.Check(set, known) {
						if j == i && (!strings.Contains(r.Drift, c.want) || r.Settled() || r.Written || r.Err != nil) {
							t.Errorf("%s: drift %q, %v, want %q", o.Format, r.Drift, r.Err, c.want)
						} else if j != i && (r.Drift != "" || r.Settled() != (known != nil)) {
							t.Errorf("%s: drift %q in %s", o.Format, r.Drift, r.Path)
						}
					}
				}
				inode := lstat(t, set.Outputs[(i+1)%len(allFormats)].Path)
				again := w.Apply(set, marks(first))
				if n := settled(t, again); n != 1 || !again[i].Written || again[i].Drift == "" {
					t.Errorf("%s: %d written: %+v", o.Format, n, again[i])
				}
				if !os.SameFile(inode, lstat(t, set.Outputs[(i+1)%len(allFormats)].Path)) {
					t.Errorf("%s: its neighbour was written too", o.Format)
				}
				if lstat(t, o.Path).Mode() != o.Mode {
					t.Errorf("%s has mode %v", o.Format, lstat(t, o.Path).Mode())
				}
				first = again
			}
			if after := contents(t, dir); len(after) != len(before) || after["combined"] != before["combined"] {
				t.Errorf("files %q", after)
			}
		})
	}
}

// A mode or an owner that the configuration changed is drift as well.
func TestAnotherModeIsAsked(t *testing.T) {
	dir := t.TempDir()
	_, pair := issuing(t)
	set := export.Set{Pair: pair, Outputs: outputs(dir, export.Key)}
	w := writer(nil)
	first := w.Apply(set, nil)
	set.Outputs[0].Mode = 0o640
	old := lstat(t, set.Outputs[0].Path)
	if c := w.Check(set, marks(first))[0]; c.Settled() || c.Drift == "" {
		t.Errorf("a check finds %+v", c)
	}
	r := w.Apply(set, marks(first))
	settled(t, w.Check(set, marks(r)))
	if settled(t, r) != 1 || lstat(t, set.Outputs[0].Path).Mode() != 0o640 || r[0].Drift != "has mode 0600, not 0640" {
		t.Errorf("%+v", r)
	}
	if os.SameFile(old, lstat(t, set.Outputs[0].Path)) {
		t.Error("the mode was changed in place, where a reader could have the file open")
	}
}

// reads counts what is opened for reading.
type reads struct {
	durable.FS
	opened *[]string
}

func (r reads) OpenFile(path string, flag int, m fs.FileMode) (durable.File, error) {
	if flag&(os.O_CREATE|durable.Directory) == 0 {
		*r.opened = append(*r.opened, path)
	}
	return r.FS.OpenFile(path, flag, m)
}

func TestWhatIsKnownIsNotRead(t *testing.T) {
	dir := t.TempDir()
	_, pair := issuing(t)
	var opened []string
	w := writer(reads{durable.OS{}, &opened})
	set := export.Set{Pair: pair, Outputs: outputs(dir, allFormats...)}
	first := w.Apply(set, nil)
	if opened = nil; settled(t, w.Check(set, marks(first))) != 0 || len(opened) > 0 {
		t.Errorf("a check read %q", opened)
	}
	if settled(t, w.Apply(set, marks(first))) != 0 || len(opened) > 0 {
		t.Errorf("Apply read %q, or wrote what was right", opened)
	}
	// Touched, it is read, found right, and known again.
	must(t, os.Chtimes(set.Outputs[0].Path, epoch, epoch))
	r := w.Check(set, marks(first))
	if r[0].Settled() || r[0].Drift != "" || len(opened) != 1 {
		t.Errorf("%+v after reading %q", r[0], opened)
	}
	r = w.Apply(set, marks(first))
	if settled(t, r) != 0 || r[0].Mark == first[0].Mark {
		t.Errorf("%+v", r[0])
	}
	// The next pair makes all marks worthless.
	_, set.Pair = issuing(t)
	if n := settled(t, w.Apply(set, marks(r))); n != len(allFormats) {
		t.Errorf("%d of a new pair written", n)
	}
}

func TestMarksTellNothing(t *testing.T) {
	dir := t.TempDir()
	_, pair := issuing(t)
	outs := outputs(dir, export.PKCS12)
	outs[0].Password = secret("geheim")
	mark := string(writer(nil).Apply(export.Set{Pair: pair, Outputs: outs}, nil)[0].Mark)
	if mark == "" || strings.Contains(mark, "geheim") || len(mark) > 120 {
		t.Errorf("mark %q", mark)
	}
}

// A mark fits the file it was taken of until somebody does anything to it.
func TestMarkFits(t *testing.T) {
	for name, touch := range map[string]func(path string) error{
		"mode":     func(path string) error { return os.Chmod(path, 0o600) },
		"written":  func(path string) error { return os.WriteFile(path, []byte("x"), 0o644) },
		"replaced": func(path string) error { return errors.Join(os.Rename(path, path+"~"), os.WriteFile(path, nil, 0o644)) },
		"linked":   func(path string) error { return os.Link(path, path+"~") },
	} {
		dir := t.TempDir()
		_, pair := issuing(t)
		set := export.Set{Pair: pair, Outputs: outputs(dir, export.Cert)}
		path, mark := set.Outputs[0].Path, writer(nil).Apply(set, nil)[0].Mark
		before := lstat(t, path)
		if !mark.Fits(before) || export.Mark("").Fits(before) {
			t.Errorf("%s: %q fits %v", name, mark, mark.Fits(before))
		}
		// The kernel's clock for files is coarse: until it has moved on, a change may leave the time as it was.
		for deadline := time.Now().Add(10 * time.Second); mark.Fits(lstat(t, path)); {
			must(t, touch(path))
			if time.Now().After(deadline) {
				t.Fatalf("%s: the mark still fits", name)
			}
			if name == "linked" {
				must(t, os.Remove(path+"~"))
			}
		}
	}
}

func TestWhatIsNoFileIsRefused(t *testing.T) {
	aim := filepath.Join(t.TempDir(), "aim")
	must(t, os.WriteFile(aim, []byte("theirs"), 0o600))
	for name, plant := range map[string]func(path string) error{
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
		dir := t.TempDir()
		_, pair := issuing(t)
		set := export.Set{Pair: pair, Outputs: outputs(dir, export.Combined, export.Fullchain)}
		must(t, plant(set.Outputs[0].Path))
		before := lstat(t, set.Outputs[0].Path)
		refused(t, writer(nil).Check(set, nil)[0].Err, "is "+name, "remove it")
		refused(t, writer(nil).Apply(set, nil)[0].Err, "is "+name, "remove it")
		if !os.SameFile(before, lstat(t, set.Outputs[0].Path)) || lstat(t, set.Outputs[1].Path).Mode() != 0o644 {
			t.Errorf("%s was replaced, or the other file was not written", name)
		}
		if data, err := os.ReadFile(aim); string(data) != "theirs" {
			t.Errorf("what a link led to was written: %v", err)
		}
	}
}

func TestAHardLinkIsReplaced(t *testing.T) {
	dir := t.TempDir()
	_, pair := issuing(t)
	set := export.Set{Pair: pair, Outputs: outputs(dir, export.Key)}
	must(t, os.WriteFile(dir+"/other", []byte("theirs"), 0o600), os.Link(dir+"/other", set.Outputs[0].Path))
	settled(t, writer(nil).Apply(set, nil))
	if contents(t, dir)["other"] != "theirs" {
		t.Error("the other name's file was written")
	}
}

func TestAModeThatLetsOthersAtTheKey(t *testing.T) {
	_, pair := issuing(t)
	for _, m := range []fs.FileMode{0o644, 0o604, 0o602, 0} {
		dir := t.TempDir()
		outs := outputs(dir, export.Key, export.Combined, export.PKCS12)
		for i := range outs {
			outs[i].Mode = m
		}
		for _, r := range writer(nil).Apply(export.Set{Pair: pair, Outputs: outs}, nil) {
			if r.Err == nil || r.Settled() {
				t.Errorf("%s with mode %o: %+v", r.Path, m, r)
			}
		}
		if files := contents(t, dir); len(files) > 0 {
			t.Errorf("mode %o left %d files", m, len(files))
		}
	}
}

// What a crash left is removed by the one who writes that output, and by nobody else.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	_, pair := issuing(t)
	set := export.Set{Pair: pair, Outputs: outputs(dir, export.Key, export.Cert)}
	ours, other := durable.TempName(set.Outputs[0].Path), durable.TempName(filepath.Join(dir, "neighbour"))
	asDir := durable.TempName(set.Outputs[1].Path)
	for _, p := range []string{ours, other} {
		must(t, os.WriteFile(p, nil, 0o600))
	}
	must(t, os.Mkdir(asDir, 0o700))
	writer(nil).Check(set, nil)
	if _, err := os.Lstat(ours); err != nil {
		t.Errorf("a check removed something: %v", err)
	}
	settled(t, writer(nil).Apply(set, nil))
	if _, err := os.Lstat(ours); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("our leftover: %v", err)
	}
	lstat(t, other)
	lstat(t, asDir)
}

// refusing is a file system in which one call fails for one path, always.
type refusing struct {
	durable.FS
	create, rename string // the base name of a path, or of the target of a rename
	err            error
}

func (r refusing) OpenFile(path string, flag int, m fs.FileMode) (durable.File, error) {
	if flag&os.O_CREATE != 0 && durable.IsTempOf(filepath.Base(path), r.create) {
		return nil, &fs.PathError{Op: "open", Path: path, Err: r.err}
	}
	return r.FS.OpenFile(path, flag, m)
}

func (r refusing) Rename(from, to string) error {
	if filepath.Base(to) == r.rename {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: r.err}
	}
	return r.FS.Rename(from, to)
}

// Key and certificate in files of their own stay a pair when one of them cannot be replaced; others go on.
func TestHalvesStayTogether(t *testing.T) {
	formats := []export.Format{export.Fullchain, export.Combined, export.Key, export.Cert, export.CA}
	for _, c := range []struct {
		name    string
		fsys    refusing
		sameKey bool
		missing string // output that is not there before
		want    string // outputs that become new
	}{
		{"the certificate cannot be written", refusing{create: "fullchain", err: syscall.ENOSPC}, false, "", "combined"},
		{"the key cannot be written", refusing{create: "key", err: syscall.EDQUOT}, false, "", "combined"},
		{"the first half cannot be put in place", refusing{rename: "fullchain", err: syscall.EPERM}, false, "", "combined"},
		{"another file cannot be written", refusing{create: "combined", err: syscall.EIO}, false, "", "fullchain key cert"},
		{"the key stays", refusing{create: "fullchain", err: syscall.ENOSPC}, true, "", "combined cert"},
		{"nobody can be using it", refusing{create: "fullchain", err: syscall.EPERM}, false, "fullchain", "combined key cert"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			sub, pair := issuing(t)
			set := export.Set{Pair: pair, Outputs: outputs(dir, formats...)}
			settled(t, writer(nil).Apply(set, nil))
			if c.missing != "" {
				must(t, os.Remove(filepath.Join(dir, c.missing)))
			}
			before := contents(t, dir)
			next, err := sub.pair()
			must(t, err)
			if c.sameKey {
				next.Key = pair.Key
				next.Leaf, err = sub.sign("gateway", pair.Key.Public(), false)
				must(t, err)
			}
			set.Pair = next
			c.fsys.FS = durable.OS{}
			results := writer(c.fsys).Apply(set, nil)
			var changed []string
			for i, r := range results {
				name := string(formats[i])
				is := contents(t, dir)[name] != before[name]
				if is {
					changed = append(changed, name)
				}
				if name != "ca" && is != (r.Err == nil && r.Settled() && r.Written) && !(c.sameKey && name == "key") {
					t.Errorf("%s changed: %v, and the result is %+v", name, is, r)
				}
			}
			if strings.Join(changed, " ") != c.want {
				t.Errorf("changed %q, want %q", changed, c.want)
			}
			if left := temps(t, dir); len(left) > 0 {
				t.Errorf("left %q", left)
			}
			settled(t, writer(nil).Apply(set, nil))
		})
	}
}

// Nor does the key go on when the certificate's file is there and cannot even be looked at as configured.
func TestHalvesStayTogetherBeforeAMistake(t *testing.T) {
	dir := t.TempDir()
	sub, pair := issuing(t)
	set := export.Set{Pair: pair, Outputs: outputs(dir, export.Key, export.Fullchain)}
	settled(t, writer(nil).Apply(set, nil))
	before := contents(t, dir)
	var err error
	set.Pair, err = sub.pair()
	must(t, err)
	set.Outputs[1].Group = "no-such-group-here"
	for _, r := range writer(nil).Apply(set, nil) {
		refused(t, r.Err, "there is no group", "/etc/group")
	}
	if !maps.Equal(contents(t, dir), before) {
		t.Error("something was written")
	}
}

// All new files are complete and synced before the first is put in place, and nothing but renames comes between.
func TestTheWindowIsAsSmallAsRenames(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	_, pair := issuing(t)
	set := export.Set{Pair: pair, Outputs: append(outputs(a, allFormats...), outputs(b, allFormats...)...)}
	var calls []string
	settled(t, writer(traced{durable.OS{}, &calls}).Apply(set, nil))
	text := strings.Join(calls, " ")
	n := len(set.Outputs)
	if want := strings.Repeat("sync ", n) + strings.Repeat("rename ", n) + "sync sync"; text != want {
		t.Errorf("calls: %s\nwant:  %s", text, want)
	}
}

type traced struct {
	durable.FS
	calls *[]string
}

type tracedFile struct {
	durable.File
	calls *[]string
}

func (f traced) OpenFile(path string, flag int, m fs.FileMode) (durable.File, error) {
	file, err := f.FS.OpenFile(path, flag, m)
	if err != nil {
		return nil, err
	}
	return tracedFile{file, f.calls}, nil
}

func (f traced) Rename(from, to string) error {
	*f.calls = append(*f.calls, "rename")
	return f.FS.Rename(from, to)
}

func (f tracedFile) Sync() error {
	*f.calls = append(*f.calls, "sync")
	return f.File.Sync()
}

// A sync of the directory that failed is made up for, although the files are found right by then.
func TestASyncThatFailedIsMadeUpFor(t *testing.T) {
	_, pair := issuing(t)
	seen := 0
	for n := 1; ; n++ {
		dir := t.TempDir()
		set := export.Set{Pair: pair, Outputs: outputs(dir, export.Key, export.Fullchain)}
		fsys := durabletest.New(durable.OS{}, n, durabletest.Fail)
		first := writer(fsys).Apply(set, nil)
		if fsys.Fired() == "" {
			break
		}
		if !strings.Contains(fsys.Fired(), "fsync "+dir) {
			continue
		}
		seen++
		for _, r := range first {
			if strings.HasSuffix(fsys.Fired(), dir) && (r.Settled() || r.Err == nil || !r.Written) {
				t.Errorf("the directory was not synced and the result is %+v", r)
			}
		}
		settled(t, writer(fsys).Apply(set, marks(first)))
		if d := fsys.Dirty(); len(d) > 0 {
			t.Errorf("after %s failed and Apply went well, these are not synced: %v", fsys.Fired(), d)
		}
	}
	if seen != 3 {
		t.Errorf("%d syncs failed, want those of two files and a directory", seen)
	}
}
