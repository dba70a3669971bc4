//go:build system

package rig

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// The releases that are installed: the working tree as it is, and the same once more with another packaged
// configuration.
const (
	older, newer = "1.0.0", "1.1.0"
	// What the newer one has in its config.toml, and the older has not.
	newLine = "# New in 1.1.0."
)

// shared is a directory of this run, which all its machines see at /mnt. TestMain makes it, and build fills it.
var shared struct {
	dir    string
	filled sync.Mutex
	full   bool // guarded by filled
}

// build gives what machines see at /mnt: packages of two releases, certagent-testca, the examples, and this program, which
// probes the sandbox. It is made once in a run.
func build(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("must be root")
	}
	shared.filled.Lock()
	defer shared.filled.Unlock()
	if !shared.full {
		fill(t, shared.dir)
		shared.full = true
	}
	return shared.dir
}

func fill(t *testing.T, share string) {
	t.Helper()
	tree := copyOfTree(t)
	must(t, os.Chmod(share, 0o755))
	packed := make(chan error)
	release := func(version string) {
		commit(t, tree, version)
		command(t, "git", "-C", tree, "tag", "v"+version)
		dir := filepath.Join(t.TempDir(), version)
		command(t, "git", "-c", "advice.detachedHead=false", "clone", "-q", "--branch", "v"+version, tree, dir)
		touch(t, filepath.Join(dir, "go.mod")) // as in a tree that was copied after the checkout
		go func() { packed <- pack(t.Context(), dir, filepath.Join(share, version), "amd64", "deb rpm") }()
	}
	release(older)
	config, err := os.OpenFile(filepath.Join(tree, "packaging/config.toml"), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = config.WriteString(newLine + "\n")
	must(t, errors.Join(err, config.Close()))
	release(newer)
	must(t, errors.Join(<-packed, <-packed))

	testca(t, share)
	self, err := os.Executable()
	must(t, err)
	program, err := os.ReadFile(self)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(share, probeName), program, 0o755))
	shim(t, tree, share)
	command(t, "cp", "-r", filepath.Join(tree, "examples"), share)
}

// touch makes a file look as if it were changed.
func touch(t *testing.T, file string) {
	t.Helper()
	must(t, os.Chtimes(file, time.Unix(1e9, 0), time.Unix(1e9, 0)))
}

// pack makes the packages of a tree.
func pack(ctx context.Context, tree, dist, arches, formats string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(tree, "packaging/build"))
	// Under make its flags would reach the make that builds.
	cmd.Env = append(os.Environ(), "DIST="+dist, "ARCHES="+arches, "FORMATS="+formats, "PACKAGES=certagent",
		"SIGNING_KEY=", "APK_SIGNING_KEY=", "MAKEFLAGS=", "MAKELEVEL=")
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make packages: %w\n%s", err, said)
	}
	return nil
}

// testca builds certagent-testca, for this machine.
func testca(t *testing.T, dir string) string {
	t.Helper()
	program := filepath.Join(dir, "certagent-testca")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", program, "certagent/cmd/certagent-testca")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build certagent-testca: %v\n%s", err, said)
	}
	return program
}

// commit commits what is in a tree.
func commit(t *testing.T, tree, message string) {
	t.Helper()
	command(t, "git", "-C", tree, "add", "-A")
	command(t, "git", "-C", tree, "-c", "user.name=rig", "-c", "user.email=rig@example.com", "-c", "commit.gpgsign=false",
		"commit", "-q", "-m", message)
}

// copyOfTree is the working tree, changes included, in a repository of its own that has no commit yet.
func copyOfTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	command(t, "git", "init", "-q", dir)
	top := strings.TrimSpace(command(t, "git", "rev-parse", "--show-toplevel"))
	files := command(t, "git", "-C", top, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	for name := range strings.SplitSeq(files, "\x00") {
		if name == "" {
			continue
		}
		info, err := os.Stat(filepath.Join(top, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted, and not committed yet
		}
		must(t, err)
		data, err := os.ReadFile(filepath.Join(top, name))
		must(t, err)
		must(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), data, info.Mode()))
	}
	return dir
}

// shim makes an rpm that stands for what the root of the rpm machines has from Debian, and has the presets of such a
// system: nothing is enabled unasked (Debian has none, which enables all).
func shim(t *testing.T, tree, share string) {
	t.Helper()
	dir := t.TempDir()
	preset, file := filepath.Join(dir, "preset"), filepath.Join(dir, "shim.yaml")
	must(t, os.WriteFile(preset, []byte("disable *\n"), 0o644))
	must(t, os.WriteFile(file, []byte("name: debian\narch: amd64\nversion: 1.0.0\nmaintainer: rig <rig@example.com>\n"+
		"description: what this system has from Debian\nprovides: [systemd, /bin/sh, shadow-utils]\n"+
		"contents: [{src: "+preset+", dst: /usr/lib/systemd/system-preset/99-default-disable.preset}]\n"), 0o644))
	cmd := exec.CommandContext(t.Context(), "go", "tool", "-modfile=packaging/tools.mod", "nfpm", "package",
		"-f", file, "-p", "rpm", "-t", share+"/")
	cmd.Dir = tree
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("shim: %v\n%s", err, said)
	}
}
