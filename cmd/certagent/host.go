package main

import (
	"os"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"certagent/agent"
)

// host is this device.
func host() agent.Host {
	const file = "/etc/machine-id"
	return agent.Host{Hostname: os.Hostname, MachineID: machineID(file), Volatile: inMemory(file)}
}

var machineIDForm = regexp.MustCompile(`^[0-9a-f]{32}$`)

// machineID reads a machine-id(5). One that cannot be read, and text that is none, as "uninitialized" in an image, are none:
// every device might have that.
func machineID(file string) string {
	data, err := os.ReadFile(file)
	line, _, _ := strings.Cut(string(data), "\n")
	id := strings.ToLower(strings.TrimSpace(line))
	if err != nil || !machineIDForm.MatchString(id) || strings.Trim(id, "0") == "" {
		return ""
	}
	return id
}

// inMemory tells that a file goes with the next boot. It is where systemd puts the machine-id that it makes at each boot of
// a system whose /etc cannot be written and has none.
func inMemory(file string) bool {
	var s unix.Statfs_t
	if unix.Statfs(file, &s) != nil {
		return false
	}
	kind := uint32(s.Type) // a signed number of 32 or 64 bits, as the machine has it
	return kind == unix.TMPFS_MAGIC || kind == unix.RAMFS_MAGIC
}
