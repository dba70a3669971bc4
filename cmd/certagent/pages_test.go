package main

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"certagent/agent/status"
	"certagent/est/esttest"
)

var (
	codeSpan = regexp.MustCompile("`([^`\n]+)`")
	// commandShown is a command as pages show it: behind a prompt, as another user, in a unit.
	commandShown = regexp.MustCompile(`^(?:\$ |# |sudo |ExecStartPre=|ExecReload=|bin/|/usr/bin/)*(certagent(?: [^|;&>]*)?)`)
	blank        = strings.NewReplacer("[", "", "]", "", "…", "")
)

// TestCommandsOfPages: every certagent command that a page shows, in a block or in a sentence, has the name and the flags of
// one that there is.
func TestCommandsOfPages(t *testing.T) {
	t.Parallel()
	parsed := 0
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../examples/*.md", "../../examples/*/*.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, file := range files {
			page, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, text := range code(string(page)) {
				m := commandShown.FindStringSubmatch(text)
				if m == nil || m[1] == "certagent" {
					continue
				}
				parsed++
				if err := parses(m[1]); err != nil {
					t.Errorf("%s: %s: %v", filepath.Base(file), text, err)
				}
			}
		}
	}
	if parsed < 50 {
		t.Errorf("only %d commands were found", parsed)
	}
}

// code gives what a page in Markdown shows as commands or names: spans, indented lines, and the lines of blocks in sh.
func code(page string) (texts []string) {
	block := ""
	for line := range strings.Lines(page) {
		text := strings.TrimSpace(line)
		switch language, fence := strings.CutPrefix(text, "```"); {
		case fence && block == "":
			block = language + "."
		case fence:
			block = ""
		case block == "sh." || block == "" && strings.HasPrefix(line, "    "):
			texts = append(texts, text)
		case block == "":
			for _, span := range codeSpan.FindAllStringSubmatch(line, -1) {
				texts = append(texts, span[1])
			}
		}
	}
	return texts
}

// parses says what is wrong with a command line; it runs nothing.
func parses(line string) error {
	p := &program{stdout: io.Discard, stderr: io.Discard}
	root := p.command()
	root.InitDefaultHelpCmd()
	c, rest, err := root.Find(strings.Fields(blank.Replace(line))[1:])
	if err != nil {
		return err
	}
	if err := c.ParseFlags(rest); err != nil {
		return err
	}
	if c.HasSubCommands() && len(c.Flags().Args()) > 0 {
		return fmt.Errorf("%s has no command %s", c.CommandPath(), c.Flags().Args()[0])
	}
	return nil
}

// TestTakingAziotsCertificates: the commands of docs/from-aziot.md adopt a pair that lies where aziot keeps it.
func TestTakingAziotsCertificates(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/from-aziot.md")
	if err != nil {
		t.Fatal(err)
	}
	s, g := esttest.New(t, esttest.Options{}), newGateway(t)
	cert, key := s.IssueBootstrap("gateway-7", esttest.DefaultLifetime)
	put := func(name string, data []byte) {
		t.Helper()
		file := g.path("aziot", name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// The id of these names is in the page's table, and what a renewal of aziot's leaves beside them must not be taken.
	name := regexp.MustCompile("\\| `device-id` \\| `(deviceid-[0-9a-f]{64})\\.cer`").FindSubmatch(page)
	if name == nil {
		t.Fatal("docs/from-aziot.md does not say how aziot names device-id")
	}
	put("certd/certs/"+string(name[1])+".cer", cert)
	put("keyd/keys/"+string(name[1])+".key", key)
	put("keyd/keys/deviceidtemp-0123.key", []byte("another"))
	g.configure(strings.Replace(tutorial(t, s), "myiotedgedevice", "gateway-7", -1))
	var run []string
	for _, text := range code(string(page)) {
		if strings.HasPrefix(text, "certagent import ") {
			run = append(run, strings.ReplaceAll(text, "/var/lib/aziot", g.path("aziot"))+" --config "+g.path("config.toml"))
		}
	}
	if len(run) != 1 {
		t.Fatalf("docs/from-aziot.md imports by %q", run)
	}
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", run[0]).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", run[0], err, out)
	}
	taken := g.mustRead("device-id")
	if block, _ := pem.Decode(cert); !bytes.Equal(taken.leaf.Raw, block.Bytes) {
		t.Error("another certificate is live")
	}
	// From now on it is renewed with itself.
	g.start()
	g.until("the agent's answer", func() bool { return g.certificate("device-id").State == status.Valid && !g.status().Started.IsZero() })
	if out, err := g.command("renew", "--wait", "device-id").CombinedOutput(); err != nil {
		t.Fatalf("certagent renew: %v\n%s", err, out)
	}
	g.next("device-id", &taken)
	logins(t, s, "simplereenroll with the certificate that was taken over", func(all []esttest.Login) bool {
		return slices.ContainsFunc(all, func(l esttest.Login) bool {
			return l.Operation == "simplereenroll" && l.Certificate != nil && l.Certificate.Equal(taken.leaf)
		})
	})
	g.stop()
}
