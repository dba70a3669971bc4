//go:build external

package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"certagent/est/esttest"
)

// TestTroublesOfMounts is TestTroubleshooting for what the unit's sandbox, and a container, do to an output; needs root.
func TestTroublesOfMounts(t *testing.T) {
	quoted := troublesOfPage(t)
	mount := func(p *patient, source, target string, flags uintptr) {
		p.must(syscall.Mount(source, target, "", flags, ""))
		p.t.Cleanup(func() { _ = syscall.Unmount(target, syscall.MNT_DETACH) }) // it may have been mended
	}
	output := func(p *patient) string {
		p.with("[[cert_issuance.certs.mqtt.outputs]]\nformat = \"cert\"\npath = \"" + p.path("certs", "mqtt.pem") + `"`)
		return p.tried()
	}
	for i, tr := range []trouble{{
		provoke: func(p *patient) string {
			p.must(os.Mkdir(p.path("certs"), 0o755))
			mount(p, p.path("certs"), p.path("certs"), syscall.MS_BIND)
			mount(p, "", p.path("certs"), syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY)
			return output(p)
		}, mend: func(p *patient) { p.must(syscall.Unmount(p.path("certs"), 0)) },
	}, {
		provoke: func(p *patient) string {
			p.must(os.Mkdir(p.path("certs"), 0o755))
			mount(p, p.file("old.pem", ""), p.file("certs/mqtt.pem", ""), syscall.MS_BIND)
			return output(p)
		}, mend: func(p *patient) { p.must(syscall.Unmount(p.path("certs", "mqtt.pem"), 0)) },
	}} {
		t.Run(mountTroubles[i], func(t *testing.T) { tr.goes(t, quoted[mountTroubles[i]]) })
	}
}

// TestServerByHand types the commands of docs/troubleshooting.md, "An EST server by hand", word for word but for the values of
// the first block, and looks for what the page says they tell.
func TestServerByHand(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/troubleshooting.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(page), "\n## An EST server by hand\n")
	blocks := regexp.MustCompile("(?s)\n```sh\n(.*?)```").FindAllStringSubmatch(section, -1)
	if !found || len(blocks) != 6 {
		t.Fatalf("the page has %d blocks of commands below that heading", len(blocks))
	}
	p := &patient{newGateway(t), esttest.New(t, esttest.Options{})}
	p.enrolled()
	values := fmt.Sprintf("EST=%s\nCA=%s\nLIVE=%s\n", p.s.URL(), p.s.CAFile(), p.path("state", "certs", "mqtt", "live"))
	names := regexp.MustCompile(`(?m)^[A-Z]+=`)
	if got, want := names.FindAllString(blocks[0][1], -1), names.FindAllString(values, -1); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("the first block gives values to %v, want %v", got, want)
	}
	script := "set -e\n" + values
	for _, b := range blocks[1:] {
		script += b[1] + "echo end of block\n"
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	said := strings.Split(string(out), "end of block\n")
	if err != nil || len(said) != len(blocks) {
		t.Fatalf("%v\n%s", err, out)
	}
	for i, want := range []string{
		`subject=CN = certagent test root CA`, `(?s)issuer=CN = certagent test root CA.*IP Address:127.0.0.1`,
		`(?s)^Acceptable client certificate CA names\nCN = certagent test root CA`, `^200\n$`,
	} {
		if !regexp.MustCompile(want).MatchString(said[i]) {
			t.Errorf("want %s from\n%s\nand it says\n%s", want, blocks[i+1][1], said[i])
		}
	}
	pair := said[4]
	if half := len(pair) / 2; half == 0 || pair[:half] != pair[half:] {
		t.Errorf("a pair that belongs together shows as\n%s", pair)
	}
}
