package check

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"certagent/agent/config"
	"certagent/agent/hook"
	"certagent/agent/status"
	"certagent/store/durable"
	"certagent/store/export"
)

// output finds out about an output's directory, and judges that and what status says of it and its certificate.
func (p *probes) output(o *config.Output, state *status.Output, of *status.Certificate) []*Result {
	all := []*Result{p.place(o)}
	if state == nil {
		return all
	}
	const id = "output-state"
	switch state.State {
	case "failed":
		return append(all, failed(id, o.Path, state.Error, cmp.Or(hintFor(of, state.Error), "see to the reason; the agent tries again")))
	case "pending":
		return append(all, pending(id, o.Path, "it is not written for the live certificate yet", of))
	}
	return append(all, ok(id, o.Path, "it is what it should be ("+state.Format+")"))
}

// pending is what is still to be done for a certificate, if there is one.
func pending(id, subject, text string, of *status.Certificate) *Result {
	if of.State == status.Missing {
		return skipped(id, subject, "there is no certificate yet")
	}
	return warning(id, subject, text, "the agent does so by itself while it runs")
}

// place judges where an output goes: what the agent itself would refuse, and then what the agent's user lacks.
func (p *probes) place(o *config.Output) *Result {
	const id = "output-place"
	u := p.User
	err := export.Writer{UID: u.UID, GID: u.GIDs[0]}.Preflight(export.Output{
		Format: export.Format(o.Format), Path: o.Path, Owner: o.Owner, Group: o.Group, Mode: o.Mode,
	})
	if refused, is := errors.AsType[*export.RefusedError](err); is {
		if r, is := unseen(id, o.Path, refused.Err); is {
			return r
		}
		return failed(id, o.Path, refused.Why, refused.Hint)
	}
	if err != nil {
		return failed(id, o.Path, err.Error(), "")
	}
	dir := filepath.Dir(o.Path)
	w, err := look(dir)
	if r, is := unseen(id, o.Path, err); is {
		return r
	}
	if err != nil {
		return failed(id, o.Path, err.Error(), "")
	}
	if r, blocked := u.entered(id, o.Path, w); blocked {
		return r
	}
	if !u.may(w.End, Write) || !u.may(w.End, Enter) {
		return failed(id, o.Path, fmt.Sprintf("user %s may not write in %s", u.Name, w.End),
			fmt.Sprintf("chown %s %s, or give its group the right to write there", u.Name, dir))
	}
	if info, err := os.Lstat(o.Path); err == nil && !info.Mode().IsRegular() {
		return failed(id, o.Path, (&durable.KindError{Path: o.Path, Mode: info.Mode(), Want: "a regular file"}).Error(),
			"remove it, or choose another path: certagent replaces nothing but files")
	}
	if mounted(dir, unix.ST_RDONLY) {
		return failed(id, o.Path, "the file system of "+dir+" is mounted read-only", "mount it for writing, or choose another path")
	}
	return ok(id, o.Path, fmt.Sprintf("user %s can write in %s", u.Name, dir))
}

// hookOf finds out whether what a hook runs, or tells, is there, and judges that and what status says of it and its certificate.
func (p *probes) hookOf(ctx context.Context, h *hook.Hook, subject string, state *status.Hook, of *status.Certificate) []*Result {
	var all []*Result
	if h.Action == hook.Exec {
		all = append(all, p.program(h.Argv[0], subject))
	} else {
		all = append(all, p.unit(ctx, h.Unit, subject))
	}
	if state == nil {
		return all
	}
	const id = "hook-state"
	switch {
	case state.Error != "" && state.State != "ok":
		return append(all, failed(id, subject, state.Error, cmp.Or(hintFor(of, state.Error), "certagent status --json has its output")))
	case state.State == "pending":
		return append(all, pending(id, subject, "it was not run for the live certificate yet", of))
	case state.State != "ok":
		return append(all, failed(id, subject, "it failed", ""))
	case state.Skipped != "":
		return append(all, ok(id, subject, "there was nobody to tell: "+state.Skipped))
	}
	return append(all, ok(id, subject, "its last run did not fail"))
}

// program judges a program that is run after a renewal.
func (p *probes) program(path, subject string) *Result {
	const id = "hook-program"
	u := p.User
	w, err := look(path)
	if r, blocked := u.entered(id, subject, w); blocked {
		return r
	}
	if r, is := unseen(id, subject, err); is {
		return r
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return failed(id, subject, path+" does not exist", "install it, or correct its path")
	case err != nil:
		return failed(id, subject, err.Error(), "correct its path")
	case !w.End.Mode.IsRegular():
		return failed(id, subject, fmt.Sprintf("%s is no program", w.End), "name a program")
	case !u.may(w.End, Enter):
		return failed(id, subject, fmt.Sprintf("user %s may not execute %s", u.Name, w.End), "chmod +x "+w.End.Path)
	}
	if who := u.others(w.End, Write, -1); who != "" {
		return failed(id, subject, fmt.Sprintf("%s may write %s, and so chooses what runs with the agent's rights", who, w.End),
			"chown root "+w.End.Path+" and chmod go-w "+w.End.Path)
	}
	if mounted(w.End.Path, unix.ST_NOEXEC) {
		return failed(id, subject, "the file system of "+w.End.Path+" is mounted noexec: no program in it can be run",
			"put the program elsewhere, below /usr/local or /opt for instance")
	}
	if by := interpreter(w.End.Path); by != "" {
		if _, err := os.Stat(by); errors.Is(err, fs.ErrNotExist) {
			return failed(id, subject, fmt.Sprintf("its interpreter %q does not exist", by),
				"correct its first line, which must end without a carriage return, or install the interpreter")
		}
	}
	return ok(id, subject, fmt.Sprintf("user %s can execute it", u.Name))
}

// mounted tells whether the file system of path is mounted with an option (statfs(2)).
func mounted(path string, option int64) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && int64(s.Flags)&option != 0
}

// interpreter is what a script names in its first line (execve(2)); "" for what is none, or cannot be read.
func interpreter(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	head := make([]byte, 256) // as much of it as the kernel reads
	n, _ := io.ReadFull(f, head)
	line, found := bytes.CutPrefix(head[:n], []byte("#!"))
	if !found {
		return ""
	}
	line, _, _ = bytes.Cut(line, []byte("\n"))
	line, _, _ = bytes.Cut(bytes.Trim(line, " \t"), []byte(" "))
	return string(line)
}

// unit judges a systemd unit that is told after a renewal.
func (p *probes) unit(ctx context.Context, name, subject string) *Result {
	state, err := hook.Loaded(ctx, name)
	return unitState("hook-unit", subject, name, state, err)
}

func unitState(id, subject, name, state string, err error) *Result {
	if e, is := errors.AsType[*hook.Error](err); is {
		return failed(id, subject, e.Error(), e.Hint)
	}
	switch state {
	case "loaded":
		return ok(id, subject, "systemd knows it")
	case "not-found":
		return failed(id, subject, "systemd knows no "+name, "correct the unit's name, or install it; systemctl list-unit-files has them")
	case "masked":
		return warning(id, subject, name+" is masked: it is told nothing", "systemctl unmask "+name+", or leave it out of on_renew")
	}
	return failed(id, subject, fmt.Sprintf("%s is %s", name, state), "systemctl status "+name+" says why")
}

// stateOf finds an output, a hook or a problem in what status says; nil where it is not there.
func stateOf[T any](all []T, is func(*T) bool) *T {
	for i := range all {
		if is(&all[i]) {
			return &all[i]
		}
	}
	return nil
}
