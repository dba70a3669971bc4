package store

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"certagent/store/durable"
	"certagent/store/keys"
)

func do(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestWhereAStateDirectoryMayBe(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(base string) error // what is there before
		dir  string                  // below base
		want string                  // in the error; empty is fine
	}{
		{name: "nothing there yet", dir: "a/b/state"},
		{name: "in a sticky directory", dir: "tmp/state", make: func(b string) error {
			return errors.Join(os.Mkdir(b+"/tmp", 0o700), os.Chmod(b+"/tmp", 0o777|fs.ModeSticky))
		}},
		{name: "a link in a place of ours", dir: "link", make: func(b string) error {
			return errors.Join(os.Mkdir(b+"/real", 0o700), os.Symlink("real", b+"/link"))
		}},
		{name: "an absolute link, further up, with dots", dir: "link/../link/sub/state", make: func(b string) error {
			return errors.Join(os.Mkdir(b+"/real", 0o700), os.Symlink(b+"/./real", b+"/link"))
		}},
		{name: "an own directory with other modes", dir: "state", make: func(b string) error {
			return os.Mkdir(b+"/state", 0o700)
		}},
		{
			name: "a link in a sticky directory", dir: "tmp/link", want: "is a link in a directory that everybody may write",
			make: func(b string) error {
				return errors.Join(os.Mkdir(b+"/real", 0o700), os.Mkdir(b+"/tmp", 0o700), os.Chmod(b+"/tmp", 0o777|fs.ModeSticky),
					os.Symlink(b+"/real", b+"/tmp/link"))
			},
		},
		{
			name: "a link to a sticky directory's link", dir: "link/state",
			want: "is a link in a directory that everybody may write",
			make: func(b string) error {
				return errors.Join(os.Mkdir(b+"/real", 0o700), os.Mkdir(b+"/tmp", 0o700), os.Chmod(b+"/tmp", 0o777|fs.ModeSticky),
					os.Symlink(b+"/real", b+"/tmp/link"), os.Symlink("tmp/link", b+"/link"))
			},
		},
		{name: "in a directory open to everybody", dir: "open/state", want: "where it lies", make: func(b string) error {
			return errors.Join(os.Mkdir(b+"/open", 0o700), os.Chmod(b+"/open", 0o777))
		}},
		{name: "itself open to everybody", dir: "state", want: "everybody may write", make: func(b string) error {
			return errors.Join(os.Mkdir(b+"/state", 0o700), os.Chmod(b+"/state", 0o777|fs.ModeSticky))
		}},
		{name: "a file", dir: "state", want: "is a regular file", make: func(b string) error {
			return os.WriteFile(b+"/state", nil, 0o600)
		}},
		{name: "a link in a circle", dir: "a", want: "too many links", make: func(b string) error {
			return errors.Join(os.Symlink("b", b+"/a"), os.Symlink("a", b+"/b"))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			base, err := filepath.EvalSymlinks(t.TempDir())
			do(t, err)
			if c.make != nil {
				do(t, c.make(base))
			}
			s, err := Open(base+"/"+c.dir, Options{})
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v, want one with %q", err, c.want)
				}
				return
			}
			do(t, err)
			defer s.Close()
			real, err := filepath.EvalSymlinks(base + "/" + c.dir)
			if err != nil || s.Dir() != real {
				t.Errorf("it is at %s, want %s, %v", s.Dir(), real, err)
			}
			do(t, s.SaveLastGood([]byte("x")), s.Present())
			if _, err := os.Stat(real + "/last-good.toml"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWhoseDirectoryItMayBe(t *testing.T) {
	for _, c := range []struct {
		owner, euid int
		want        bool
	}{
		{0, 0, true}, {1000, 1000, true}, {0, 1000, true}, {1000, 0, true}, {1001, 1000, false},
	} {
		if got := mayOwn(c.owner, c.euid); got != c.want {
			t.Errorf("user %d in a directory of user %d: %v", c.euid, c.owner, got)
		}
	}
	_, err := open(filepath.Join(t.TempDir(), "state"), Options{FS: &ofSomebody{OS: durable.OS{}, uid: 4711}}, 4712)
	if !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), "belongs to user 4711") {
		t.Errorf("a stranger's directory: %v", err)
	}
}

// In /tmp a stranger may have made the directory first, to have the keys; even root does not work for him there.
func TestAStrangersDirectoryInASharedPlace(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	do(t, err)
	do(t, os.Mkdir(base+"/tmp", 0o700), os.Chmod(base+"/tmp", 0o777|fs.ModeSticky), os.Mkdir(base+"/tmp/state", 0o755))
	for _, dir := range []string{"/tmp/state", "/tmp/state/new/one"} {
		for euid, want := range map[int]bool{0: false, 4712: false, 4711: true} {
			fsys := &ofSomebody{OS: durable.OS{}, uid: 4711, given: map[uint64]int{}}
			s, err := open(base+dir, Options{FS: fsys}, euid)
			if err == nil {
				err = s.Close()
			}
			if (err == nil) != want || err != nil && !errors.Is(err, ErrUnsafe) {
				t.Errorf("user %d in %s: %v", euid, dir, err)
			}
		}
		do(t, os.RemoveAll(base+"/tmp/state/new"))
	}
}

// ofSomebody is a file system whose directories called "state" belong to uid, and which writes down what is given to
// whom instead of giving it.
type ofSomebody struct {
	durable.OS
	uid   int
	given map[uint64]int // by inode: toUser, toGroup, or both
}

const toUser, toGroup = 1, 2

func (o *ofSomebody) Lstat(path string) (fs.FileInfo, error) {
	info, err := o.OS.Lstat(path)
	if err == nil && filepath.Base(path) == "state" {
		st := info.Sys().(*syscall.Stat_t)
		st.Uid, st.Gid = uint32(o.uid), uint32(o.uid)
	}
	return info, err
}

func (o *ofSomebody) OpenFile(path string, flag int, m fs.FileMode) (durable.File, error) {
	f, err := o.OS.OpenFile(path, flag, m)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return &givenFile{f, o, info.Sys().(*syscall.Stat_t).Ino}, nil
}

func (o *ofSomebody) Lchown(path string, uid, gid int) error {
	info, err := o.OS.Lstat(path)
	if err != nil {
		return err
	}
	return o.give(info.Sys().(*syscall.Stat_t).Ino, uid, gid)
}

func (o *ofSomebody) give(ino uint64, uid, gid int) error {
	if uid != o.uid && uid != -1 || gid != o.uid && gid != -1 {
		return errors.New("given to a stranger")
	}
	if uid >= 0 {
		o.given[ino] |= toUser
	}
	if gid >= 0 {
		o.given[ino] |= toGroup
	}
	return nil
}

type givenFile struct {
	durable.File
	fs  *ofSomebody
	ino uint64
}

func (g *givenFile) Chown(uid, gid int) error { return g.fs.give(g.ino, uid, gid) }

func TestRootGivesWhatItWritesToTheOwner(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	do(t, os.Mkdir(dir, 0o755))
	o := &ofSomebody{OS: durable.OS{Root: dir}, uid: 4711, given: map[uint64]int{}}
	s, err := open(dir, Options{FS: o}, 0)
	do(t, err)
	defer s.Close()
	c, err := s.Certificate("device-id")
	do(t, err)
	issueOne(t, c)
	do(t, c.SaveRetry(Retry{}), c.SaveDelivery(Delivery{}), s.SaveLastGood(nil))
	do(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err == nil && o.given[info.Sys().(*syscall.Stat_t).Ino] != toUser|toGroup {
			t.Errorf("%s was not given to the owner and his group", path)
		}
		return err
	}))
	if len(o.given) < 15 {
		t.Errorf("only %d things were given away", len(o.given))
	}
	// As the owner itself, nothing is given away.
	do(t, s.Close())
	o.given = map[uint64]int{}
	s, err = open(dir, Options{FS: o}, 4711)
	do(t, err)
	defer s.Close()
	do(t, s.SaveLastGood([]byte("new")))
	if len(o.given) > 0 {
		t.Error("the owner gives away")
	}
}

// issueOne leaves a generation and a pending request.
func issueOne(t *testing.T, c *Certificate) {
	t.Helper()
	k, err := c.store.keys.Generate(keys.ECP256)
	do(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k)
	do(t, err)
	p, err := c.SavePending(k, Pending{CSR: csr})
	do(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	do(t, err)
	leaf, err := x509.ParseCertificate(der)
	do(t, err)
	_, err = c.Commit(Issue{Pending: p, Leaf: leaf})
	do(t, err)
	_, err = c.SavePending(k, Pending{CSR: csr})
	do(t, err)
}
