package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"certagent/agent/status"
	"certagent/est/esttest"
	"certagent/store"
	"certagent/store/storetest"
)

// stranger is something that is put into the state directory while no agent runs.
type stranger struct {
	name string
	put  func(path, outside string) error // outside is a file, and a directory with ".d" behind it
}

var (
	fifo   = stranger{"a FIFO", func(path, _ string) error { return syscall.Mkfifo(path, 0o600) }}
	folder = stranger{"a directory", func(path, _ string) error { return os.Mkdir(path, 0o755) }}
	file   = stranger{"a regular file", func(path, _ string) error { return os.WriteFile(path, []byte("nonsense"), 0o600) }}
	link   = stranger{"a symbolic link", func(path, outside string) error { return os.Symlink(outside, path) }}
	linkTo = stranger{"a symbolic link", func(path, outside string) error { return os.Symlink(outside+".d", path) }}
	socket = stranger{"a socket", func(path, _ string) error {
		// The name of a socket has room for a hundred bytes; a short way leads there.
		dir, err := os.MkdirTemp("", "s")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "s"), Net: "unix"})
		if err != nil {
			return err
		}
		l.SetUnlinkOnClose(false)
		return errors.Join(l.Close(), os.Rename(filepath.Join(dir, "s"), path))
	}}
	huge = stranger{"a huge file", func(path, _ string) error {
		return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 1<<40)) // it has holes
	}}
	hugeIn = stranger{"a directory with huge files", func(path, _ string) error {
		return errors.Join(os.Mkdir(path, 0o700), huge.put(filepath.Join(path, "key.pem"), ""), huge.put(filepath.Join(path, "request.json"), ""))
	}}
	second = stranger{"a file with another name", func(path, outside string) error { return os.Link(outside, path) }}
)

// What an agent makes of a stranger.
const (
	refused = "refused" // says so, exits 1, and changes nothing; status says so, too
	anew    = "anew"    // what it stood for is broken: says so, and a new certificate is issued
	aside   = "aside"   // it is renamed to displaced-… beside its place, and the agent goes on
	ignored = "ignored" // a file that counts for nothing, as it does not parse or is not safe, and is replaced
)

