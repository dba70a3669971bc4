package check

import (
	"encoding/binary"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// list makes an access control list of lines as getfacl(1) prints them: tag, id, rights.
func list(entries ...Entry) []Entry { return entries }

const rw = Read | Write

// TestMay is the algorithm of acl(5), and what the kernel makes of a mask that is clear.
func TestMay(t *testing.T) {
	agent := User{UID: 990, GIDs: []int{990, 50}, Name: "certagent"}
	owner := Entry{Tag: tagUserObj, Perm: rw}
	for _, tc := range []struct {
		name string
		user User
		file File
		want Right
		may  bool
	}{
		{"owner", agent, File{Mode: 0o400, UID: 990}, Read, true},
		{"owner, though everybody else may", agent, File{Mode: 0o077, UID: 990, GID: 990}, Read, false},
		{"group", agent, File{Mode: 0o640, GID: 990}, Read, true},
		{"supplementary group", agent, File{Mode: 0o640, GID: 50}, Read, true},
		{"group, though others may", agent, File{Mode: 0o604, GID: 50}, Read, false},
		{"stranger's group", agent, File{Mode: 0o640, GID: 51}, Read, false},
		{"others", agent, File{Mode: 0o604}, Read, true},
		{"others may not write", agent, File{Mode: 0o644}, Write, false},
		{"root reads what nobody may", User{}, File{Mode: 0, UID: 990}, Read, true},
		{"root executes no file that nobody may", User{}, File{Mode: 0o644}, Enter, false},
		{"root executes a file that its owner may", User{}, File{Mode: 0o100, UID: 990}, Enter, true},
		{"root enters any directory", User{}, File{Mode: fs.ModeDir, Dir: true}, Enter, true},
		{
			"named user, whom the mode denies", agent,
			File{Mode: 0o640, ACL: list(owner, Entry{tagUser, Read, 990}, Entry{Tag: tagGroupObj}, Entry{tagMask, Read, 0}, Entry{Tag: tagOther})},
			Read, true,
		},
		{
			"named user, but the mask does not", agent,
			File{Mode: 0o620, ACL: list(owner, Entry{tagUser, Read, 990}, Entry{Tag: tagGroupObj}, Entry{tagMask, Write, 0}, Entry{Tag: tagOther})},
			Read, false,
		},
		{
			"named user who is denied what others may", agent,
			File{Mode: 0o644, ACL: list(owner, Entry{tagUser, 0, 990}, Entry{Tag: tagGroupObj}, Entry{tagMask, Read, 0}, Entry{tagOther, Read, 0})},
			Read, false,
		},
		{
			"named group", agent,
			File{Mode: 0o640, ACL: list(owner, Entry{Tag: tagGroupObj}, Entry{tagGroup, Read, 50}, Entry{tagMask, Read, 0}, Entry{Tag: tagOther})},
			Read, true,
		},
		{
			"the owning group has nothing, though the mode seems to say so", agent,
			File{Mode: 0o640, GID: 50, ACL: list(owner, Entry{tagUser, Read, 7}, Entry{Tag: tagGroupObj}, Entry{tagMask, Read, 0}, Entry{Tag: tagOther})},
			Read, false,
		},
		{
			"one of two groups is enough", agent,
			File{Mode: 0o640, GID: 990, ACL: list(owner, Entry{Tag: tagGroupObj}, Entry{tagGroup, Read, 50}, Entry{tagMask, Read, 0}, Entry{Tag: tagOther})},
			Read, true,
		},
		{
			"member of a group that is denied what others may", agent,
			File{Mode: 0o644, ACL: list(owner, Entry{Tag: tagGroupObj}, Entry{tagGroup, 0, 50}, Entry{tagMask, Read, 0}, Entry{tagOther, Read, 0})},
			Read, false,
		},
		{
			"a clear mask: the list is not looked at", agent,
			File{Mode: 0o604, ACL: list(owner, Entry{tagUser, Read, 990}, Entry{Tag: tagGroupObj}, Entry{Tag: tagMask}, Entry{tagOther, Read, 0})},
			Read, true,
		},
	} {
		if got := tc.user.may(tc.file, tc.want); got != tc.may {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.may)
		}
	}
}

