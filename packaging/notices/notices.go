// Package notices collects the licences of what is linked into a program, which its packages must carry. Tests alone use it,
// and `make docs` through them.
package notices

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// machines are those that packages are made for, as Go names them (GOARCH). What is linked may differ between them.
var machines = []string{"amd64", "arm64", "arm", "riscv64"}

// text is how files are called that hold a licence, or what one wants passed on (Apache-2.0 section 4d).
var text = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents)(\.(md|txt))?$`)

type module struct {
	Path, Version, Dir string
	Main               bool
}

// Of returns the notices for the program in a package directory (as ./cmd/certagent, seen from root), built for Linux with
// build tags: of the Go distribution, then of each module by path, each with its texts word for word. A module without any
// is an error.
func Of(root, program string, tags ...string) ([]byte, error) {
	modules := map[string]module{}
	for _, machine := range machines {
		if err := linked(modules, root, program, machine, tags); err != nil {
			return nil, err
		}
	}
	var out bytes.Buffer
	fmt.Fprintf(&out, "What is linked into %s besides its own code, and the licences of it.\n", filepath.Base(program))
	goroot, err := output(root, nil, "env", "GOROOT")
	if err != nil {
		return nil, err
	}
	if err := add(&out, "The Go programming language: runtime and standard library", strings.TrimSpace(string(goroot))); err != nil {
		return nil, err
	}
	for _, m := range slices.SortedFunc(maps.Values(modules), func(a, b module) int { return cmp.Compare(a.Path, b.Path) }) {
		if err := add(&out, m.Path+" "+m.Version, m.Dir); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// linked adds the modules of what is linked on one machine.
func linked(to map[string]module, root, program, machine string, tags []string) error {
	list, err := output(root, []string{"GOOS=linux", "GOARCH=" + machine, "CGO_ENABLED=0"},
		"list", "-deps", "-json=Module", "-tags="+strings.Join(tags, ","), program)
	if err != nil {
		return err
	}
	for dec := json.NewDecoder(bytes.NewReader(list)); ; {
		var p struct{ Module *module }
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read go list: %w", err)
		}
		if p.Module != nil && !p.Module.Main { // without a module: the standard library
			to[p.Module.Path] = *p.Module
		}
	}
}

// output is what the go command prints.
func output(root string, env []string, args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	if err != nil {
		return nil, fmt.Errorf("go %s: %w", args[0], err)
	}
	return out, nil
}

// add writes what lies in one directory, with the title above.
func add(out *bytes.Buffer, title, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("find the licence of %s: %w", title, err)
	}
	fmt.Fprintf(out, "\n%s\n%s\n", strings.Repeat("=", 80), title)
	found := false
	for _, e := range entries {
		if !e.Type().IsRegular() || !text.MatchString(e.Name()) {
			continue
		}
		words, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return fmt.Errorf("read the licence of %s: %w", title, err)
		}
		fmt.Fprintf(out, "\n%s\n", bytes.TrimSpace(bytes.ReplaceAll(words, []byte("\r\n"), []byte("\n"))))
		found = true
	}
	if !found {
		return fmt.Errorf("find the licence of %s: none in %s", title, dir)
	}
	return nil
}