// strangers says what becomes of whom, by path below the state directory. In what it says, KIND is the stranger's name.
var strangers = []struct {
	path  string // below the state directory; SERVER is the EST server's host and port
	kinds []stranger
	fate  string
	says  string // by the agent; empty where nothing needs to be said
}{
	{"", []stranger{fifo, file, socket}, refused, "is KIND, not a directory"},
	{"", []stranger{link}, refused, "outside is a regular file, not a directory"}, // one to a directory is a person's choice
	{"certs", []stranger{fifo, file, link, linkTo, socket}, refused, "/certs is KIND, not a directory"},
	{"trust", []stranger{fifo, file, link, linkTo, socket}, refused, "/trust is KIND, not a directory"},
	{"certs/mqtt", []stranger{fifo, file, link, linkTo, socket}, refused, "/certs/mqtt is KIND, not a directory"},
	{"lock", []stranger{fifo, link, linkTo, socket, folder}, refused, "lock"},
	{"lock", []stranger{second}, refused, "2 names"},
	{"certs/mqtt/live", []stranger{fifo, file, folder, socket}, anew, "live is KIND, not a symbolic link"},
	{"certs/mqtt/live", []stranger{link, linkTo}, anew, "which is no generation beside it"},
	{"certs/mqtt/gen-000001", []stranger{fifo, file, link, linkTo, socket}, anew, "its directory is KIND, not a directory"},
	{"certs/mqtt/gen-000001/cert.pem", []stranger{fifo, folder, link, linkTo, socket}, anew, "cert.pem is KIND, not a regular file"},
	{"certs/mqtt/gen-000001/chain.pem", []stranger{fifo, folder, link, linkTo, socket}, anew, "chain.pem is KIND, not a regular file"},
	{"certs/mqtt/gen-000001/fullchain.pem", []stranger{fifo, folder, link}, anew, "fullchain.pem is KIND, not a regular file"},
	{"certs/mqtt/gen-000001/ca.pem", []stranger{fifo, folder, link}, anew, "ca.pem is KIND, not a regular file"},
	{"certs/mqtt/gen-000001/key.pem", []stranger{fifo, folder, link, linkTo, socket}, anew, "key.pem is KIND, not a regular file"},
	{"certs/mqtt/gen-000001/key.pem", []stranger{file}, anew, "key.pem"},
	{"certs/mqtt/gen-000001/meta.json", []stranger{fifo, folder, link, linkTo, socket, file, huge}, ignored, ""},
	{"certs/mqtt/pending", []stranger{fifo, file, link, linkTo, socket, folder, hugeIn}, ignored, ""},
	{"certs/mqtt/retry.json", []stranger{fifo, folder, link, linkTo, socket}, aside, ""},
	{"certs/mqtt/retry.json", []stranger{file, second, huge}, ignored, ""},
	// It is written, and what stands in its place set aside, where the machine's clock is synchronised (see package store).
	{"clock.json", []stranger{fifo, folder, link, linkTo, socket, file, second, huge}, ignored, ""},
	{"last-good.toml", []stranger{fifo, folder, link, linkTo, socket}, aside, ""},
	{"last-good.toml", []stranger{file, second, huge}, ignored, ""},
	{"trust/SERVER.pem", []stranger{fifo, folder, link, linkTo, socket}, aside, ""},
	{"trust/SERVER.json", []stranger{fifo, folder, link, linkTo, socket}, aside, ""},
	{"trust/SERVER.json", []stranger{file, second, huge}, ignored, ""},
	{"certs/mqtt/gen-000001/cert.pem", []stranger{huge}, anew, "cert.pem cannot be read: "},
	{"certs/mqtt/gen-000001/key.pem", []stranger{huge}, anew, "key.pem cannot be read: "},
	{"certs/mqtt/delivery.json", []stranger{fifo, folder, link, linkTo, socket, file, second, huge}, ignored, ""},
	{"trust/SERVER.pem", []stranger{huge}, ignored, ""},
	{"lock", []stranger{huge}, ignored, ""},
}

// TestStrangers: whatever stands in the place of a file of ours, the agent and status come back, nothing outside is touched,
// and what is refused is refused by name; a forced renewal, so that everything is written, goes well at once where the
// stranger is no obstacle, and else when it is gone.
func TestStrangers(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	visited := 0
	for _, c := range strangers {
		for _, kind := range c.kinds {
			visited++
			t.Run(strings.TrimSpace(c.path+" "+kind.name), func(t *testing.T) {
				t.Parallel()
				g := withOneCertificate(t, s)
				if c.fate != anew {
					g.force(t)
				}
				outside := g.path("outside")
				g.write("outside", "not ours")
				if err := os.Mkdir(outside+".d", 0o755); err != nil {
					t.Fatal(err)
				}
				server := strings.NewReplacer("https://", "", "/.well-known/est", "", ":", "_").Replace(s.URL())
				path := g.path("state", strings.ReplaceAll(c.path, "SERVER", server))
				if err := errors.Join(os.RemoveAll(path), kind.put(path, outside)); err != nil {
					t.Fatal(err)
				}
				planted, err := os.Lstat(path)
				if err != nil {
					t.Fatal(err)
				}
				g.meet(t, c.fate, strings.ReplaceAll(c.says, "KIND", kind.name))
				if data, err := os.ReadFile(outside); err != nil || string(data) != "not ours" {
					t.Errorf("outside there is %q, %v", data, err)
				}
				if in, err := os.ReadDir(outside + ".d"); err != nil || len(in) > 0 {
					t.Errorf("outside there are %v, %v", in, err)
				}
				displaced, err := filepath.Glob(filepath.Join(filepath.Dir(path), "displaced-*"))
				if err != nil || c.fate == aside && len(displaced) != 1 {
					t.Errorf("set aside: %v, %v", displaced, err)
				}
				if c.fate == aside && len(displaced) == 1 {
					if kept, err := os.Lstat(displaced[0]); err != nil || !os.SameFile(kept, planted) {
						t.Errorf("what was set aside is another thing: %v", err)
					}
				}
				if c.fate == refused {
					if there, err := os.Lstat(path); err != nil || !os.SameFile(there, planted) {
						t.Errorf("what was refused is gone: %v", err)
					}
					if err := os.RemoveAll(path); err != nil {
						t.Fatal(err)
					}
					g.meet(t, ignored, "")
				}
			})
		}
	}
	t.Logf("%d strangers", visited)
}

