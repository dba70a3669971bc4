package onboard

import (
	"net"
	"strings"
)

// IsHost reports whether s can be the complete name of a host: letters, digits, dashes and dots (RFC 1123 2.1), and no
// address. Applications connect to such names and TLS sends them (RFC 6066 3), so nothing that could be read as a URL, a
// path or an option may pass for one.
func IsHost(s string) bool {
	if len(s) > 253 || !strings.Contains(s, ".") || net.ParseIP(s) != nil {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			strings.ContainsFunc(label, func(r rune) bool {
				letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
				return !letter && r != '-'
			}) {
			return false
		}
	}
	return true
}
