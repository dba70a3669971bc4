//go:build system

package rig

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// TestExamplesAreRead: what the examples that roll out are written in is understood by the tools that they are for. It is the part of
// their tests that is quick, so that they do not rot between two runs of the whole.
func TestExamplesAreRead(t *testing.T) {
	for _, file := range []string{"application.yaml", "gateway.yaml"} {
		manifest(t, file)
	}
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	command(t, "cp", "-r", "../../examples", dir)
	m := boot(t, fleet, dir)
	m.run(t, "cloud-init schema --config-file /mnt/examples/cloud-init/user-data")
	m.run(t, "cd /mnt/examples/ansible && ansible-playbook --inventory inventory.ini --syntax-check site.yml")
	theRoleSaysItsVariables(t, m.run(t, "cd /mnt/examples/ansible && ansible-doc --type role --roles-path roles --json certagent"))
}

// theRoleSaysItsVariables: README.md, defaults and argument_specs.yml, which ansible-doc shows, have the same variables.
func theRoleSaysItsVariables(t *testing.T, said string) {
	var roles map[string]struct {
		Entries map[string]struct {
			Options map[string]struct {
				Default  any
				Required bool
			}
		} `json:"entry_points"`
	}
	must(t, json.Unmarshal([]byte(said), &roles))
	options := roles["certagent"].Entries["main"].Options
	read := func(file string) string {
		text, err := os.ReadFile("../../examples/ansible/" + file)
		must(t, err)
		return string(text)
	}
	page, defaults := read("README.md"), strings.ReplaceAll(read("roles/certagent/defaults/main.yml"), `"`, "")
	if rows := strings.Count(page, "\n| `certagent_"); rows != len(options) || rows == 0 {
		t.Errorf("README.md has %d variables, the role %d", rows, len(options))
	}
	for name, o := range options {
		if !strings.Contains(page, "\n| `"+name+"` |") {
			t.Errorf("README.md has no %s", name)
		}
		value, err := json.Marshal(o.Default)
		must(t, err)
		line := "\n" + name + ": " + strings.ReplaceAll(string(value), `"`, "") + "\n"
		if strings.Contains(defaults, line) == o.Required {
			t.Errorf("%s: required %v, and defaults/main.yml should have %q where it is not", name, o.Required, line)
		}
	}
}