// TestEverybodyMayWrite: a directory or file that everybody may write is not believed, wherever it lies.
func TestEverybodyMayWrite(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	for path, c := range map[string]struct{ fate, says string }{
		"":                                {refused, "everybody may write "},
		"certs":                           {refused, "everybody may write "},
		"trust":                           {refused, "everybody may write "},
		"certs/mqtt":                      {refused, "everybody may write "},
		"certs/mqtt/gen-000001":           {anew, "everybody may write "},
		"certs/mqtt/gen-000001/cert.pem":  {anew, "everybody may write "},
		"certs/mqtt/gen-000001/ca.pem":    {anew, "everybody may write "},
		"certs/mqtt/gen-000001/key.pem":   {anew, "a private key must have 0600"},
		"certs/mqtt/gen-000001/meta.json": {ignored, ""},
		"certs/mqtt/retry.json":           {ignored, ""},
		"clock.json":                      {ignored, ""},
		"last-good.toml":                  {ignored, ""},
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			g := withOneCertificate(t, s)
			if c.fate != anew {
				g.force(t)
			}
			if path == "clock.json" {
				g.write("state/clock.json", "{}") // it is there already where the machine's clock is synchronised
			}
			path := g.path("state", path)
			info, err := os.Stat(path)
			if err == nil {
				err = os.Chmod(path, info.Mode().Perm()|0o022)
			}
			if err != nil {
				t.Fatal(err)
			}
			g.meet(t, c.fate, c.says)
			if c.fate == refused {
				if err := os.Chmod(path, info.Mode().Perm()); err != nil {
					t.Fatal(err)
				}
				g.meet(t, ignored, "")
			}
			if wrong := storetest.Wrong(g.path("state")); c.fate == refused && len(wrong) > 0 {
				t.Error(wrong)
			}
		})
	}
}

// TestABadFileAndAStrangersLastGood: where the configuration is wrong the last good one is run, but not one that others could
// have written, or that hangs.
func TestABadFileAndAStrangersLastGood(t *testing.T) {
	t.Parallel()
	s := esttest.New(t, esttest.Options{})
	for name, c := range map[string]struct {
		plant func(path string) error
		says  string
	}{
		"a FIFO":            {func(p string) error { return errors.Join(os.Remove(p), syscall.Mkfifo(p, 0o600)) }, "is a FIFO"},
		"open to everybody": {func(p string) error { return os.Chmod(p, 0o666) }, "everybody may write"},
		"in an open place":  {func(p string) error { return os.Chmod(filepath.Dir(p), 0o777) }, "everybody may write"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := withOneCertificate(t, s)
			g.write("config.toml", fmt.Sprintf("state_dir = %q\nnonsense", g.path("state")))
			if err := c.plant(g.path("state", "last-good.toml")); err != nil {
				t.Fatal(err)
			}
			code, out := g.runs(t, "run", "--once")
			if code != exitUsage || !strings.Contains(out, c.says) || !strings.Contains(out, "not TOML") {
				t.Errorf("exit code %d, want %d and %q:\n%s", code, exitUsage, c.says, out)
			}
		})
	}
}

