package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

const recipeDir = "../../examples/testca"

// The container recipe builds and runs what is here. The build command of the recipe is run as it stands, but for
// where its output goes; so is the entry point, with flags behind it as docker run would add them.
func TestContainerRecipe(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(recipeDir, "Containerfile"))
	if err != nil {
		t.Fatal(err)
	}
	recipe := string(data)
	out := t.TempDir()
	build := regexp.MustCompile(`(?m)^RUN (.*go build.*)$`).FindStringSubmatch(recipe)
	entry := regexp.MustCompile(`(?m)^ENTRYPOINT (.*)$`).FindStringSubmatch(recipe)
	if build == nil || entry == nil {
		t.Fatal("no RUN with go build, or no ENTRYPOINT, in the recipe")
	}
	sh := exec.CommandContext(t.Context(), "sh", "-c", strings.ReplaceAll(build[1], "/out/", out+"/"))
	sh.Dir = "../.."
	if text, err := sh.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build[1], err, text)
	}
	var args []string
	if err := json.Unmarshal([]byte(entry[1]), &args); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"COPY --from=build /out" + args[0] + " " + args[0] + "\n", "VOLUME " + args[4] + "\n"} {
		if !strings.Contains(recipe, line) {
			t.Errorf("the recipe has no line %q", line)
		}
	}
	args = append(args, "--dir", filepath.Join(out, "testca"), "--listen", "127.0.0.1:0", "--like-libest")
	p := start(t, t.TempDir(), out+args[0], args[1:]...)
	p.enrol(t, "device", "estuser", "estpwd")
	p.line(t)
	p.stop(t, syscall.SIGTERM)
}

// Every flag that the README of the recipe speaks of exists.
func TestContainerReadme(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(recipeDir, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	flags := regexp.MustCompile("(?m)^\\| `(--[a-z-]+)").FindAllStringSubmatch(string(data), -1)
	if len(flags) < 3 {
		t.Fatalf("the README lists %d flags", len(flags))
	}
	for _, f := range flags {
		if !strings.Contains(usage, "  "+f[1]+" ") {
			t.Errorf("there is no flag %s", f[1])
		}
	}
}
