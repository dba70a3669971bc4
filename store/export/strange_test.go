package export_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"certagent/store/durable"
	"certagent/store/export"
)

// Two names of one file: each output would take the other's for its own.
func TestTwoOutputsThatAreOneFile(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/d", 0o755), os.Symlink("d", dir+"/l"))
	sub, pair := issuing(t)
	set := export.Set{Pair: pair, Outputs: append(outputs(dir+"/d", export.Cert), outputs(dir+"/l", export.CA)...)}
	set.Outputs[1].Path = dir + "/l/cert"
	for range 2 {
		r := writer(nil).Apply(set, nil)
		settled(t, r[:1])
		refused(t, r[1].Err, "the same file as the output "+dir+"/d/cert", dir+"/d/cert")
		var err error
		set.Pair, err = sub.pair() // which the second does not hold back
		must(t, err)
	}
	if n := len(contents(t, dir+"/d")); n != 1 {
		t.Errorf("there are %d files", n)
	}
}

// meddled is a file system in which somebody else is at work: he acts once, after a call.
type meddled struct {
	durable.FS
	path             string // he is after
	renamed, created func() // after the path is renamed to, after any file is made
}

func (m *meddled) Rename(from, to string) error {
	err := m.FS.Rename(from, to)
	if to == m.path {
		once(&m.renamed)
	}
	return err
}

func (m *meddled) OpenFile(path string, flag int, mode fs.FileMode) (durable.File, error) {
	f, err := m.FS.OpenFile(path, flag, mode)
	if flag&os.O_CREATE != 0 {
		once(&m.created)
	}
	return f, err
}

func once(do *func()) {
	if *do != nil {
		(*do)()
		*do = nil
	}
}

// What somebody does to an output while outputs are written is not taken for what was written.
func TestAChangeWhileOutputsAreWritten(t *testing.T) {
	for name, meddle := range map[string]func(path string) error{
		"written":  func(path string) error { return os.WriteFile(path, []byte("x"), 0o644) },
		"replaced": func(path string) error { return os.Rename(path+"~", path) },
		"mode":     func(path string) error { return os.Chmod(path, 0o664) },
	} {
		for _, when := range []string{"after the look", "after the rename"} {
			dir := t.TempDir()
			_, pair := issuing(t)
			set := export.Set{Pair: pair, Outputs: outputs(dir, export.Cert, export.CA)}
			path := set.Outputs[0].Path
			must(t, os.WriteFile(path+"~", []byte("theirs"), 0o644))
			act := func() { must(t, meddle(path)) }
			m := &meddled{FS: durable.OS{}, path: path, renamed: act}
			if when == "after the look" { // at cert, which is right, until ca is written
				settled(t, writer(nil).Apply(set, nil))
				must(t, os.Remove(set.Outputs[1].Path), os.Chtimes(path, epoch, epoch))
				*m = meddled{FS: durable.OS{}, created: act}
			}
			first := writer(m).Apply(set, nil)
			if c := writer(nil).Check(set, marks(first))[0]; c.Settled() || c.Drift == "" {
				t.Errorf("%s %s: a look finds %+v", name, when, c)
			}
			settled(t, writer(nil).Apply(set, marks(first)))
		}
	}
}

// A password that consumers could not open the file with is no password.
func TestPasswordsThatAreMistakes(t *testing.T) {
	_, pair := issuing(t)
	for password, why := range map[string]string{
		"": "first line is empty", "p\xe4ss": "not in UTF-8", "\ufeffpass": "byte order mark", "p😀": "UCS-2",
	} {
		dir := t.TempDir()
		outs := outputs(dir, export.PKCS12)
		outs[0].Password = secret(password)
		r := writer(nil).Apply(export.Set{Pair: pair, Outputs: outs}, nil)
		refused(t, r[0].Err, why, "password")
		if password != "" && strings.Contains(r[0].Err.Error(), password) || len(contents(t, dir)) > 0 {
			t.Errorf("%q: %v, or something was written", password, r[0].Err)
		}
	}
	outs := outputs(t.TempDir(), export.PKCS12)
	outs[0].Password = nil // asked for
	settled(t, writer(nil).Apply(export.Set{Pair: pair, Outputs: outs}, nil))
}

// What a person reads names the output, and no file that is gone by then.
func TestAnErrorHasNoTemporaryName(t *testing.T) {
	dir := t.TempDir()
	_, pair := issuing(t)
	set := export.Set{Pair: pair, Outputs: outputs(dir, export.Cert)}
	r := writer(refusing{FS: durable.OS{}, rename: "cert", err: syscall.EIO}).Apply(set, nil)
	if want := "write " + dir + "/cert: rename into place: input/output error"; r[0].Err == nil || r[0].Err.Error() != want {
		t.Errorf("error %v, want %s", r[0].Err, want)
	}
}

func TestANameThatIsTooLong(t *testing.T) {
	dir := t.TempDir()
	_, pair := issuing(t)
	set := export.Set{Pair: pair, Outputs: outputs(dir, export.Cert, export.CA)}
	set.Outputs[0].Path = filepath.Join(dir, strings.Repeat("x", 255))
	set.Outputs[1].Path = filepath.Join(dir, strings.Repeat("x", 256))
	r := writer(nil).Apply(set, nil)
	settled(t, r[:1])
	refused(t, r[1].Err, "too long", "shorter")
}
