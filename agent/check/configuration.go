package check

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"certagent/agent/config"
)

// configuration judges what loading the configuration gave.
func (p *probes) configuration() []*Result {
	const id = "config-valid"
	var all []*Result
	mistakes, is := errors.AsType[config.Errors](p.ConfigError)
	switch {
	case is:
		for _, m := range mistakes {
			text := m.Text
			if m.Key != "" {
				text = m.Key + ": " + text
			}
			all = append(all, failed(id, m.Place.String(), text, m.Hint))
		}
	case p.ConfigError != nil:
		hint := "correct it; certagent config check says when it is right"
		if errors.Is(p.ConfigError, fs.ErrNotExist) {
			hint = "write it (examples/ has some), or name another with --config"
		} else if errors.Is(p.ConfigError, fs.ErrPermission) {
			hint = "run this as root or as the agent's user"
		}
		all = append(all, failed(id, p.File, p.ConfigError.Error(), hint))
	default:
		all = append(all, ok(id, p.File, counted(len(p.Config.Certificates), "certificate")))
	}
	if p.Config == nil || p.ConfigError != nil {
		return all
	}
	for i := range p.Config.Warnings {
		w := &p.Config.Warnings[i]
		text := w.Text
		if w.Key != "" {
			text = w.Key + ": " + text
		}
		all = append(all, warning("config-warning", w.Place.String(), text, w.Hint))
	}
	return all
}

// configFile judges a file of the configuration.
func (p *probes) configFile(path string) *Result {
	const id = "config-permissions"
	w, err := look(path)
	if r := p.User.readable(id, path, w, err); r.Verdict != OK {
		return r
	}
	if r := p.User.protected(id, path, w, p.safe(path, w)); r.Verdict != OK {
		return r
	}
	secret := stateOf(p.Config.NamedFiles(), func(f *config.NamedFile) bool { return f.Config && f.Path == path })
	if secret != nil && w.End.Mode&0o004 != 0 {
		return warning(id, path, fmt.Sprintf("everybody may read %s, which holds a password", w.End), "chmod o= "+path)
	}
	return ok(id, path, fmt.Sprintf("user %s can read it, and only %s can change it", p.User.Name, p.User.trusted()))
}

// safe judges the directories that a path leads through, and those behind a link at its end.
func (p *probes) safe(path string, w Way) error {
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	if err := p.User.safePlace(abs); err != nil || w.End.Path == abs {
		return err
	}
	return p.User.safePlace(w.End.Path)
}

// namedFile judges a file that the configuration names.
func (p *probes) namedFile(f *config.NamedFile) []*Result {
	w, err := look(f.Path)
	r := p.User.readable("file-readable", f.Path, w, err)
	if r.Verdict == Failed && errors.Is(err, fs.ErrNotExist) {
		r.Text += " (" + f.Key + " at " + f.Place.String() + ")"
	}
	all := []*Result{r}
	if err != nil || !w.End.Mode.IsRegular() {
		return all // of a directory that stands where a key should nobody is to be told to close it
	}
	if f.Secret {
		all = append(all, p.User.private("file-private", f.Path, w))
	}
	return append(all, p.User.protected("file-protected", f.Path, w, p.safe(f.Path, w)))
}
