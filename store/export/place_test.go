package export_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"certagent/store/durable"
	"certagent/store/export"
)

// owners is a file system in which directories belong to whom it says.
type owners struct {
	durable.FS
	uid, gid map[string]int // by the base name of a directory
}

func (o owners) Lstat(path string) (fs.FileInfo, error) {
	info, err := o.FS.Lstat(path)
	if err != nil || !info.IsDir() {
		return info, err
	}
	st := info.Sys().(*syscall.Stat_t)
	if uid, ok := o.uid[filepath.Base(path)]; ok {
		st.Uid = uint32(uid)
	}
	if gid, ok := o.gid[filepath.Base(path)]; ok {
		st.Gid = uint32(gid)
	}
	return info, nil
}

func TestWhereAnOutputMayBe(t *testing.T) {
	const sticky = fs.ModeSticky
	me, group := os.Geteuid(), os.Getegid()
	stranger, strangers := me+4711, group+4711
	for _, c := range []struct {
		name      string
		mode      fs.FileMode // of the directory "d"
		uid, gid  int         // its owner
		path      string      // of the output
		make      func(base string) error
		want      string // in the refusal; empty is fine
		wantThere string // where it comes to be, if not at path
	}{
		{name: "the agent's", mode: 0o755, uid: me, gid: group, path: "d/out"},
		{name: "root's", mode: 0o755, uid: 0, gid: 0, path: "d/out"},
		{name: "open to the agent's group", mode: 0o775, uid: 0, gid: group, path: "d/out"},
		{name: "open to root's group", mode: 0o775, uid: me, gid: 0, path: "d/out"},
		{name: "read by another group", mode: 0o750, uid: me, gid: strangers, path: "d/out"},
		{name: "open to another group", mode: 0o770, uid: me, gid: strangers, path: "d/out", want: "may write"},
		{
			name: "open to another group, and sticky",
			mode: sticky | 0o770, uid: me, gid: strangers, path: "d/out", want: "may write",
		},
		{name: "open to everybody", mode: 0o777, uid: me, gid: group, path: "d/out", want: "everybody may write"},
		{
			name: "open to everybody, and sticky",
			mode: sticky | 0o777, uid: 0, gid: 0, path: "d/out", want: "everybody may write",
		},
		{name: "a stranger's", mode: 0o755, uid: stranger, gid: group, path: "d/out", want: "may write"},
		{name: "below a stranger's", mode: 0o755, uid: stranger, gid: group, path: "d/e/out", want: "may write"},
		{
			name: "below a stranger's sticky one",
			mode: sticky | 0o755, uid: stranger, gid: group, path: "d/e/out", want: "may write",
		},
		{
			name: "below one open to everybody",
			mode: 0o777, uid: me, gid: group, path: "d/e/out", want: "everybody may write",
		},
		{name: "below one open to another group", mode: 0o770, uid: me, gid: strangers, path: "d/e/out", want: "may write"},
		{name: "the agent's, below a sticky one", mode: sticky | 0o777, uid: 0, gid: 0, path: "d/e/out"},
		{
			name: "a stranger's, below a sticky one",
			mode: sticky | 0o777, uid: 0, gid: 0, path: "d/s/out", want: "lies in a directory",
		},
		{
			name: "through a link of the agent's", mode: 0o755, uid: me, gid: group, path: "l/out", wantThere: "d/out",
			make: func(b string) error { return os.Symlink("d", b+"/l") },
		},
		{
			name: "through a link in a sticky directory",
			mode: sticky | 0o777, uid: 0, gid: 0, path: "d/l/out", want: "is a link",
			make: func(b string) error { return os.Symlink("e", b+"/d/l") },
		},
		{
			name: "through a link to a stranger's", mode: 0o755, uid: stranger, gid: group, path: "l/e/out", want: "may write",
			make: func(b string) error { return os.Symlink("d", b+"/l") },
		},
		{
			name: "below a file", mode: 0o755, uid: me, gid: group, path: "d/f/out", want: "is a regular file",
			make: func(b string) error { return os.WriteFile(b+"/d/f", nil, 0o600) },
		},
		{name: "nowhere", mode: 0o755, uid: me, gid: group, path: "d/x/out", want: "does not exist"},
	} {
		t.Run(c.name, func(t *testing.T) {
			base, err := filepath.EvalSymlinks(t.TempDir())
			must(t, err, os.Mkdir(base+"/d", 0o755), os.Mkdir(base+"/d/e", 0o755), os.Mkdir(base+"/d/s", 0o755))
			if c.make != nil {
				must(t, c.make(base))
			}
			must(t, os.Chmod(base+"/d", c.mode))
			fsys := owners{durable.OS{}, map[string]int{"d": c.uid, "s": stranger}, map[string]int{"d": c.gid}}
			_, pair := issuing(t)
			out := export.Output{Format: export.Key, Path: filepath.Join(base, c.path), Mode: 0o600}
			r := writer(fsys).Apply(export.Set{Pair: pair, Outputs: []export.Output{out}}, nil)
			if c.want != "" {
				refused(t, r[0].Err, c.want, "")
				if e, ok := errors.AsType[*export.RefusedError](r[0].Err); ok && e.Hint == "" {
					t.Errorf("no hint beside %v", e)
				}
				must(t, filepath.WalkDir(base, func(path string, d fs.DirEntry, err error) error {
					if err == nil && (d.Name() == "out" || durable.IsTemp(d.Name())) {
						t.Errorf("there is %s", path)
					}
					return err
				}))
				return
			}
			settled(t, r)
			if c.wantThere == "" {
				c.wantThere = c.path
			}
			lstat(t, filepath.Join(base, c.wantThere))
		})
	}
}

func TestARelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	_, pair := issuing(t)
	set := export.Set{Pair: pair, Outputs: []export.Output{{Format: export.Key, Path: "out", Mode: 0o600}}}
	if r := writer(nil).Apply(set, nil); r[0].Err == nil || len(contents(t, ".")) > 0 {
		t.Errorf("%+v", r)
	}
}

// One output in a bad place does not keep the others, wherever it stands in the list.
func TestOneRefusalDoesNotStopTheOthers(t *testing.T) {
	dir := t.TempDir()
	_, pair := issuing(t)
	for i := range allFormats {
		set := export.Set{Pair: pair, Outputs: outputs(dir, allFormats...)}
		set.Outputs[i].Path = filepath.Join(dir, "missing", "out")
		for j, r := range writer(nil).Apply(set, nil) {
			if j == i {
				refused(t, r.Err, "does not exist", "install -d")
				if !errors.Is(r.Err, fs.ErrNotExist) {
					t.Errorf("error %v", r.Err)
				}
			} else if !r.Settled() {
				t.Errorf("%s: %v", r.Path, r.Err)
			}
		}
	}
}

func TestAccounts(t *testing.T) {
	_, pair := issuing(t)
	for _, c := range []struct {
		owner, group, why, hint string
	}{
		{"no-such-user-here", "", `there is no user "no-such-user-here"`, "/etc/passwd"},
		{"", "no-such-group-here", `there is no group "no-such-group-here"`, "/etc/group"},
		{"4294967295", "", `there is no user "4294967295"`, "create it"}, // "leave as it is" to chown(2)
		{"", "-1", `there is no group "-1"`, "create it"},
		{"2147483648", "", `there is no user`, "create it"}, // no int on a 32 bit machine
	} {
		dir := t.TempDir()
		outs := outputs(dir, export.Key)
		outs[0].Owner, outs[0].Group = c.owner, c.group
		refused(t, writer(nil).Apply(export.Set{Pair: pair, Outputs: outs}, nil)[0].Err, c.why, c.hint)
		if len(contents(t, dir)) > 0 {
			t.Errorf("%q:%q: something was written", c.owner, c.group)
		}
	}
	// What names the agent's own needs no right.
	dir := t.TempDir()
	outs := outputs(dir, export.Key)
	outs[0].Owner, outs[0].Group = strconv.Itoa(os.Geteuid()), strconv.Itoa(os.Getegid())
	settled(t, writer(nil).Apply(export.Set{Pair: pair, Outputs: outs}, nil))
}
