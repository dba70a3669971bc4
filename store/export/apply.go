package export

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"certagent/store/durable"
)

// file is an output on its way.
type file struct {
	out  Output
	by   Writer
	fs   durable.FS
	path string // of the output, without links
	perm durable.Perm
	data []byte // what it should hold

	stale   bool   // something else is there, which a consumer may be using
	drift   string // what is not as it should be
	proven  bool   // right, and known to be durable
	mark    Mark   // of what is right
	tmp     string // the new file under its temporary name
	made    fs.FileInfo
	written bool // the new file is in place
	err     error
}

func (f *file) dir() string { return filepath.Dir(f.path) }

// drop gives up a new file that is not in place yet.
func (f *file) drop(err error) {
	if f.tmp != "" {
		_ = f.fs.Remove(f.tmp) // err is the one to tell; what is left is swept by the next Apply
	}
	f.tmp, f.err = "", err
}

// forget overwrites what may hold private keys.
func forget(files []*file) {
	for _, f := range files {
		clear(f.data)
	}
}

func results(files []*file) []Result {
	rs := make([]Result, len(files))
	for i, f := range files {
		rs[i] = Result{Path: f.out.Path, Drift: f.drift, Written: f.written, Err: f.err}
		if f.proven && f.err == nil {
			rs[i].Mark = f.mark
		}
	}
	return rs
}

// look finds out about every output: where it goes, what it should be, what is there.
func (w Writer) look(s Set, marks map[string]Mark) []*file {
	files := make([]*file, len(s.Outputs))
	for i, o := range s.Outputs {
		f := w.file(o)
		if f.err = w.prepare(f, s.Pair); f.err == nil {
			f.err = f.compare(marks[o.Path])
		}
		if f.err != nil {
			info, err := f.fs.Lstat(f.path)
			f.stale = err == nil && info.Mode().IsRegular()
		}
		if j := slices.IndexFunc(files[:i], func(g *file) bool { return g.path == f.path }); j >= 0 && f.err == nil {
			f.err = refuseTwice(f, files[j])
		}
		files[i] = f
	}
	return files
}

func (w Writer) file(o Output) *file {
	f := &file{out: o, by: w, path: o.Path, fs: w.FS}
	if f.fs == nil {
		f.fs = durable.OS{}
	}
	return f
}

// prepare finds out where an output goes and what it should be.
func (w Writer) prepare(f *file, p Pair) error {
	if err := w.place(f); err != nil {
		return err
	}
	var err error
	if f.perm, err = w.perm(f.out); err != nil {
		return err
	}
	f.data, err = render(p, f.out)
	return err
}

// sweep removes new files that an earlier Apply did not get to put in place.
func sweep(files []*file) {
	listed := map[string][]fs.DirEntry{}
	for _, f := range files {
		if f.err != nil {
			continue
		}
		entries, ok := listed[f.dir()]
		if !ok {
			// What cannot be listed or removed now is swept by a later Apply; it harms nobody, it has the output's mode.
			entries, _ = durable.ReadDir(f.fs, f.dir())
			listed[f.dir()] = entries
		}
		_ = f.sweep(entries)
	}
}

// sweep removes what is left of f among the entries of its directory.
func (f *file) sweep(entries []fs.DirEntry) error {
	var errs []error
	for _, e := range entries {
		if durable.IsTempOf(e.Name(), f.path) && e.Type().IsRegular() {
			errs = append(errs, f.fs.Remove(filepath.Join(f.dir(), e.Name())))
		}
	}
	return errors.Join(errs...)
}

// stage writes a new file for each output that needs one, complete, with its owner, group and mode, and synced.
func stage(files []*file) {
	for _, f := range files {
		if f.err != nil || f.drift == "" {
			continue
		}
		tmp := durable.TempName(f.path)
		if err := durable.Create(f.fs, tmp, f.data, f.perm); err != nil {
			f.err = f.explain(err)
			continue
		}
		f.tmp = tmp
		var err error
		if f.made, err = f.fs.Lstat(tmp); err != nil {
			f.drop(f.explain(err))
		}
	}
}

// hold keeps the files of a pair from changing when one of them cannot.
func hold(files []*file) {
	rekeyed := slices.ContainsFunc(files, func(f *file) bool { return f.out.Format == Key && f.stale })
	broken := slices.IndexFunc(files, func(f *file) bool { return f.err != nil && f.stale && f.out.Format.half() })
	if !rekeyed || broken < 0 {
		return
	}
	for _, f := range files {
		if f.tmp != "" && f.out.Format.half() {
			f.drop(heldError(f, files[broken]))
		}
	}
}

// publish puts the new files in place, those that only serve together next to each other.
func publish(files []*file) {
	var alone, halves []*file
	for _, f := range files {
		if f.out.Format.half() {
			halves = append(halves, f)
		} else {
			alone = append(alone, f)
		}
	}
	started := false // some half is in place: from there the only way is on
	for _, f := range slices.Concat(alone, halves) {
		if f.tmp == "" {
			continue
		}
		if err := f.fs.Rename(f.tmp, f.path); err != nil {
			f.drop(f.explain(err))
			if f.out.Format.half() && !started {
				hold(halves)
			}
			continue
		}
		f.tmp, f.written = "", true
		started = started || f.out.Format.half()
	}
}

// openDirs opens the directories that are to be synced: once files are renamed nothing is left to do that could fail
// for want of a file descriptor. A file whose directory cannot be opened is not put in place.
func openDirs(files []*file) directories {
	dirs := directories{}
	for _, f := range files {
		if f.err != nil || f.proven {
			continue
		}
		if _, ok := dirs[f.dir()]; ok {
			continue
		}
		d, err := f.fs.OpenFile(f.dir(), os.O_RDONLY|durable.Directory|durable.NoFollow, 0)
		if err != nil {
			f.drop(f.explain(err))
			continue
		}
		dirs[f.dir()] = d
	}
	return dirs
}

// directories are open directories by path.
type directories map[string]durable.File

// sync makes durable what was put in place, and what was found right without a proof: it may be what an Apply left that
// failed or died just before this.
func (ds directories) sync(files []*file) {
	for path, d := range ds {
		err := d.Sync()
		for _, f := range files {
			if f.dir() != path || f.err != nil || f.proven {
				continue
			}
			if err != nil {
				f.err = f.explain(err)
				continue
			}
			f.proven = f.written || f.drift == ""
		}
	}
}

func (ds directories) close() {
	for _, d := range ds {
		d.Close() // read only: nothing can be lost
	}
}

// prove takes the marks of what was written, unless somebody has changed it since.
func prove(files []*file) {
	for _, f := range files {
		if !f.written || f.err != nil {
			continue
		}
		info, err := f.fs.Lstat(f.path)
		switch {
		case err != nil:
			f.err = f.explain(err)
		case !durable.SameFile(f.made, info) || !f.made.ModTime().Equal(info.ModTime()) || permDrift(f.perm, info) != "":
			f.err = fmt.Errorf("write %s: somebody changed it while it was written", f.out.Path)
		default:
			f.mark = markOf(f.data, info)
		}
	}
}
