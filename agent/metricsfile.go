package agent

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"certagent/store/durable"
)

// When the textfile is written: soon after something has changed, but not again and again while a thousand certificates are
// renewed, and from time to time so that its reader can tell that somebody still writes it. The memory of a gateway wears
// out by writing.
const (
	textfilePause = 5 * time.Second // at least, between two
	textfileEvery = 5 * time.Minute // at most; the rules in examples/prometheus wait for three of them
	// textfileRate is how many bytes a second are written in the long run, save for textfileEvery: a thousand certificates are
	// 2.5 MB, and in an outage one of them has something new at every moment.
	textfileRate = 8 << 10
)

// textfileRest is how long nothing is written behind so many bytes.
func textfileRest(size int) time.Duration {
	return min(max(textfilePause, time.Duration(size)*time.Second/textfileRate), textfileEvery)
}

// textfile is a file that the textfile collector of node_exporter reads. It belongs to keepTextfile.
type textfile struct {
	path    string // "" while there is none
	said    [sha256.Size]byte
	written time.Time // by the monotonic clock too; zero if it has to be written in any case
}

// due tells whether the metrics have to be written to path now, if the file is still there.
func (f *textfile) due(path string, said [sha256.Size]byte, now time.Time) bool {
	return path != f.path || said != f.said || f.written.IsZero() || now.Sub(f.written) >= textfileEvery
}

// keepTextfile writes the textfile where the configuration says, looking when it is told to: at news and once a minute. It is
// apart from everything else, because the file may lie on a file system that hangs. It ends with ctx; nobody waits for that.
// The file stays: whoever watches is to see when it was written last, and until when the certificates are valid.
func (a *Agent) keepTextfile(ctx context.Context) {
	f := &textfile{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.lookAtTextfile:
		}
		a.mu.Lock()
		path := a.cfg.Metrics.Textfile
		a.mu.Unlock()
		tried, err := a.lookAfterTextfile(f, path)
		a.noteMetrics(&a.textfileErr, err, "textfile with metrics")
		if tried > 0 {
			pause := time.NewTimer(textfileRest(tried))
			select {
			case <-ctx.Done():
			case <-pause.C:
			}
			pause.Stop()
		}
	}
}

// lookAfterTextfile writes the file at path if that is due. One at another path, which nobody keeps any more, is removed: it
// would say for ever what was true once. tried is how many bytes it wrote, or wanted to: a full disk wears out, too.
func (a *Agent) lookAfterTextfile(f *textfile, path string) (tried int, err error) {
	if f.path != "" && f.path != path {
		former := f.path
		*f = textfile{}
		if err := removeTextfile(former); err != nil {
			a.o.Log.Warn().Str("event", "metrics").Str("error", clip(err.Error())).Msg("former textfile not removed")
		}
	}
	if path == "" {
		return 0, nil
	}
	s := a.Snapshot()
	said, now := sha256.Sum256(lasting(s)), time.Now()
	if _, gone := os.Lstat(path); gone == nil && !f.due(path, said, now) {
		return 0, nil
	}
	text := metricsOf(s)
	if err := writeTextfile(path, text, f.path == ""); err != nil {
		f.written = time.Time{}
		return len(text), err
	}
	*f = textfile{path: path, said: said, written: now}
	return len(text), nil
}

// writeTextfile replaces the file in one step, for node_exporter may read it at any time. sweep removes what a crash left
// beside it.
func writeTextfile(path string, text []byte, sweep bool) error {
	real, err := placeTextfile(path)
	if err != nil {
		return err
	}
	fsys := durable.OS{}
	if sweep {
		sweepTextfile(fsys, real)
	}
	return durable.WriteFile(fsys, real, text, durable.Mode(0o644))
}

func placeTextfile(path string) (real string, err error) {
	dir, err := walk(filepath.Dir(path))
	if err != nil {
		return "", fmt.Errorf("write %s: %w", path, err)
	}
	return filepath.Join(dir, filepath.Base(path)), nil
}

// sweepTextfile removes temporary files of this file; one that stays bothers nobody.
func sweepTextfile(fsys durable.FS, path string) {
	dir := filepath.Dir(path)
	entries, err := durable.ReadDir(fsys, dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if durable.IsTempOf(e.Name(), path) {
			_ = fsys.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

func removeTextfile(path string) error {
	real, err := placeTextfile(path)
	if err == nil {
		err = durable.OS{}.Remove(real)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
