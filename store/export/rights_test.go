package export_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"certagent/store/export"
)

// nobody is a user without any rights.
const nobody = 65534

func asNobody(groups ...uint32) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody, Groups: groups}}
}

// agentsDir is a directory that belongs to the agent of writeAs.
func agentsDir(t *testing.T) string {
	t.Helper()
	dir := openDir(t)
	if os.Geteuid() == 0 {
		must(t, os.Chown(dir, nobody, nobody))
	}
	return dir
}

// An agent without rights is refused what it may not do, each with the way to give it, and does the rest.
func TestWithoutRights(t *testing.T) {
	own, closed := agentsDir(t), openDir(t)
	must(t, os.Chmod(closed, 0o555)) // root's, or where the test is not root its own
	key := func(name string) export.Output {
		return export.Output{Format: export.Key, Path: filepath.Join(own, name), Mode: 0o600}
	}
	toRoot, toGroup := key("to-root"), key("to-group")
	toRoot.Owner, toGroup.Group, toGroup.Mode = "root", "471147", 0o640
	elsewhere, nowhere, good := key("closed"), key("nowhere"), key("good")
	elsewhere.Path, nowhere.Path = filepath.Join(closed, "out"), filepath.Join(own, "missing", "out")
	applied, checked, unmarked := writeAs(t, asNobody(), toRoot, toGroup, elsewhere, nowhere, good)
	for i, want := range [][2]string{
		{"may not give files to user root", "AmbientCapabilities=CAP_CHOWN"},
		{"is no member of group 471147", "SupplementaryGroups=471147"},
		{"may not write in " + closed, "chown "},
		{own + "/missing does not exist", "ReadWritePaths=" + own + "/missing"},
	} {
		r := applied[i]
		if !strings.Contains(r.Error, want[0]) || !strings.Contains(r.Hint, want[1]) || r.Settled || r.Written {
			t.Errorf("%s: %+v, want %q", r.Path, r, want)
		}
	}
	if !applied[4].Written || !checked[4].Settled || unmarked[4].Drift != "" {
		t.Errorf("the good one: %+v, then %+v, without mark %+v", applied[4], checked[4], unmarked[4])
	}
	if names := contents(t, own); len(names) != 1 || names["good"] == "" || len(contents(t, closed)) > 0 {
		t.Errorf("%d files beside the good one", len(names)-1)
	}
}

// A directory that the agent may not go through is named, not the one below it, of which nothing can be known.
func TestAWayThatIsClosed(t *testing.T) {
	closed := openDir(t)
	must(t, os.Mkdir(closed+"/own", 0o755), os.Chmod(closed, 0o600))
	defer os.Chmod(closed, 0o700)
	applied, _, _ := writeAs(t, asNobody(), export.Output{Format: export.Cert, Path: closed + "/own/out", Mode: 0o644})
	if r := applied[0]; !strings.Contains(r.Error, "may not enter "+closed+" ") || !strings.Contains(r.Hint, "chmod o+x "+closed+",") {
		t.Errorf("%+v", r)
	}
}
