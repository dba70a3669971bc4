package config

import (
	"path/filepath"
	"regexp"
)

var stateDirLine = regexp.MustCompile(`(?m)^[ \t]*(?:state_dir[ \t]*=[ \t]*(?:"([^"\\\n]*)"|'([^'\n]*)')|(\[))`)

// Peek recovers state_dir from a configuration that does not load, syntax errors included, so that the last good one
// can be found. It returns "" if that cannot be told, and then the default holds.
func Peek(file string) (stateDir string) {
	files, err := filesOf(file)
	if err != nil {
		files = []string{file}
	}
	for _, f := range files {
		doc, err := readFile(f)
		if err != nil {
			continue
		}
		if dir := peek(doc); dir != "" {
			stateDir = dir
		}
	}
	return stateDir
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
