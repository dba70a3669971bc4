package export_test

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"certagent/store/durable"
	"certagent/store/durable/durabletest"
	"certagent/store/export"
)

// Every call fails once, in every mode, while the outputs of all formats are written: for the first time, after a
// renewal, and after some drifted. After each, every file is the old or the new one in full, no key was ever readable
// by others, a result that says it is settled is; and when Apply is called again all is right, durable, and nothing is
// left over.
func TestEveryCallFails(t *testing.T) {
	sub, old := issuing(t)
	pair, err := sub.pair()
	must(t, err)
	in := func(p export.Pair) map[string]state {
		a, b := t.TempDir(), t.TempDir()
		settled(t, writer(nil).Apply(export.Set{Pair: p, Outputs: twoPlaces(a, b)}, nil))
		return files(t, a, b)
	}
	was, want := in(old), in(pair)
	drifted := maps.Clone(want)
	drifted["key"] = state{want["key"].text, 0o644}
	drifted["pkcs12"] = state{was["pkcs12"].text, 0o600}
	delete(drifted, "cert")
	for name, before := range map[string]map[string]state{"first time": {}, "renewal": was, "drift": drifted} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := sweep{pair, before, want}
			for _, mode := range durabletest.Modes {
				visited, stride := 0, durabletest.Stride(5)
				for n := 1; s.breakAt(t, n, mode); n += stride {
					visited++
				}
				t.Logf("%v: %d fault points, every %dth call", mode, visited, stride)
				if durabletest.Few(visited, 4) {
					t.Errorf("%v: only %d fault points", mode, visited)
				}
			}
		})
	}
}

// twoPlaces are outputs of all formats in two directories.
func twoPlaces(a, b string) []export.Output {
	return append(outputs(a, allFormats[:6]...), outputs(b, allFormats[6:]...)...)
}

// sweep is one Apply that is done over and over: what it writes, and the files before and after it, by name.
type sweep struct {
	pair         export.Pair
	before, want map[string]state
}

// breakAt has the n-th call fail, checks, and reports whether there were that many calls.
func (s sweep) breakAt(t *testing.T, n int, mode durabletest.Mode) bool {
	t.Helper()
	top, err := os.MkdirTemp("", "")
	must(t, err)
	defer os.RemoveAll(top)
	a, b := filepath.Join(top, "a"), filepath.Join(top, "b")
	must(t, os.Mkdir(a, 0o755), os.Mkdir(b, 0o755))
	set := export.Set{Pair: s.pair, Outputs: twoPlaces(a, b)}
	for _, o := range set.Outputs {
		if f, ok := s.before[filepath.Base(o.Path)]; ok {
			must(t, os.WriteFile(o.Path, []byte(f.text), 0o600), os.Chmod(o.Path, f.mode))
		}
	}

	base := durabletest.NoSync{FS: durable.OS{}}
	fsys := durabletest.New(&guard{FS: base, t: t}, n, mode)
	first := writer(fsys).Apply(set, nil)
	at := fsys.Fired()
	if u := fsys.Unsynced(); len(u) > 0 {
		t.Errorf("%v at %s: renamed %v", mode, at, u)
	}
	if at == "" {
		settled(t, first)
		if d := fsys.Dirty(); len(d) > 0 {
			t.Errorf("done before all was synced: %v", d)
		}
	}
	between := files(t, a, b)
	for i, o := range set.Outputs {
		r, name := first[i], filepath.Base(o.Path)
		before, is, want := s.before[name], between[name], s.want[name]
		if is != before && is != want {
			t.Errorf("%v at %s: %s is neither the old file nor the new one", mode, at, name)
		}
		if r.Settled() && (is != want || r.Err != nil) || !r.Settled() && r.Err == nil {
			t.Errorf("%v at %s: result %+v", mode, at, r)
		}
		if mode == durabletest.Fail && (is != before) != r.Written && before != want {
			t.Errorf("%v at %s: %s is new: %v, and the result is %+v", mode, at, name, is != before, r)
		}
	}

	// A process that failed goes on with its file system, and one that died is followed by another.
	var again []export.Result
	if mode == durabletest.Stop || at == "" {
		again = writer(base).Apply(set, nil)
	} else {
		again = writer(fsys).Apply(set, marks(first))
		if d := fsys.Dirty(); len(d) > 0 {
			t.Errorf("%v at %s: after Apply again these are not synced: %v", mode, at, d)
		}
	}
	settled(t, again)
	if after := files(t, a, b); !maps.Equal(after, s.want) {
		t.Errorf("%v at %s: in the end there are %q", mode, at, slices.Sorted(maps.Keys(after)))
	}
	return at != ""
}

// state is a file as a consumer sees it.
type state struct {
	text string
	mode fs.FileMode
}

// files are all files in dirs, by name.
func files(t *testing.T, dirs ...string) map[string]state {
	t.Helper()
	all := map[string]state{}
	for _, dir := range dirs {
		for name, text := range contents(t, dir) {
			all[name] = state{text, lstat(t, filepath.Join(dir, name)).Mode()}
		}
	}
	return all
}

// guard watches that no key is ever where others can read it: when it is written, and whenever a mode changes.
type guard struct {
	durable.FS
	t *testing.T
}

type guardedFile struct {
	durable.File
	t      *testing.T
	secret bool
}

func (g *guard) OpenFile(path string, flag int, m fs.FileMode) (durable.File, error) {
	f, err := g.FS.OpenFile(path, flag, m)
	if err != nil {
		return nil, err
	}
	return &guardedFile{File: f, t: g.t}, nil
}

func (g *guardedFile) check(doing string) {
	info, err := g.Stat()
	if err != nil {
		g.t.Error(err)
	} else if g.secret && info.Mode()&0o077 != 0 {
		g.t.Errorf("%s a private key with mode %v", doing, info.Mode())
	}
}

func (g *guardedFile) Write(p []byte) (int, error) {
	g.secret = g.secret || strings.Contains(string(p), "PRIVATE KEY") || !strings.HasPrefix(string(p), "-----BEGIN")
	g.secret = g.secret && len(p) > 0 // an empty chain
	g.check("writing")
	return g.File.Write(p)
}

func (g *guardedFile) Chmod(m fs.FileMode) error {
	err := g.File.Chmod(m)
	g.check("changing the mode of")
	return err
}
