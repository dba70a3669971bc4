//go:build external

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestShellsComplete: every shell with the script where a package puts it, and sourced.
func TestShellsComplete(t *testing.T) {
	scripts, err := filepath.Abs("completion")
	if err != nil {
		t.Fatal(err)
	}
	const zsh = `PS1='$ '; bindkey -e; show() { printf '<%s>' "$@"; echo; }; `
	for name, sh := range map[string]struct{ shell, setup string }{
		"bash-completion": {"bash --norc --noprofile -i", bashSetup + `. /usr/share/bash-completion/bash_completion`},
		"zsh, installed":  {"zsh -f -i", zsh + `fpath=(` + scripts + ` $fpath); autoload -Uz compinit; compinit -u -D`},
		"zsh, sourced":    {"zsh -f -i", zsh + `autoload -Uz compinit; compinit -u -D; source <(certagent completion zsh)`},
		"fish": {"fish --no-config -i", `function fish_prompt; echo '$ '; end; set -g fish_autosuggestion_enabled 0; ` +
			`function show; printf '<%s>' $argv; echo; end; certagent completion fish | source`},
	} {
		t.Run(name, func(t *testing.T) {
			words := strings.Fields(sh.shell)
			s := startShell(t, exec.Command(words[0], words[1:]...), sh.setup)
			if name == "bash-completion" { // finds it by the name of the program
				dir := filepath.Join(s.dir, "bash-completion", "completions")
				must(t, os.MkdirAll(dir, 0o755), os.Symlink(filepath.Join(scripts, "certagent.bash"), filepath.Join(dir, "certagent.bash")))
			}
			listed := s.twoTabs
			if name == "fish" { // its list is a menu that redraws itself
				listed = func(line string) string {
					s.send("complete -C '" + line + "'; show listed\n")
					return s.until("<listed>")
				}
			}
			s.completes(listed)
		})
	}
}

// TestManPagesAreClean: mandoc and groff have nothing to say about the pages, and man(1) shows them.
func TestManPagesAreClean(t *testing.T) {
	pages, err := filepath.Glob(filepath.Join(manDir, "*.[158]"))
	if err != nil || len(pages) < 12 {
		t.Fatalf("%d pages: %v", len(pages), err)
	}
	for _, page := range pages {
		for _, command := range []string{"mandoc -T lint", "groff -man -Tutf8 -ww -z", "groff -man -Tascii -ww -z"} {
			words := append(strings.Fields(command), page)
			if out, err := exec.CommandContext(t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%s: %v\n%s", strings.Join(words, " "), err, out)
			}
		}
		name := strings.ToUpper(strings.TrimSuffix(filepath.Base(page), filepath.Ext(page)))
		out, err := exec.CommandContext(t.Context(), "man", "-l", page).CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), name+"(") {
			t.Errorf("man -l %s: %v\n%s", page, err, out)
		}
	}
}
