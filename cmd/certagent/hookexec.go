package main

import (
	"github.com/spf13/cobra"

	"certagent/agent/hook"
)

// hookExec is the command with which the agent starts itself to become the program of a hook.
const hookExec = "hook-exec"

// hookExecCommand is for the agent alone, and so not shown.
func (p *program) hookExecCommand() *cobra.Command {
	return &cobra.Command{
		Use: hookExec + " PATH NAME [ARGUMENT…]", Short: "become the program of a hook", Hidden: true,
		DisableFlagParsing: true, // all words are the program's
		RunE:               func(_ *cobra.Command, words []string) error { return failed(hook.Become(words)) },
	}
}
