package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/rs/zerolog"
)

// The files settle before anybody looks: an editor saves in several steps, and a configuration may come in several files.
const (
	settleState  = 100 * time.Millisecond
	settleConfig = 2 * time.Second
)

// volumeLink is the link by which Kubernetes replaces all files of a ConfigMap at once: they are links through it, and stay as
// they are (AtomicWriter in k8s.io/kubernetes/pkg/volume/util).
const volumeLink = "..data"

// Watch notices a saved configuration and a certificate that somebody deleted or damaged. It watches directories, not
// files: an editor's rename ends the watch of a file. It returns nil when ctx ends, and an error when the system cannot
// watch; the clock task's look once a minute then still finds the certificates, and SIGHUP the configuration.
func (a *Agent) Watch(ctx context.Context) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch directories: %w", err)
	}
	defer w.Close()

	state := a.o.Store.Dir()
	certs := filepath.Join(state, "certs")
	ids := map[string]string{} // watched directory to the certificate it belongs to
	arm := func(dir string) bool {
		err := w.Add(dir)
		// What does not exist is armed when its parent says that it was made.
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.o.Log.Warn().Str("event", "watch").Str("directory", dir).Str("error", clip(err.Error())).
				Msg("directory not watched; it is looked at once a minute")
		}
		return err == nil
	}
	defer func() { // from here on it is up to the clock task
		for _, k := range a.allKeepers() {
			k.watched.Store(false)
		}
	}()
	armCertificate := func(k *keeper) {
		dirs, watched := k.stored.WatchDirs(), true
		for _, dir := range dirs {
			ids[dir] = k.id
			watched = arm(dir) && watched
		}
		k.watched.Store(watched)
		for dir, id := range ids {
			if id == k.id && !slices.Contains(dirs, dir) {
				delete(ids, dir)
				_ = w.Remove(dir) // a directory that is gone is not watched any more
			}
		}
	}
	armAll := func() {
		arm(filepath.Dir(state))
		arm(state)
		arm(certs)
		for _, k := range a.allKeepers() {
			armCertificate(k)
		}
	}
	file := a.o.Config.File
	if abs, err := filepath.Abs(file); err == nil {
		file = abs
	}
	dropins := filepath.Join(filepath.Dir(file), "config.d")
	arm(filepath.Dir(file))
	arm(dropins)
	armAll()

	dirty := map[string]bool{} // certificates whose files changed; "" stands for all
	var stateTimer, configTimer <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case err, ok := <-w.Errors:
			if !ok {
				return errors.New("watch directories: the watcher ended")
			}
			// Events may have been lost: look at everything. That a directory vanished under its watch comes here too.
			level := zerolog.DebugLevel
			if errors.Is(err, fsnotify.ErrEventOverflow) {
				level = zerolog.WarnLevel
			}
			a.o.Log.WithLevel(level).Str("event", "watch").Str("error", clip(err.Error())).Msg("watching directories; looking at everything")
			armAll()
			a.kickAll()
		case ev, ok := <-w.Events:
			if !ok {
				return errors.New("watch directories: the watcher ended")
			}
			dir := filepath.Dir(ev.Name)
			switch {
			case ev.Name == file, dir == dropins && strings.HasSuffix(ev.Name, ".toml"), ev.Name == dropins,
				filepath.Base(ev.Name) == volumeLink && (dir == filepath.Dir(file) || dir == dropins):
				if ev.Op == fsnotify.Chmod {
					break
				}
				arm(dropins)
				configTimer = time.After(settleConfig)
			default:
				if id, ok := ids[dir]; ok {
					dirty[id] = true
				} else if id, ok := ids[ev.Name]; ok {
					dirty[id] = true
				} else if dir == certs {
					dirty[filepath.Base(ev.Name)] = true // its directory came or went
				} else if ev.Name == state || ev.Name == certs {
					dirty[""] = true
				} else {
					continue
				}
				if stateTimer == nil {
					stateTimer = time.After(settleState)
				}
			}
		case <-stateTimer:
			stateTimer = nil
			if dirty[""] {
				armAll()
			}
			for _, k := range a.allKeepers() {
				if dirty[""] || dirty[k.id] {
					armCertificate(k)
					send(k.kick, struct{}{})
				}
			}
			clear(dirty)
		case <-configTimer:
			configTimer = nil
			a.Reload()
		}
	}
}
