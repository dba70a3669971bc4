package main

import (
	"os"
	"os/user"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"certagent/agent/hook"
)

// hookExec is the command with which the agent starts itself to become the program of a hook.
const hookExec = "hook-exec"

// hookExecCommand is for the agent alone, and so not shown.
func (p *program) hookExecCommand() *cobra.Command {
	return &cobra.Command{
		Use: hookExec + " PROGRAM [ARGUMENT…]", Short: "become the program of a hook", Hidden: true,
		DisableFlagParsing: true, // all words are the program's
		RunE:               func(_ *cobra.Command, words []string) error { return failed(hook.Become(words)) },
	}
}

// hooksAs is whom programs run as: nil, which is this process's user, unless root works for the owner of the state
// directory (`sudo certagent run --once`). Then it is the owner, as in the daemon, with the groups of /etc/group: what a
// hook makes does not belong to root where the daemon's next one could not change it.
func hooksAs(uid, gid int) *syscall.Credential {
	if os.Geteuid() != 0 || uid == 0 {
		return nil
	}
	as := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return as // a number without a name is in no other group
	}
	ids, err := u.GroupIds()
	if err != nil {
		return as // fewer rights, and a hook that fails for want of them says so
	}
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil {
			as.Groups = append(as.Groups, uint32(n))
		}
	}
	return as
}
