package agent

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"certagent/agent/status"
	"certagent/est"
	"certagent/store/durable"
)

func ended(result, class string, count int) status.Attempts {
	return status.Attempts{Result: result, Class: class, Count: count}
}

func TestCounted(t *testing.T) {
	var all []status.Attempts
	for _, end := range [][2]string{
		{"issued", ""}, {"failed", "b"}, {"failed", "a"}, {"issued", ""}, {"failed", "b"}, {"early", "b"},
	} {
		before := slices.Clone(all)
		shared := all
		all = counted(all, end[0], end[1])
		if !reflect.DeepEqual(shared, before) {
			t.Fatalf("counting %q changed what others look at: %+v, before %+v", end, shared, before)
		}
	}
	want := []status.Attempts{
		ended("early", "b", 1), ended("failed", "a", 1), ended("failed", "b", 2), ended("issued", "", 2),
	}
	if !reflect.DeepEqual(all, want) {
		t.Errorf("%+v, want %+v", all, want)
	}
}

// TestAttemptsAreCounted: every attempt is counted once, by how it ended, from the start of the agent on.
func TestAttemptsAreCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, day, oneCertificate)
		a, stop := d.boot()
		settle()
		expect := func(want ...status.Attempts) {
			t.Helper()
			settle()
			if got := shown(t, a, "device-id").Attempts; !reflect.DeepEqual(got, want) {
				t.Errorf("%+v, want %+v", got, want)
			}
		}
		expect(ended("issued", "", 1))
		a.RenewAll()
		expect(ended("issued", "", 2))
		d.ca.fail(func(call) error { return &est.Error{Class: est.ErrPending, RetryAfter: time.Hour} })
		a.RenewAll()
		expect(ended("issued", "", 2), ended("waiting", "pending", 1))
		d.ca.fail(func(call) error { return &est.Error{Class: est.ErrUnavailable} })
		time.Sleep(2 * time.Hour)
		settle()
		n := shown(t, a, "device-id").Failures
		if n < 2 {
			t.Fatalf("%d failures in two hours", n)
		}
		expect(ended("failed", "unavailable", n), ended("issued", "", 2), ended("waiting", "pending", 1))
		stop()

		a, stop = d.boot()
		defer stop()
		expect(ended("issued", "", 0))
		if got := shown(t, a, "device-id").Failures; got != n {
			t.Errorf("%d failures after the start, want the %d of before", got, n)
		}
	})
}

// textfileOf is a device with a textfile, and a function that reads the time at which the text was made, or -1 where there is
// no file.
func textfileOf(t *testing.T) (d *device, made func() float64) {
	d = newDevice(t, day, oneCertificate+"[metrics]\ntextfile = \"DIR/node/certagent.prom\"\n")
	return d, func() float64 { return madeAt(t, filepath.Join(d.dir, "node", "certagent.prom")) }
}

func madeAt(t *testing.T, file string) float64 {
	t.Helper()
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return -1
	}
	if err != nil {
		t.Fatal(err)
	}
	return valueOf(t, string(text), "certagent_snapshot_timestamp_seconds")
}

// valueOf is the value of a sample that must be there.
func valueOf(t *testing.T, text, series string) float64 {
	t.Helper()
	_, rest, found := strings.Cut(text, "\n"+series+" ")
	value, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseFloat(value, 64)
	if !found || err != nil {
		t.Fatalf("no sample %s in\n%s", series, text)
	}
	return n
}

