package agent

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/status"
	"certagent/store/durable"
)

// slowReads is a disk on which what certificate id has is not read before release is closed.
type slowReads struct {
	durable.FS
	id      string
	release <-chan struct{}
	reading atomic.Bool
}

func (s *slowReads) OpenFile(path string, flag int, mode fs.FileMode) (durable.File, error) {
	if strings.Contains(path, filepath.Join("certs", s.id)+"/gen-") {
		s.reading.Store(true)
		<-s.release
	}
	return s.FS.OpenFile(path, flag, mode)
}

// TestReadyBeforeAllIsRead: an agent whose disk takes its time is ready at once, and says nothing of any certificate until it has
// read them all: nobody is told that one is missing which is there. Nor does anybody act on what was not read.
func TestReadyBeforeAllIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, 90*day, oneCertificate)
		d.mustTurn()
		issued := len(d.ca.seen())
		release := make(chan struct{})
		disk := &slowReads{FS: durable.OS{Root: d.state()}, id: "device-id", release: release}
		told := &syncBuffer{}
		d.change = func(o *Options) {
			o.Watchdog, o.Notify = 3*time.Minute, func(s string) { _, _ = told.Write([]byte(s + "\n")) }
		}
		a, stop := d.bootOn(disk)
		defer stop()
		settle()
		if !disk.reading.Load() {
			t.Fatal("nothing is being read")
		}
		if got := told.String(); !strings.Contains(got, "READY=1\nSTATUS=reading ") {
			t.Errorf("the service manager is told %q", got)
		}
		answers, reloaded := make(chan status.Snapshot, 1), make(chan error, 1)
		go func() { answers <- a.Snapshot() }()
		go func() { reloaded <- a.ReloadNow(context.Background()) }()
		time.Sleep(10 * time.Minute)
		settle()
		if len(answers) > 0 || len(reloaded) > 0 {
			t.Errorf("before all is read %d are told how certificates are, and %d that the configuration is another", len(answers), len(reloaded))
		}
		before := told.String()
		if strings.Contains(before, "valid") || strings.Count(before, "WATCHDOG=1") > 1 { // the one at the start
			t.Errorf("in ten minutes in which a disk hangs the service manager is told %q", before)
		}
		if n := len(d.ca.seen()); n != issued {
			t.Errorf("%d certificates issued for want of reading", n-issued)
		}
		close(release)
		settle()
		if c := (<-answers).Certificates; len(c) != 1 || c[0].State != status.Valid || c[0].Generation != 1 {
			t.Errorf("then it tells %+v", c)
		}
		if err := <-reloaded; err != nil {
			t.Error(err)
		}
		time.Sleep(10 * time.Minute)
		settle()
		got := strings.TrimPrefix(told.String(), before)
		if !strings.Contains(got, "STATUS=1 of 1 certificates valid") || strings.Count(got, "WATCHDOG=1") < 9 {
			t.Errorf("then the service manager is told %q", got)
		}
	})
}

// TestNobodyActsBeforeAllIsRead: what one certificate does depends on another's being there, its EST identity. While that one is not
// read it is not taken for missing, and nothing is done without it.
func TestNobodyActsBeforeAllIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, 90*day, withESTIdentity)
		d.mustTurn()
		if err := os.RemoveAll(filepath.Join(d.state(), "certs/device-id")); err != nil {
			t.Fatal(err)
		}
		issued := len(d.ca.seen())
		release := make(chan struct{})
		disk := &slowReads{FS: durable.OS{Root: d.state()}, id: "est-id", release: release}
		a, stop := d.bootOn(disk)
		defer stop()
		time.Sleep(time.Hour)
		settle()
		if n := len(d.ca.seen()); !disk.reading.Load() || n != issued {
			t.Errorf("reading: %v; %d attempts before the EST identity is read", disk.reading.Load(), n-issued)
		}
		close(release)
		time.Sleep(time.Minute)
		settle()
		for _, c := range a.Snapshot().Certificates {
			if c.ID == "device-id" && (c.State != status.Valid || c.LastIdentity != "est-identity") {
				t.Errorf("then the certificate is %s, by %s", c.State, c.LastIdentity)
			}
		}
	})
}

// TestStopBeforeAllIsRead: an agent whose disk hangs at the start can be stopped, and does nothing more when it answers.
func TestStopBeforeAllIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		d.mustTurn()
		issued := len(d.ca.seen())
		release := make(chan struct{})
		a, stop := d.bootOn(&slowReads{FS: durable.OS{Root: d.state()}, id: "device-id", release: release})
		time.Sleep(time.Minute)
		a.RenewAll()
		a.Reload()
		began := time.Now()
		stop()
		if took := time.Since(began); took > stopGrace {
			t.Errorf("it took %v to stop", took)
		}
		close(release)
		time.Sleep(time.Hour)
		settle()
		if n := len(d.ca.seen()); n != issued {
			t.Errorf("%d certificates issued after the end", n-issued)
		}
	})
}

// crashingDisk crashes who reads one of the files of certificate device-id.
type crashingDisk struct {
	durable.FS
	file string
}

func (c crashingDisk) OpenFile(path string, flag int, mode fs.FileMode) (durable.File, error) {
	if strings.Contains(path, filepath.Join("certs", "device-id")+"/") && filepath.Base(path) == c.file {
		panic("deliberate")
	}
	return c.FS.OpenFile(path, flag, mode)
}

// TestReadingThatCrashes: a crash over what is kept of one certificate, which would come at every start, is that certificate's problem,
// and nothing that was kept of it counts as gone.
func TestReadingThatCrashes(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"cert.pem", "retry.json"} {
		t.Run(file, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newDevice(t, 90*day, oneCertificate+"\n[cert_issuance.certs.mqtt]\nmethod = \"est\"\ncommon_name = \"mqtt\"\n")
				d.mustTurn()
				issued := len(d.ca.seen())
				kept, err := os.ReadFile(filepath.Join(d.state(), "certs", "device-id", "retry.json"))
				if err != nil {
					t.Fatal(err)
				}
				a, stop := d.bootOn(crashingDisk{durable.OS{Root: d.state()}, file})
				defer stop()
				time.Sleep(5 * time.Minute)
				settle()
				for _, c := range a.Snapshot().Certificates {
					switch crashed := strings.Contains(codes(c), "internal"); {
					case c.ID == "device-id" && !crashed, c.ID == "mqtt" && (crashed || c.State != status.Valid):
						t.Errorf("%s: %s, problems: %s", c.ID, c.State, codes(c))
					}
				}
				if n := len(d.ca.seen()); n != issued {
					t.Errorf("%d certificates issued for a crash", n-issued)
				}
				if now, err := os.ReadFile(filepath.Join(d.state(), "certs", "device-id", "retry.json")); err != nil || string(now) != string(kept) {
					t.Errorf("%v; what is kept of its tries is now %s, and was %s", err, now, kept)
				}
			})
		})
	}
}
