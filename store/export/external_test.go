//go:build external

package export_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"certagent/store/durable"
	"certagent/store/export"
	"certagent/store/keys"
)

// openssl runs it with stdin on its standard input and gives its output.
func openssl(t *testing.T, stdin string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("openssl", args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("openssl %q: %v\n%s", args, err, stderr.String())
	}
	return out
}

// openssl reads every format, for every kind of key, and finds the same public key and the same certificates in all.
func TestOpensslReadsEveryFormat(t *testing.T) {
	sub, _ := issuing(t)
	for _, kind := range []keys.Algorithm{keys.ECP256, keys.ECP384, keys.ECP521, keys.RSA2048, keys.Ed25519} {
		t.Run(string(kind), func(t *testing.T) {
			dir := t.TempDir()
			pair, err := sub.pairOf(kind)
			must(t, err)
			const password = "pässword"
			set := export.Set{Pair: pair, Outputs: outputs(dir, allFormats...)}
			set.Outputs[len(allFormats)-1].Password = secret(password)
			settled(t, writer(nil).Apply(set, nil))
			path := func(f export.Format) string { return filepath.Join(dir, string(f)) }

			want := openssl(t, "", "pkey", "-in", path(export.Key), "-pubout")
			for _, f := range []export.Format{export.Cert, export.Fullchain, export.FullchainRoot, export.Combined} {
				if got := openssl(t, "", "x509", "-in", path(f), "-noout", "-pubkey"); !bytes.Equal(got, want) {
					t.Errorf("the certificate in %s has another key", f)
				}
			}
			for f, n := range map[export.Format]int{
				export.Cert: 1, export.Chain: 1, export.Fullchain: 2, export.FullchainRoot: 3, export.CA: 1, export.Combined: 2,
			} {
				bundle := openssl(t, "", "crl2pkcs7", "-nocrl", "-certfile", path(f))
				if got := openssl(t, string(bundle), "pkcs7", "-print_certs"); bytes.Count(got, []byte("BEGIN CERTIFICATE")) != n {
					t.Errorf("%s: openssl finds %s", f, got)
				}
			}
			if got := openssl(t, "", "pkey", "-in", path(export.Combined), "-pubout"); !bytes.Equal(got, want) {
				t.Error("combined holds another key")
			}
			openssl(t, "", "verify", "-attime", strconv.FormatInt(epoch.Unix(), 10), "-CAfile", path(export.CA),
				"-untrusted", path(export.Chain), path(export.Cert))

			p12 := func(args ...string) []byte {
				args = append([]string{"pkcs12", "-in", path(export.PKCS12), "-passin", "stdin"}, args...)
				return openssl(t, password+"\n", args...)
			}
			opened := filepath.Join(dir, "opened")
			must(t, os.WriteFile(opened, p12("-nodes", "-nocerts"), 0o600))
			if got := openssl(t, "", "pkey", "-in", opened, "-pubout"); !bytes.Equal(got, want) {
				t.Error("pkcs12 holds another key")
			}
			must(t, os.WriteFile(opened, p12("-nokeys", "-clcerts"), 0o600))
			if got := openssl(t, "", "x509", "-in", opened, "-noout", "-pubkey"); !bytes.Equal(got, want) {
				t.Error("the certificate in pkcs12 has another key")
			}
			if got := p12("-nokeys", "-cacerts"); bytes.Count(got, []byte("BEGIN CERTIFICATE")) != 1 {
				t.Errorf("the chain in pkcs12: %s", got)
			}
		})
	}
}

// CAP_CHOWN alone is enough to give a key to another user, and what the agent may not read any more it knows by its
// mark.
func TestGivenToAnotherUser(t *testing.T) {
	attr := asNobody()
	attr.AmbientCaps = []uintptr{unix.CAP_CHOWN}
	dir := agentsDir(t)
	outs := outputs(dir, export.Key, export.Combined, export.Fullchain)
	for i := range outs {
		outs[i].Owner, outs[i].Group = "4711", "4712"
	}
	outs[1].Mode = 0o640
	for range 2 { // the second time over the other user's files
		applied, checked, unmarked := writeAs(t, attr, outs...)
		for i, o := range outs {
			if !applied[i].Written || !applied[i].Settled || !checked[i].Settled {
				t.Errorf("%+v, then %+v", applied[i], checked[i])
			}
			info := lstat(t, o.Path)
			if uid, gid := durable.Owner(info); uid != 4711 || gid != 4712 || info.Mode() != o.Mode {
				t.Errorf("%s has mode %v and belongs to %d:%d", o.Path, info.Mode(), uid, gid)
			}
			if unread := strings.Contains(unmarked[i].Drift, "may not be read"); unread != (i < 2) {
				t.Errorf("without a mark: %+v", unmarked[i])
			}
		}
	}
}