// TestOthers: who else has a right, whatever gives it.
func TestOthers(t *testing.T) {
	agent := User{UID: 990, GIDs: []int{990, 50}}
	owner, mask := Entry{Tag: tagUserObj, Perm: rw}, Entry{Tag: tagMask, Perm: rw}
	for _, tc := range []struct {
		name  string
		file  File
		want  Right
		group int
		who   string
	}{
		{"stranger", File{Mode: 0o600}, Read, -1, ""},
		{"the agent's own group", File{Mode: 0o640, GID: 990}, Read, -1, ""},
		{"everybody", File{Mode: 0o604}, Read, -1, "everybody"},
		{"a group that the agent is in for others' sake", File{Mode: 0o640, GID: 50}, Read, -1, "group 50"},
		{"the group that was configured", File{Mode: 0o640, GID: 51}, Read, 51, ""},
		{"its owner, who can give himself the right", File{Mode: 0o400, UID: 7}, Write, -1, "user 7, whose it is,"},
		{"a list", File{Mode: 0o660, ACL: list(owner, Entry{tagUser, rw, 7}, Entry{Tag: tagGroupObj}, mask)}, Write, -1,
			"user 7 (by its access control list)"},
		{"a list whose mask takes it back", File{Mode: 0o640, ACL: list(owner, Entry{tagUser, rw, 7}, Entry{Tag: tagGroupObj},
			Entry{tagMask, Read, 0})}, Write, -1, ""},
		{"a list's group", File{Mode: 0o660, ACL: list(owner, Entry{Tag: tagGroupObj}, Entry{tagGroup, Read, 8}, mask)}, Read, -1,
			"group 8 (by its access control list)"},
	} {
		if got := agent.others(tc.file, tc.want, tc.group); got != tc.who {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.who)
		}
	}
}

func TestParseACL(t *testing.T) {
	for _, bad := range []string{"", "\x02\x00\x00", "\x03\x00\x00\x00", "\x02\x00\x00\x00short"} {
		if _, err := parseACL([]byte(bad)); err == nil {
			t.Errorf("%q was understood", bad)
		}
	}
}

// setACL gives a file a list, as setfacl(1) does.
func setACL(t *testing.T, path string, entries ...Entry) {
	t.Helper()
	data := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		data = binary.LittleEndian.AppendUint16(data, e.Tag)
		data = binary.LittleEndian.AppendUint16(data, uint16(e.Perm))
		data = binary.LittleEndian.AppendUint32(data, e.ID)
	}
	if err := unix.Setxattr(path, "system.posix_acl_access", data, 0); err != nil {
		t.Fatalf("set access control list: %v", err)
	}
}

// TestWay follows real links through real directories, with a real access control list that allows what the modes deny.
func TestWay(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	const none = 0xffffffff
	nobody := User{UID: 65533, GIDs: []int{65533}, Name: "stranger"}
	closed := filepath.Join(dir, "closed")
	if err := os.MkdirAll(filepath.Join(closed, "deep"), 0o755); err != nil {
		t.Fatal(err)
	}
	file, link := filepath.Join(closed, "deep", "key.pem"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{link: "hop", filepath.Join(dir, "hop"): file} {
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{closed, dir, filepath.Dir(dir)} { // those above are the system's
		if err := os.Chmod(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	judge := func() *Result {
		w, err := look(link)
		return nobody.readable("file-readable", link, w, err)
	}
	says := func(want Verdict, text string) {
		t.Helper()
		if os.Geteuid() == 0 { // the kernel is the judge of judges
			cat := exec.Command("/bin/cat", link)
			cat.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65533, Gid: 65533}}
			if err := cat.Run(); (err == nil) != (want == OK) {
				t.Errorf("%s: and the kernel: %v", want, err)
			}
		}
		if r := judge(); r.Verdict != want || !strings.Contains(r.Text, text) {
			t.Errorf("%s: %s (%s), want %s with %q", r.Verdict, r.Text, r.Hint, want, text)
		}
	}
	says(Failed, "user stranger may not read "+file)
	setACL(t, file, Entry{tagUserObj, rw, none}, Entry{tagUser, Read, 65533}, Entry{tagGroupObj, 0, none}, Entry{tagMask, Read, none},
		Entry{tagOther, 0, none})
	says(OK, "can read it")
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	says(Failed, "user stranger may not enter "+closed)
	setACL(t, closed, Entry{tagUserObj, 7, none}, Entry{tagUser, Enter, 65533}, Entry{tagGroupObj, 0, none}, Entry{tagMask, Enter, none},
		Entry{tagOther, 0, none})
	says(OK, "can read it")
	w, err := look(link)
	if err != nil || w.End.Path != file || w.End.ACL == nil {
		t.Errorf("leads to %v, %v", w.End, err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	says(Failed, "does not exist")
}

// TestUserOf: root's groups are those of the user database.
func TestUserOf(t *testing.T) {
	if u := UserOf(0, 0); u.Name != "root" || len(u.GIDs) == 0 || u.GIDs[0] != 0 {
		t.Errorf("root is %+v", u)
	}
	if u := UserOf(4000000, 4000001); u.Name != "4000000" || len(u.GIDs) != 1 || u.GIDs[0] != 4000001 {
		t.Errorf("a stranger is %+v", u)
	}
}
