package main

import (
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestInTime: who asks for files gets what they say, and after so long the name of those that hang.
func TestInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &program{}
		forever := make(chan struct{})
		defer close(forever)
		_, err := inTime(p, time.Minute, func() (int, error) {
			p.reads("configuration", "/proc/config.toml")
			p.reads("state directory", "/proc/state")
			<-forever
			return 1, nil
		})
		if e, ok := errors.AsType[*notInTime](err); !ok || !errors.Is(err, os.ErrDeadlineExceeded) ||
			!strings.HasPrefix(e.Error(), "read the state directory /proc/state: nothing came within 1m0s; it lies on the proc file system ") {
			t.Errorf("what hangs is %v", err)
		}
		mistake := errors.New("a mistake")
		n, err := inTime(p, time.Minute, func() (int, error) {
			time.Sleep(time.Minute - 1)
			return 2, mistake
		})
		if n != 2 || err != mistake {
			t.Errorf("what does not hang gives %d, %v", n, err)
		}
	})
}

func TestMountOf(t *testing.T) {
	const mounts = `/dev/mmcblk0p2 / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
gone.example:/export /mnt/my\040files nfs4 rw,hard 0 0
tmpfs /mnt tmpfs rw 0 0
tmpfs /mnt tmpfs rw,size=2 0 0
odd\134 /odd\999 ext4 rw 0 0
`
	for path, want := range map[string]string{
		"/var/lib/certagent":   "the ext4 file system /dev/mmcblk0p2 at /",
		"/mnt/my files":        "the nfs4 file system gone.example:/export at /mnt/my files",
		"/mnt/my files/state":  "the nfs4 file system gone.example:/export at /mnt/my files",
		"/mnt/my files2/state": "the tmpfs file system tmpfs at /mnt",
		`/odd\999/x`:           `the ext4 file system odd\ at /odd\999`,
	} {
		if got := mountOf(mounts, path); got != want {
			t.Errorf("%s lies on %q, want %q", path, got, want)
		}
	}
	if got := mountOf("\nshort\n", "/"); got != "" {
		t.Errorf("without a table it lies on %q", got)
	}
}