// A group that the agent is a member of needs no capability.
func TestGivenToAGroup(t *testing.T) {
	outs := outputs(agentsDir(t), export.Key)
	outs[0].Group, outs[0].Mode = "4712", 0o640
	applied, checked, unmarked := writeAs(t, asNobody(4712), outs...)
	info := lstat(t, outs[0].Path)
	if uid, gid := durable.Owner(info); uid != nobody || gid != 4712 || info.Mode() != 0o640 {
		t.Errorf("mode %v, owner %d:%d", info.Mode(), uid, gid)
	}
	if !applied[0].Settled || !checked[0].Settled || unmarked[0].Drift != "" {
		t.Errorf("%+v, %+v, %+v", applied[0], checked[0], unmarked[0])
	}
}

// What is needed is to be able to write in the directory, by its group too; a file there may be anybody's.
func TestADirectoryOfRootOpenToTheAgentsGroup(t *testing.T) {
	dir := openDir(t)
	must(t, os.Chown(dir, 0, nobody), os.Chmod(dir, 0o775))
	outs := outputs(dir, export.Combined)
	must(t, os.WriteFile(outs[0].Path, []byte("root's"), 0o644))
	applied, _, _ := writeAs(t, asNobody(), outs...)
	if !applied[0].Written || !applied[0].Settled || applied[0].Drift == "" {
		t.Errorf("%+v", applied[0])
	}
	if uid, _ := durable.Owner(lstat(t, outs[0].Path)); uid != nobody {
		t.Errorf("it belongs to %d", uid)
	}
}

// Root at work for the agent, in the agent's directory: what it writes is the agent's.
func TestRootWritesForTheAgent(t *testing.T) {
	dir := agentsDir(t)
	_, pair := issuing(t)
	set := export.Set{Pair: pair, Outputs: outputs(dir, export.Key)}
	settled(t, export.Writer{UID: nobody, GID: nobody}.Apply(set, nil))
	if uid, gid := durable.Owner(lstat(t, set.Outputs[0].Path)); uid != nobody || gid != nobody {
		t.Errorf("it belongs to %d:%d", uid, gid)
	}
	stranger := export.Writer{UID: 4711, GID: 4711}.Apply(set, nil)
	refused(t, stranger[0].Err, "may write "+dir, "chown root")
}

// A disk that is full, and one mounted for reading, leave the old files, and are made up for.
func TestRealDisks(t *testing.T) {
	disk := t.TempDir()
	must(t, syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=64k,mode=0755"))
	t.Cleanup(func() { must(t, syscall.Unmount(disk, syscall.MNT_DETACH)) })
	sub, pair := issuing(t)
	set := export.Set{Pair: pair, Outputs: outputs(disk, allFormats...)}
	first := writer(nil).Apply(set, nil)
	settled(t, first)
	before := contents(t, disk)
	next, err := sub.pair()
	must(t, err)
	set.Pair = next
	unchanged := func(why string, want syscall.Errno) {
		t.Helper()
		for i, r := range writer(nil).Apply(set, marks(first)) {
			if f := allFormats[i]; f == export.CA || f == export.Chain {
				continue // the same as before
			}
			if r.Settled() || r.Written || r.Err == nil {
				t.Errorf("%s: %+v", why, r)
			} else if want == syscall.EROFS {
				refused(t, r.Err, "read-only", "ReadWritePaths="+disk)
			}
		}
		after := contents(t, disk)
		for name, text := range before {
			if after[name] != text {
				t.Errorf("%s: %s changed", why, name)
			}
		}
		if left := temps(t, disk); len(left) > 0 {
			t.Errorf("%s: left %q", why, left)
		}
	}
	full := filepath.Join(disk, "full")
	f, err := os.Create(full)
	must(t, err)
	for { // to the last byte
		if _, err := f.Write(make([]byte, 512)); err != nil {
			break
		}
	}
	must(t, f.Close())
	unchanged("full", syscall.ENOSPC)
	must(t, os.Remove(full))
	must(t, syscall.Mount("", disk, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	unchanged("read-only", syscall.EROFS)
	must(t, syscall.Mount("", disk, "", syscall.MS_REMOUNT, ""))
	settled(t, writer(nil).Apply(set, marks(first)))
}

// A file that is mounted by itself, as into a container, cannot be replaced by renaming.
func TestAMountedFile(t *testing.T) {
	dir := t.TempDir()
	_, pair := issuing(t)
	set := export.Set{Pair: pair, Outputs: outputs(dir, export.Combined)}
	path := set.Outputs[0].Path
	must(t, os.WriteFile(path, nil, 0o600), os.WriteFile(dir+"/outside", []byte("old"), 0o600))
	must(t, syscall.Mount(dir+"/outside", path, "", syscall.MS_BIND, ""))
	t.Cleanup(func() { must(t, syscall.Unmount(path, syscall.MNT_DETACH)) })
	refused(t, writer(nil).Apply(set, nil)[0].Err, "is mounted on it", "mount the directory "+dir)
	if contents(t, dir)["outside"] != "old" || len(temps(t, dir)) > 0 {
		t.Error("it was written, or something was left")
	}
}