func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// TestTextfile: it is there soon after the start and after each change, else written every five minutes, by no more than one
// rename; somebody who removes it has it back within a minute.
func TestTextfile(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, made := textfileOf(t)
		file := filepath.Join(d.dir, "node", "certagent.prom")
		left := durable.TempName(file)
		if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o755), os.WriteFile(left, []byte("half"), 0o644)); err != nil {
			t.Fatal(err)
		}
		_, stop := d.boot()
		settle()
		if made() < 0 {
			t.Fatal("no file after the start")
		}
		time.Sleep(2 * textfilePause)
		settle()
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if n := valueOf(t, string(text), `certagent_attempts_total{id="device-id",result="issued",class=""}`); n != 1 {
			t.Errorf("%v certificates issued, want 1", n)
		}
		if info, err := os.Stat(file); err != nil || info.Mode() != 0o644 {
			t.Errorf("%v, %v", info.Mode(), err)
		}
		if names := namesIn(t, filepath.Dir(file)); !slices.Equal(names, []string{"certagent.prom"}) {
			t.Errorf("the directory holds %q", names)
		}

		first := made()
		time.Sleep(textfileEvery - 3*textfilePause)
		if settle(); made() != first {
			t.Error("written anew although nothing changed")
		}
		time.Sleep(time.Minute + 3*textfilePause)
		settle()
		second := made()
		if second-first < textfileEvery.Seconds() || second-first > (textfileEvery+2*time.Minute).Seconds() {
			t.Errorf("written anew after %v s", second-first)
		}
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute + textfilePause)
		if settle(); made() <= second {
			t.Error("not there a minute after somebody removed it")
		}

		// The renewal shows within the pause, not at the next minute.
		time.Sleep(time.Until(d.live("device-id").Leaf.NotBefore.Add(day * 8 / 10).Add(time.Second)))
		renewed := time.Now()
		time.Sleep(2 * textfilePause)
		settle()
		if text, err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
		if g := valueOf(t, string(text), `certagent_certificate_generation{id="device-id"}`); g != 2 {
			t.Errorf("generation %v, want 2", g)
		}
		if at := made(); at < seconds(renewed)-2 {
			t.Errorf("written at %v, renewed at %v", at, seconds(renewed))
		}
		stop()
		if last := made(); last < 0 {
			t.Error("the file went with the agent: nobody would know when its certificates expire")
		}
	})
}

func namesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestTextfileFollowsTheConfiguration: one that is not wanted any more would say for ever what was true once.
func TestTextfileFollowsTheConfiguration(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, made := textfileOf(t)
		dir := filepath.Join(d.dir, "node")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		a, stop := d.boot()
		defer stop()
		time.Sleep(time.Minute)
		reload := func(from, to string, want ...string) {
			t.Helper()
			d.text = strings.Replace(d.text, from, to, 1)
			a.Reload()
			time.Sleep(2 * textfilePause)
			settle()
			if names := namesIn(t, dir); !slices.Equal(names, want) {
				t.Errorf("after %q the directory holds %q, want %q", to, names, want)
			}
		}
		if made() < 0 {
			t.Fatal("no file")
		}
		reload("certagent.prom", "other.prom", "other.prom")
		reload("textfile", "#textfile")
		reload("#textfile", "textfile", "other.prom")
		// Who left the configuration leaves the metrics.
		d.text = strings.ReplaceAll(d.text, "[provisioning.attestation.identity_cert", "[cert_issuance.certs.mqtt")
		reload("", "", "other.prom")
		text, err := os.ReadFile(filepath.Join(dir, "other.prom"))
		if err != nil || strings.Contains(string(text), "device-id") || !strings.Contains(string(text), `id="mqtt"`) {
			t.Errorf("%v\n%s", err, text)
		}
	})
}

