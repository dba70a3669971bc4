// Package export writes a certificate in the shapes that its consumers read: PEM files and PKCS#12, each with an owner,
// a group and a mode of its own.
//
// Every output is one file that is replaced by renaming, so a reader sees the old one or the new one in full, and never
// with a wider mode than the one asked for. What is on disk is compared with what it should be and written anew where
// it differs, whoever changed it. The package keeps no state: what it learned about a file it hands out as a [Mark] and
// takes back. It must not decide when to look, must not make directories, and must not touch what lies where somebody
// else than root or the agent could have prepared it.
//
// Several files cannot change in one step. [Writer.Apply] makes the window between them as small as renames are, and a
// crash in it is made up for by applying again.
package export

import (
	"errors"
	"io/fs"

	"certagent/store/durable"
)

// Output is one file that a consumer of a certificate reads.
type Output struct {
	Format Format
	Path   string // absolute; what stands there must be a regular file or nothing
	// Owner and Group are names, or numbers; empty is the agent's own.
	Owner, Group string
	Mode         fs.FileMode // exact; zero is an error
	// Password gives the password of a pkcs12 output; nil means an empty one, and then only: an empty answer is refused,
	// being that of a file which is just written. It is asked at every look, so that a password that changed is noticed.
	// Its error becomes the output's; it must not tell the password.
	Password func() (string, error)
}

// Set is all outputs of one certificate.
type Set struct {
	Pair    Pair
	Outputs []Output // no two with one path; of two that links lead to one file the second is refused
}

// Result says how it stands with one output.
type Result struct {
	Path string
	// Drift is what was not as it should be before anything was written, such as "is gone"; empty if nothing.
	Drift string
	// Written reports whether there is a new file since then. With an Err beside it, it may not survive a crash.
	Written bool
	// Mark is proof that the output is right and durable, to be given to the next look. Empty if it is not.
	Mark Mark
	// Err is why the output could not be looked at or written: a [*RefusedError] where a person has to do something
	// first, else something that may pass.
	Err error
}

// Settled reports whether the output is right and will be so after a crash. What is not settled is due for
// [Writer.Apply], also where there is neither Drift nor Err: then only the proof is missing.
func (r Result) Settled() bool { return r.Mark != "" }

// Writer writes and checks outputs. It has no state. It is safe for concurrent use on sets that share no path; they may
// share directories.
type Writer struct {
	// FS is nil for the real file system, in which nobody can lead a process that has more rights than he out of his
	// own directories.
	FS durable.FS
	// UID and GID are the agent's user and group: the owner of what names no other, and trusted with directories beside
	// root. That is the owner of the state directory when root works for him. Note that zero is root.
	UID, GID int
}

// Check compares the outputs with what they should be and writes nothing. marks are those of earlier results, by path;
// an output with a mark that still fits is not read, so it need not be readable for the agent. The results are in the
// order of the outputs.
func (w Writer) Check(s Set, marks map[string]Mark) []Result {
	files := w.look(s, marks)
	defer forget(files)
	return results(files)
}

// Apply writes the outputs that differ from what they should be, and makes durable what is right already and not known
// to be. marks and results are as for [Writer.Check].
//
// All new files are complete and synced under temporary names before the first is renamed; then follow the renames, one
// straight after the other, then the syncs of the directories. One output that fails does not keep the others, with one
// exception: where the key changes and there is an output of the key alone, the files with the key and those with the
// certificate only serve together. If one of them cannot be replaced they all stay as they were, since an old pair that
// matches is better than half a new one.
//
// What an earlier Apply left that died half-way is removed.
func (w Writer) Apply(s Set, marks map[string]Mark) []Result {
	files := w.look(s, marks)
	defer forget(files)
	sweep(files)
	stage(files)
	dirs := openDirs(files)
	defer dirs.close()
	hold(files)
	publish(files)
	dirs.sync(files)
	prove(files)
	return results(files)
}

// Preflight says why an output could not be written where it is to go, as Result.Err does: for want of a safe directory, or of
// its owner or group. It does not look at what is there, and writes nothing. What only the agent itself can find out, such as
// a right that it lacks, it finds out where it is run as the agent.
func (w Writer) Preflight(o Output) error {
	f := w.file(o)
	if err := w.place(f); err != nil {
		return err
	}
	_, err := w.perm(o)
	return err
}

// Sweep removes what an Apply that died half-way left of outputs with these paths, for outputs that are none any more; the
// files at the paths themselves stay. It gives the paths of which nothing is left, among them those whose directory is gone.
func (w Writer) Sweep(paths []string) (clean []string) {
	for _, path := range paths {
		f := w.file(Output{Path: path})
		err := w.place(f)
		if err == nil {
			var entries []fs.DirEntry
			if entries, err = durable.ReadDir(f.fs, f.dir()); err == nil {
				err = f.sweep(entries)
			}
		}
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			clean = append(clean, path)
		}
	}
	return clean
}