// TestTheLockEndsWithTheAgent: what a hook leaves running does not hold the state directory when the agent was killed.
func TestTheLockEndsWithTheAgent(t *testing.T) {
	t.Parallel()
	g, s := newGateway(t), esttest.New(t, esttest.Options{})
	left := g.path("left")
	g.configure(served(s) + hooksFor("sleep 1000 & echo $! >"+left+".new; mv "+left+".new "+left+"; wait"))
	g.start()
	var text []byte
	g.until("a hook that goes on", func() (there bool) {
		g.mustRun()
		var err error
		text, err = os.ReadFile(left)
		return err == nil
	})
	orphan, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Kill(orphan, syscall.SIGKILL) }()
	g.kill()
	if err := syscall.Kill(orphan, 0); err != nil {
		t.Fatalf("nothing goes on: %v", err)
	}
	second, err := store.Open(g.path("state"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

// withOneCertificate is a gateway that has the certificate mqtt and no running agent.
func withOneCertificate(t *testing.T, s *esttest.Server) *gateway {
	t.Helper()
	g := newGateway(t)
	g.configure(fmt.Sprintf("[cert_issuance.est]\ntrusted_certs = [\"file://%s\"]\n[cert_issuance.est.auth]\nusername = %q\npassword = %q\n"+
		"[cert_issuance.est.urls]\ndefault = %q\n[cert_issuance.certs.mqtt]\ncommon_name = \"mqtt\"\n",
		s.CAFile(), esttest.DefaultUser, esttest.DefaultPassword, s.URL()))
	if code, out := g.runs(t, "run", "--once"); code != exitOK {
		t.Fatalf("certagent run --once: %d\n%s", code, out)
	}
	return g
}

// force leaves the wish for a renewal, as an agent that was stopped leaves it.
func (g *gateway) force(t *testing.T) {
	t.Helper()
	retry := g.path("state", "certs", "mqtt", "retry.json")
	data, err := os.ReadFile(retry)
	if err == nil {
		err = os.WriteFile(retry, bytes.Replace(data, []byte("{"), []byte(`{"reissue": "forced",`), 1), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// meet runs the agent once, and status, on a state directory with a stranger in it.
func (g *gateway) meet(t *testing.T, fate, says string) {
	t.Helper()
	code, out := g.runs(t, "run", "--once")
	if !strings.Contains(out, says) {
		t.Errorf("certagent run --once does not say %q:\n%s", says, out)
	}
	shown, table := g.runs(t, "status", "--json")
	if fate == refused {
		if code != exitFailed {
			t.Errorf("certagent run --once: exit code %d, want %d", code, exitFailed)
		}
		if shown == exitOK {
			t.Errorf("status finds all well:\n%s", table)
		}
		return
	}
	var snapshot status.Snapshot
	if err := json.Unmarshal([]byte(table), &snapshot); err != nil || len(snapshot.Certificates) != 1 {
		t.Fatalf("certagent status: %v\n%s", err, table)
	}
	if c := snapshot.Certificates[0]; code != exitOK || shown != status.ExitOK || c.State != status.Valid {
		t.Errorf("certagent run --once: exit code %d; status: %d\n%s%s", code, shown, out, table)
	}
	if live, err := storetest.Live(g.path("state"), "mqtt"); err != nil {
		t.Errorf("live in the end: %v", err)
	} else if fate == anew && filepath.Base(live.Dir) == "gen-000001" {
		t.Error("no new certificate was issued")
	}
	if left, err := storetest.Leftovers(g.path("state")); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}

// runs runs a command, which must come back, and gives its exit code and all that it says.
func (g *gateway) runs(t *testing.T, args ...string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := g.command(args...)
	limited := exec.CommandContext(ctx, cmd.Args[0], cmd.Args[1:]...)
	limited.Env = cmd.Env
	var out bytes.Buffer
	limited.Stdout, limited.Stderr = &out, &out
	err := limited.Run()
	if ctx.Err() != nil {
		t.Fatalf("certagent %v hangs:\n%s", args, &out)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); err != nil && (!ok || exit.ExitCode() < 0) {
		t.Fatalf("certagent %v: %v\n%s", args, err, &out)
	}
	return limited.ProcessState.ExitCode(), out.String()
}
