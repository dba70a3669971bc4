//go:build system

package rig

// The machine of the examples that roll certagent out: it has what they need of a Debian, and of rpm as well.
var fleet = root{
	name: "fleet", suite: "bookworm", systemd: 252,
	packages: []string{"ansible-core", "python3-apt", "cloud-init", "rpm", "dnf"},
}
