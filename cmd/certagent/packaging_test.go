package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"certagent/agent/config"
)

// TestPackagedConfiguration: as it comes it asks for nothing, which is said; with the # taken away it is a whole one, with
// either of its ways to log in.
func TestPackagedConfiguration(t *testing.T) {
	text := string(fileOf(t, "../../packaging/config.toml"))
	if _, err := config.Parse("config.toml", []byte(text), config.Defaults{}); err == nil ||
		!strings.Contains(err.Error(), "no certificate is configured") {
		t.Errorf("as it comes: %v", err)
	}
	setting := regexp.MustCompile(`(?m)^#(\S)`)
	if n := len(setting.FindAllString(text, -1)); n < 10 {
		t.Errorf("it has %d settings that begin with # and no blank", n)
	}
	whole := setting.ReplaceAllString(text, "$1")
	for way, pattern := range map[string]string{"password": `(?m)^bootstrap_.*\n`, "certificate": `(?m)^(username|password_file).*\n`} {
		c, err := config.Parse("config.toml", []byte(regexp.MustCompile(pattern).ReplaceAllString(whole, "")), config.Defaults{})
		if err != nil {
			t.Errorf("filled in, with a %s: %v", way, err)
			continue
		}
		if len(c.Warnings) > 0 {
			t.Errorf("filled in, with a %s: %v", way, c.Warnings)
		}
		if _, ok := c.Certificate("device-id"); !ok {
			t.Errorf("filled in, with a %s: no device-id", way)
		}
	}
}

// TestUnitKnowsTheExitCode: what the unit does not start again is what run ends with for a configuration that does not load.
func TestUnitKnowsTheExitCode(t *testing.T) {
	want := fmt.Sprintf("\nRestartPreventExitStatus=%d\n", exitUsage)
	if !strings.Contains(string(fileOf(t, "../../packaging/systemd/certagent.service")), want) {
		t.Errorf("the unit has no line %q", want)
	}
}

// TestOneUser: rpm makes the user before it has the file that says how.
func TestOneUser(t *testing.T) {
	file := string(fileOf(t, "../../packaging/sysusers.d/certagent.conf"))
	line := regexp.MustCompile(`(?m)^u .*$`).FindString(file)
	if line == "" || !strings.Contains(string(fileOf(t, "../../packaging/rpm/pre")), "\n"+line+"\n") {
		t.Errorf("rpm/pre makes another user than %q", line)
	}
}

// TestDropInsAreDescribed: each has a row in the README beside it, and each row a file.
func TestDropInsAreDescribed(t *testing.T) {
	const dir = "../../examples/systemd/"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	page := string(fileOf(t, dir+"README.md"))
	for _, e := range entries {
		if e.Name() != "README.md" && !strings.Contains(page, fmt.Sprintf("\n| [%s](%[1]s) |", e.Name())) {
			t.Errorf("README.md has no row for %s", e.Name())
		}
	}
	for _, m := range regexp.MustCompile(`\n\| \[(.*?)\]`).FindAllStringSubmatch(page, -1) {
		if _, err := os.Stat(filepath.Join(dir, m[1])); err != nil {
			t.Error(err)
		}
	}
}
