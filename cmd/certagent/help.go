package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// helpWidth is how wide a help text is, in characters: what a serial console shows.
const helpWidth = 80

// exitCodes begins the paragraph of a command's text that says how it ends.
const exitCodes = "Exit codes: "

// A command's text (cobra's Long) has paragraphs with an empty line between them. One whose lines are indented stays as it
// is: a list of terms with two blanks or more behind each, or an example. All others flow. The last begins with exitCodes,
// and what is behind one like "Signals:" is a section of that name in the manual. The help and the manual page of a command
// are both made from its text and its flags, so that a new command has them by being there.

// paragraphs are those of a command's text.
func paragraphs(long string) []string {
	return strings.Split(strings.TrimSpace(long), "\n\n")
}

// verbatim reports whether a paragraph stays as it is.
func verbatim(paragraph string) bool { return strings.HasPrefix(paragraph, "  ") }

// giveHelp prints the help of a command. It is ours because cobra's lets text run as wide as it was written.
func giveHelp(c *cobra.Command, _ []string) {
	w := c.OutOrStdout() // remembers what could not be written
	fmt.Fprintf(w, "Usage:\n")
	for _, line := range synopsis(c) {
		fmt.Fprintf(w, "  %s\n", line)
	}
	text := c.Long
	if text == "" {
		text = c.CommandPath() + ": " + c.Short + "."
	}
	for _, p := range paragraphs(text) {
		fmt.Fprintln(w)
		if verbatim(p) {
			fmt.Fprintln(w, p)
		} else {
			flow(w, p, "")
		}
	}
	if below := shown(c); len(below) > 0 {
		fmt.Fprintf(w, "\nCommands:\n")
		list(w, below)
	}
	list(w, flagEntries(c.LocalNonPersistentFlags()), "\nFlags:\n")
	list(w, flagEntries(c.Root().PersistentFlags()), "\nFlags of all commands:\n")
	if c.Example != "" {
		fmt.Fprintf(w, "\nExamples:\n%s\n", c.Example)
	}
	if c.HasAvailableSubCommands() {
		fmt.Fprintf(w, "\n%s COMMAND --help says more about a command.\n", c.CommandPath())
	}
}

// synopsis is how a command is called, in one line or two.
func synopsis(c *cobra.Command) []string {
	if !c.HasAvailableSubCommands() {
		line := c.CommandPath() + strings.TrimPrefix(c.Use, c.Name())
		if flags := flagEntries(c.LocalNonPersistentFlags()); len(flags) > 0 {
			line += " [FLAG...]"
		}
		return []string{line}
	}
	lines := []string{c.CommandPath() + " COMMAND [ARGUMENT...]"}
	for _, f := range flagEntries(c.LocalNonPersistentFlags()) {
		lines = append(lines, c.CommandPath()+" "+f.term)
	}
	return lines
}

// entry is one line of a list.
type entry struct{ term, meaning string }

// shown are the commands below c that are for people.
func shown(c *cobra.Command) []entry {
	var below []entry
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() || sub.Name() == "help" { // which cobra does not count
			below = append(below, entry{sub.Name(), sub.Short})
		}
	}
	return below
}

// flagEntries are flags with what they mean and their defaults.
func flagEntries(flags *pflag.FlagSet) []entry {
	var all []entry
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		placeholder, meaning := placeholder(f)
		term := "--" + f.Name
		if f.Shorthand != "" {
			term = "-" + f.Shorthand + ", " + term
		}
		if placeholder != "" {
			term += " " + placeholder
		}
		if d := defaultOf(f); d != "" {
			meaning += " (default " + d + ")"
		}
		all = append(all, entry{term, meaning})
	})
	return all
}

// valueName is the annotation with the word that stands for the value of a flag, once it was taken out of its usage.
const valueName = "value"

// placeholder is what stands for the value of a flag, "" if it takes none, and what the flag means.
func placeholder(f *pflag.Flag) (name, meaning string) {
	if name, ok := f.Annotations[valueName]; ok {
		return name[0], f.Usage
	}
	name, meaning = pflag.UnquoteUsage(f)
	if f.Value.Type() == "duration" && name == "duration" {
		name = "TIME"
	}
	return name, meaning
}

// defaultOf is the value of a flag that is not given, "" for nothing and no.
func defaultOf(f *pflag.Flag) string {
	switch f.DefValue {
	case "", "false", "[]", "0", "0s":
		return ""
	}
	d := f.DefValue
	if f.Value.Type() == "duration" { // 1h0m0s
		for _, nothing := range []string{"m0s", "h0m"} {
			if strings.HasSuffix(d, nothing) {
				d = d[:len(d)-2]
			}
		}
	}
	return d
}

// list prints entries below each other, behind what introduces them.
func list(w io.Writer, entries []entry, heading ...string) {
	if len(entries) == 0 {
		return
	}
	fmt.Fprint(w, strings.Join(heading, ""))
	const widest = 24 // a term that is wider has its line to itself
	width := 0
	for _, e := range entries {
		if n := utf8.RuneCountInString(e.term); n <= widest {
			width = max(width, n)
		}
	}
	indent := strings.Repeat(" ", width+4)
	for _, e := range entries {
		head := fmt.Sprintf("  %-*s  ", width, e.term)
		if utf8.RuneCountInString(e.term) > width {
			fmt.Fprintln(w, strings.TrimRight(head, " "))
			head = indent
		}
		flow(w, e.meaning, head, indent)
	}
}

// flow prints text within helpWidth. The first line begins with head, the others with indent.
func flow(w io.Writer, text, head string, indent ...string) {
	line, empty := head, true
	for word := range strings.FieldsSeq(text) {
		if !empty && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > helpWidth {
			fmt.Fprintln(w, line)
			line, empty = strings.Join(indent, ""), true
		}
		if !empty {
			line += " "
		}
		line, empty = line+word, false
	}
	fmt.Fprintln(w, line)
}

// helpCommand is `certagent help`. cobra's own ends well for a command that does not exist.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND...]",
		Short: "explain a command",
		Long: `help explains a command, as COMMAND --help does; without one it lists them.

Exit codes: 0 explained, 1 failed, 2 there is no such command.`,
		Example: `  certagent help
  certagent help config check`,
		ValidArgsFunction: func(c *cobra.Command, words []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
			at, rest, err := c.Root().Find(words)
			var names []cobra.Completion
			if err == nil && len(rest) == 0 {
				for _, e := range shown(at) {
					names = append(names, cobra.CompletionWithDesc(e.term, e.meaning))
				}
			}
			return beginning(begun, names), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, words []string) error {
			at, rest, err := c.Root().Find(words)
			if len(rest) > 0 {
				return unknownCommand(at, rest[0])
			}
			if err != nil {
				return err
			}
			return at.Help()
		},
	}
}
