package config

import (
	"cmp"
	"iter"
	"path/filepath"
	"regexp"
)

var stateDirLine = regexp.MustCompile(`(?m)^[ \t]*(?:state_dir[ \t]*=[ \t]*(?:"([^"\\\n]*)"|'([^'\n]*)')|(\[))`)

// Peek recovers state_dir from a configuration that does not load, syntax errors included, so that the last good one
// can be found. It returns "" if that cannot be told, and then the default holds.
func Peek(file string) (stateDir string) {
	for doc := range documents(file) {
		if dir := peek(doc); dir != "" {
			stateDir = dir
		}
	}
	return stateDir
}

// PeekSocket recovers the control socket's path in the same way, so that a running agent can be told of a file that does
// not load. Without anything to go by it is the default.
func PeekSocket(file string, d Defaults) (socket string) {
	runDir := filepath.Dir(Socket(d))
	for doc := range documents(file) {
		root, _, _ := parseTOML("", doc)
		if n := root.get("run_dir"); n != nil && n.kind == kindString && filepath.IsAbs(n.text) {
			runDir = filepath.Clean(n.text)
		}
		if n := root.get("control").get("socket"); n != nil && n.kind == kindString && filepath.IsAbs(n.text) {
			socket = filepath.Clean(n.text)
		}
	}
	return cmp.Or(socket, filepath.Join(runDir, socketName))
}

// Socket is the path of the control socket where the configuration names neither it nor its directory.
func Socket(d Defaults) string { return filepath.Join(cmp.Or(d.RunDir, defaultRunDir), socketName) }

// documents are the files of a configuration, as far as they can be read.
func documents(file string) iter.Seq[[]byte] {
	files, err := filesOf(file, dropInsOf(file))
	if err != nil {
		files = []string{file}
	}
	return func(yield func([]byte) bool) {
		for _, f := range files {
			if doc, err := readFile(f); err == nil && !yield(doc) {
				return
			}
		}
	}
}

func peek(doc []byte) string {
	root, _, _ := parseTOML("", doc)
	if n := root.get("state_dir"); n != nil && n.kind == kindString && filepath.IsAbs(n.text) {
		return filepath.Clean(n.text)
	}
	// What stands behind a syntax error is looked at line by line, as far as the first table.
	for _, m := range stateDirLine.FindAllSubmatch(doc, -1) {
		if len(m[3]) > 0 {
			return ""
		}
		if dir := string(m[1]) + string(m[2]); filepath.IsAbs(dir) {
			return filepath.Clean(dir)
		}
	}
	return ""
}
