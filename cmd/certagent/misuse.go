package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"certagent/agent/config"
)

// command refuses what stands where the name of a subcommand should.
func command(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return unknownCommand(c, args[0])
}

// unknownCommand says that c has no subcommand of that name, and which might have been meant.
func unknownCommand(c *cobra.Command, name string) error {
	if !c.HasAvailableSubCommands() {
		return unexpected(c, name)
	}
	try := c.CommandPath() + " --help lists the commands"
	var names []string
	for _, e := range shown(c) {
		names = append(names, e.term)
	}
	if near := nearest(name, names); near != "" {
		try = "did you mean " + near + "?"
	}
	return misused(&hint{fmt.Errorf("unknown command %q for %q", name, c.CommandPath()), try})
}

// unexpected refuses an argument that the command has no use for.
func unexpected(c *cobra.Command, arg string) error {
	return misused(&hint{fmt.Errorf("%s: unexpected argument %q", nameOf(c), arg), c.CommandPath() + " --help says how it is used"})
}

// nameOf is what a command is called, without the program's, which stands in front of every message.
func nameOf(c *cobra.Command) string { return strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" ") }

// one asks for the argument that is missing, and refuses more than one.
func one(question, try string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return misused(&hint{fmt.Errorf("%s: %s", nameOf(c), question), try})
		}
		return atMost(1)(c, args)
	}
}

// atMost refuses more than n arguments.
func atMost(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) <= n {
			return nil
		}
		return unexpected(c, args[n])
	}
}

// badFlag turns what the flags' parser says into what was wrong, and what to write.
func badFlag(c *cobra.Command, err error) error {
	try := c.CommandPath() + " --help lists the flags"
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok && e.GetSpecifiedShortnames() != "" {
		err = fmt.Errorf("unknown flag: -%s", e.GetSpecifiedShortnames())
		if name := e.GetSpecifiedShortnames(); c.Flags().Lookup(name) != nil {
			try = "did you mean --" + name + "?"
		}
	} else if ok {
		var names []string
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				names = append(names, f.Name)
			}
		})
		if near := nearest(e.GetSpecifiedName(), names); near != "" {
			try = "did you mean --" + near + "?"
		} else if owner := commandWith(c.Root(), e.GetSpecifiedName()); owner != nil {
			try = "it is a flag of " + owner.CommandPath()
		}
	}
	if e, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		name, _ := placeholder(e.GetFlag())
		err = fmt.Errorf("flag needs an argument: --%s %s", e.GetFlag().Name, name)
	}
	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		switch f := e.GetFlag(); f.Value.Type() {
		case "duration":
			err = fmt.Errorf("--%s: %q is not a time", f.Name, e.GetValue())
			try = "write it as 90s, 10m or 2h"
		case "bool":
			err = fmt.Errorf("--%s: %q is neither true nor false", f.Name, e.GetValue())
			try = "--" + f.Name + " alone says yes"
		default:
			err = fmt.Errorf("--%s: %q: %w", f.Name, e.GetValue(), errors.Unwrap(e))
		}
	}
	return misused(&hint{err, try})
}

// commandWith is a command at or below c that has a flag of that name.
func commandWith(c *cobra.Command, name string) *cobra.Command {
	if f := c.LocalFlags().Lookup(name); f != nil && !f.Hidden {
		return c
	}
	for _, sub := range c.Commands() {
		if !sub.IsAvailableCommand() {
			continue
		}
		if owner := commandWith(sub, name); owner != nil {
			return owner
		}
	}
	return nil
}

// nearest is the name that was probably meant: the closest one, or the only one that begins so.
func nearest(name string, names []string) string {
	if near := config.Nearest(name, names); near != "" || name == "" {
		return near
	}
	begun := ""
	for _, n := range names {
		if strings.HasPrefix(n, name) {
			if begun != "" {
				return ""
			}
			begun = n
		}
	}
	return begun
}
