package main

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"certagent/agent/status"
)

// lookOf is how what goes to stream should look: colours on a terminal alone, never with NO_COLOR (https://no-color.org) nor
// where TERM names none that has them; as wide as the terminal; in UTF-8 where the locale says so (locale(7)).
func lookOf(stream any, getenv func(string) string) status.Look {
	if o, ok := stream.(*output); ok {
		stream = o.w
	}
	look := status.Look{Unicode: inUTF8(getenv)}
	if f, ok := stream.(*os.File); ok && isTerminal(f) {
		term := getenv("TERM")
		look.Colour = getenv("NO_COLOR") == "" && term != "" && term != "dumb"
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil {
			look.Columns = int(size.Col)
		}
	}
	return look
}

// inUTF8 tells whether the locale's encoding is UTF-8: of its variables the first that is set counts.
func inUTF8(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if locale := getenv(name); locale != "" {
			_, encoding, _ := strings.Cut(locale, ".")
			encoding, _, _ = strings.Cut(encoding, "@")
			return strings.EqualFold(encoding, "UTF-8") || strings.EqualFold(encoding, "utf8")
		}
	}
	return false
}
