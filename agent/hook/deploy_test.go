//go:build external

package hook_test

import (
	"os/exec"
	"path/filepath"
	"testing"
)

// The units that docs/operations.md tells of are such as systemd takes.
func TestDeployUnits(t *testing.T) {
	for _, name := range []string{"certagent-deploy@.path", "certagent-deploy@.service"} {
		path, err := filepath.Abs("../../packaging/systemd/" + name)
		must(t, err)
		if out, err := exec.Command("systemd-analyze", "verify", "--man=no", path).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}
