package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/onboard/dps"
	"certagent/agent/onboard/dps/dpstest"
	"certagent/store/durable"
	"certagent/store/export"
)

// TestReadPayload: what only root and the agent can have written is read, through links too. Whatever else may have had a hand in it
// is named, with what shuts it out.
func TestReadPayload(t *testing.T) {
	const stranger = 4000000
	own := export.Writer{UID: os.Geteuid(), GID: os.Getegid()}
	notUs, strangers := own, "user 4000000 may write DIR/file (chown root)"
	if os.Geteuid() != 0 {
		notUs, strangers = export.Writer{UID: stranger, GID: stranger}, "belongs to user"
	}
	for name, test := range map[string]struct {
		prepare func(t *testing.T, dir string) error // below dir there is "file", which is right, in "place"
		trust   export.Writer
		unsafe  string // DIR is dir
		other   error
	}{
		"a file": {prepare: func(*testing.T, string) error { return nil }, trust: own},
		"a link of ours": {trust: own, prepare: func(_ *testing.T, dir string) error {
			return errors.Join(os.Mkdir(filepath.Join(dir, "a"), 0o755), os.Rename(filepath.Join(dir, "file"), filepath.Join(dir, "a/b")),
				os.Symlink("a/b", filepath.Join(dir, "file")))
		}},
		"everybody writes it": {trust: own, unsafe: "everybody may write DIR/file (chmod o-w)",
			prepare: func(_ *testing.T, dir string) error { return os.Chmod(filepath.Join(dir, "file"), 0o646) }},
		"somebody else's": {trust: notUs, unsafe: strangers, prepare: func(_ *testing.T, dir string) error {
			if os.Geteuid() != 0 {
				return nil // all of it is ours, and so a stranger's to the agent that is played
			}
			return os.Chown(filepath.Join(dir, "file"), stranger, -1)
		}},
		"everybody writes where it lies": {trust: own, unsafe: "everybody may write DIR, where it lies (chmod o-w",
			prepare: func(_ *testing.T, dir string) error { return os.Chmod(dir, 0o1777) }},
		"a link that others may set": {trust: own, unsafe: "everybody may write DIR/open, where it lies (chmod o-w",
			prepare: func(_ *testing.T, dir string) error {
				open := filepath.Join(dir, "open")
				return errors.Join(os.Mkdir(open, 0o755), os.Chmod(open, 0o777), os.Rename(filepath.Join(dir, "file"), filepath.Join(dir, "c")),
					os.Symlink("../c", filepath.Join(open, "b")), os.Symlink("open/b", filepath.Join(dir, "file")))
			}},
		"a directory on the way": {trust: own, unsafe: "everybody may write DIR/open, where it lies (chmod o-w",
			prepare: func(_ *testing.T, dir string) error {
				open := filepath.Join(dir, "open")
				return errors.Join(os.MkdirAll(filepath.Join(open, "a"), 0o755), os.Chmod(open, 0o777),
					os.Rename(filepath.Join(dir, "file"), filepath.Join(open, "a/b")), os.Symlink("open/a/b", filepath.Join(dir, "file")))
			}},
		"nothing": {trust: own, other: fs.ErrNotExist,
			prepare: func(_ *testing.T, dir string) error { return os.Remove(filepath.Join(dir, "file")) }},
		"links without end": {trust: own, other: errors.New("too many links"), prepare: func(_ *testing.T, dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "file")), os.Symlink("file", filepath.Join(dir, "file")))
		}},
		"a pipe": {trust: own, other: errors.New("is a FIFO, not a regular file"), prepare: func(_ *testing.T, dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "file")), syscall.Mkfifo(filepath.Join(dir, "file"), 0o600))
		}},
		"too much": {trust: own, other: durable.ErrTooLarge, prepare: func(_ *testing.T, dir string) error {
			return os.WriteFile(filepath.Join(dir, "file"), make([]byte, maxPayload+1), 0o600)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, err := filepath.EvalSymlinks(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			writeFile(t, filepath.Join(dir, "file"), []byte(`"north"`))
			if err := test.prepare(t, dir); err != nil {
				t.Fatal(err)
			}
			data, err := readPayload(filepath.Join(dir, "file"), test.trust.Trust())
			switch unsafe, is := errors.AsType[*durable.UnsafeError](err); {
			case test.unsafe == "" && test.other == nil:
				if err != nil || string(data) != `"north"` {
					t.Errorf("%q, %v", data, err)
				}
			case test.unsafe != "":
				if want := strings.ReplaceAll(test.unsafe, "DIR", dir); !is || !strings.Contains(unsafe.Error(), want) {
					t.Errorf("%v, want %q", err, want)
				}
			case !errors.Is(err, test.other) && (err == nil || !strings.Contains(err.Error(), test.other.Error())):
				t.Errorf("%v, want %v", err, test.other)
			}
		})
	}
}

// TestPayloadOfAStranger: what everybody may have written is not sent to the cloud; the problem says what to do, and once that is
// done the device registers with it.
func TestPayloadOfAStranger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newClouded(t, day, dpstest.Options{})
		defer c.end()
		file := filepath.Join(c.dir, "payload.json")
		writeFile(t, file, []byte(`{}`))
		if err := os.Chmod(file, 0o666); err != nil {
			t.Fatal(err)
		}
		c.text = strings.Replace(c.text, "[provisioning]\n", "[provisioning]\npayload = { uri = \"file://"+file+"\" }\n", 1)
		a, stop := c.boot()
		defer stop()
		time.Sleep(time.Hour)
		settle()
		c.mustAsk()
		if p := device0(a).Problems; len(p) != 1 || p[0].Code != dps.CodePayload || p[0].Notice ||
			!strings.Contains(p[0].Text, "everybody may write "+file+" (chmod o-w)") {
			t.Fatalf("problems: %+v", p)
		}
		if err := os.Chmod(file, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := a.ReloadNow(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		settle()
		c.mustBeKnown(a)
	})
}