// TestTextfileThatCannotBeWritten: it is a problem, which goes when somebody has seen to it; nothing else comes to harm, and
// what stands in its place is left alone.
func TestTextfileThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare, mend func(dir string) error
		says          string
	}{
		"no directory": {func(string) error { return nil }, func(dir string) error { return os.Mkdir(dir, 0o755) },
			"no such file or directory"},
		"everybody's": {func(dir string) error { return openDir(dir, 0o777) }, func(dir string) error { return os.Chmod(dir, 0o755) },
			"everybody may write"},
		"a link": {
			func(dir string) error {
				return errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(dir+"/kept", []byte("kept"), 0o600),
					os.Symlink("kept", dir+"/certagent.prom"))
			},
			func(dir string) error { return os.Remove(dir + "/certagent.prom") }, "regular file",
		},
		"a directory": {
			func(dir string) error { return os.MkdirAll(dir+"/certagent.prom", 0o755) },
			func(dir string) error { return os.Remove(dir + "/certagent.prom") }, "regular file",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d, made := textfileOf(t)
				dir := filepath.Join(d.dir, "node")
				if err := c.prepare(dir); err != nil {
					t.Fatal(err)
				}
				a, stop := d.boot()
				defer stop()
				problem := func() string {
					settle()
					for _, p := range a.Snapshot().Problems {
						if p.Code == "metrics-textfile" {
							return p.Text
						}
					}
					return ""
				}
				time.Sleep(3 * time.Minute)
				if text := problem(); !strings.Contains(text, c.says) || !strings.Contains(text, "certagent.prom") {
					t.Errorf("the problem says %q, want %q", text, c.says)
				}
				if n := strings.Count(d.logs.String(), "textfile with metrics cannot be had"); n != 1 {
					t.Errorf("logged %d times, want once", n)
				}
				if shown(t, a, "device-id").State != status.Valid {
					t.Error("the certificate is no concern of the file")
				}
				if kept, err := os.ReadFile(dir + "/kept"); err == nil && string(kept) != "kept" {
					t.Errorf("the link was followed: %q", kept)
				}
				if tried, err := a.lookAfterTextfile(&textfile{}, filepath.Join(dir, "certagent.prom")); tried == 0 || err == nil {
					t.Errorf("%d, %v: nothing keeps it from trying again at once", tried, err)
				}
				if err := c.mend(dir); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Minute + textfilePause)
				if text := problem(); text != "" || made() < 0 {
					t.Errorf("a minute after it was mended: %q, made at %v", text, made())
				}
			})
		})
	}
}

// TestTextfileIsNotWrittenAllTheTime: while one renewal comes after the other, the file is written once in a pause.
func TestTextfileIsNotWrittenAllTheTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, made := textfileOf(t)
		if err := os.Mkdir(filepath.Join(d.dir, "node"), 0o755); err != nil {
			t.Fatal(err)
		}
		a, stop := d.boot()
		defer stop()
		time.Sleep(time.Minute)
		seen := map[float64]bool{}
		for range 60 { // a minute of changes
			a.RenewAll()
			time.Sleep(time.Second)
			settle()
			seen[made()] = true
		}
		if most := 60/int(textfilePause.Seconds()) + 2; len(seen) > most || len(seen) < 5 {
			t.Errorf("written %d times in a minute, want about %d", len(seen), most-2)
		}
	})
}

// TestTextfileRests: a large file is written more seldom, but never so that its reader takes the agent for dead.
func TestTextfileRests(t *testing.T) {
	for size, want := range map[int]time.Duration{1: textfilePause, 10 << 10: textfilePause, 1 << 20: 128 * time.Second, 100 << 20: textfileEvery} {
		if got := textfileRest(size); got != want {
			t.Errorf("%d bytes: %v, want %v", size, got, want)
		}
	}
}

func TestTextfileIsDue(t *testing.T) {
	now := time.Now()
	f := textfile{path: "/a", said: [32]byte{1}, written: now}
	for _, c := range []struct {
		path  string
		said  byte
		after time.Duration
		want  bool
	}{
		{"/a", 1, 0, false}, {"/a", 1, textfileEvery - 1, false}, {"/a", 1, textfileEvery, true},
		{"/a", 2, 0, true}, {"/b", 1, 0, true},
	} {
		if got := f.due(c.path, [32]byte{c.said}, now.Add(c.after)); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
	if f.written = (time.Time{}); !f.due("/a", [32]byte{1}, now) {
		t.Error("not due after a failure")
	}
}
