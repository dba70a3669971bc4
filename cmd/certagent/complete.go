package main

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"certagent/store"
)

// The scripts ask the program itself (cobra's hidden __complete) what may stand where the cursor is. They are ours because
// cobra's hand the line to eval, so that a half-written command line runs what stands in it; and its script for bash does
// nothing where the package bash-completion is not installed, as on most gateways.
var (
	//go:embed completion/certagent.bash
	forBash []byte
	//go:embed completion/_certagent
	forZsh []byte
	//go:embed completion/certagent.fish
	forFish []byte
)

func (p *program) completionCommand() *cobra.Command {
	scripts := map[string][]byte{"bash": forBash, "zsh": forZsh, "fish": forFish}
	shells := slices.Sorted(maps.Keys(scripts))
	oneOf := "one of " + strings.Join(shells, ", ")
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "print a script that completes certagent's command lines",
		Long: `completion prints a script with which SHELL (bash, fish or zsh) completes commands, flags, files and the ids of
certificates. The packages install it; this is for programs that came another way.

The ids are those of the configuration, or of the state directory where the configuration may not be read.

Exit codes: 0 printed, 1 failed, 2 usage.`,
		Example: `  certagent completion bash > /usr/share/bash-completion/completions/certagent
  certagent completion zsh > /usr/share/zsh/vendor-completions/_certagent
  certagent completion fish > /etc/fish/completions/certagent.fish
  source <(certagent completion bash)`,
		ValidArgs: shells,
		Args:      one("for which shell?", oneOf),
		RunE: func(c *cobra.Command, args []string) error {
			if scripts[args[0]] == nil {
				return misused(&hint{fmt.Errorf("%s: there is none for %q", nameOf(c), args[0]), oneOf})
			}
			_, err := p.stdout.Write(scripts[args[0]])
			return err
		},
	}
}

// offerValues has every command at and below c complete what its Use names: ID and FILE, repeated with "...", and for
// flags the word that stands for the value. What a command offers by itself is left alone.
func (p *program) offerValues(c *cobra.Command) {
	if c.ValidArgsFunction == nil && c.ValidArgs == nil && !c.DisableFlagParsing {
		c.ValidArgsFunction = p.offered(arguments(c.Use))
	}
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		word, meaning := placeholder(f)
		f.Usage, f.Annotations = meaning, map[string][]string{valueName: {word}} // cobra would show the `quotes`
		if _, known := c.GetFlagCompletionFunc(f.Name); word != "" && !known {
			// It fails for a flag that does not exist or has one already: neither can be.
			_ = c.RegisterFlagCompletionFunc(f.Name, flagValue(f.Name, word))
		}
	})
	for _, sub := range c.Commands() {
		p.offerValues(sub)
	}
}

// arguments are the words of a command's Use that stand for arguments, without brackets.
func arguments(use string) []string {
	var words []string
	for _, word := range strings.Fields(use)[1:] {
		if strings.HasPrefix(strings.Trim(word, "["), "-") {
			break
		}
		words = append(words, strings.Trim(word, "[]"))
	}
	return words
}

func (p *program) offered(words []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		at := len(args)
		if last := len(words) - 1; at > last && last >= 0 && strings.HasSuffix(words[last], "...") {
			at = last
		}
		switch {
		case at >= len(words):
		case strings.HasPrefix(words[at], "FILE"):
			return nil, cobra.ShellCompDirectiveDefault
		case strings.HasPrefix(words[at], "ID"):
			ids := slices.DeleteFunc(p.knownIDs(), func(id string) bool { return slices.Contains(args, id) })
			return beginning(begun, ids), cobra.ShellCompDirectiveNoFileComp
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

func flagValue(name, word string) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		switch {
		case name == "config":
			return []cobra.Completion{"toml"}, cobra.ShellCompDirectiveFilterFileExt
		case word == "FILE", word == "DIR":
			return nil, cobra.ShellCompDirectiveDefault
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
}

// knownIDs are the ids of certificates, from the configuration, else from the state directory. Whoever presses a key has
// not asked what is wrong with either.
func (p *program) knownIDs() []string {
	if cfg, err := p.load(); err == nil {
		var ids []string
		for _, c := range cfg.Certificates {
			ids = append(ids, c.ID)
		}
		return ids
	}
	s, err := store.View(p.stateDirOf(nil))
	if err != nil {
		return nil
	}
	defer s.Close()
	ids, err := s.IDs()
	if err != nil {
		return nil
	}
	return ids
}

// beginning are the words that begin so.
func beginning(begun string, words []string) []string {
	return slices.DeleteFunc(words, func(w string) bool { return !strings.HasPrefix(w, begun) })
}
