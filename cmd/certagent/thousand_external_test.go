//go:build external

package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"certagent/est/esttest"
)

// How long an agent is left alone, and then looked at. The budgets are those of the defaults; CI takes less.
var (
	settleFor = flag.Duration("settle", 2*time.Minute, "how long an idle agent is left alone before it is measured")
	idleFor   = flag.Duration("idle", 5*time.Minute, "for how long it is measured")
)

// fleet is a device with many certificates, kept by the program as it is shipped, and the program that issues them.
type fleet struct {
	tb        testing.TB
	bin, dir  string
	count     int
	url, root string // of the server
	cmd       *exec.Cmd
	notify    *net.UnixConn // as the service manager listens
	ready     chan struct{} // closed when the agent said so
	log       string
}

// newFleet starts certagent-testca and configures so many certificates. Nothing of the test's own is written where the
// agent watches.
func newFleet(tb testing.TB, bin string, count int) *fleet {
	tb.Helper()
	f := &fleet{tb: tb, bin: bin, count: count, dir: tb.TempDir()}
	ca := exec.Command(filepath.Join(bin, "certagent-testca"), "--listen", "localhost:0", "--dir", filepath.Join(f.dir, "ca"), "--lifetime", "30d")
	stdout, err := ca.StdoutPipe()
	if err == nil {
		err = ca.Start()
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = ca.Process.Kill(); _ = ca.Wait() })
	lines := bufio.NewScanner(stdout)
	for f.url == "" && lines.Scan() {
		if url, ready := strings.CutPrefix(lines.Text(), "ready on "); ready {
			f.url = url
		}
	}
	if f.url == "" {
		tb.Fatal("certagent-testca did not start")
	}
	go func() { // ends with certagent-testca
		for lines.Scan() {
		}
	}()
	f.root = filepath.Join(f.dir, "ca/ca.pem")
	var b strings.Builder
	fmt.Fprintf(&b, "state_dir = %q\nrun_dir = %q\n[cert_issuance.est]\ntrusted_certs = [%q]\n[cert_issuance.est.auth]\n"+
		"username = %q\npassword = %q\n[cert_issuance.est.urls]\ndefault = %q\n", f.path("device/lib/state"), f.path("device/run"), "file://"+f.root,
		esttest.DefaultUser, esttest.DefaultPassword, f.url)
	for i := range count {
		fmt.Fprintf(&b, "[cert_issuance.certs.c%04d]\nmethod = \"est\"\ncommon_name = \"c%04[1]d\"\n", i)
	}
	for _, dir := range []string{"device/etc", "device/lib", "device/run", "log"} {
		if err := os.MkdirAll(f.path(dir), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	if err := os.WriteFile(f.path("device/etc/config.toml"), []byte(b.String()), 0o600); err != nil {
		tb.Fatal(err)
	}
	return f
}

func (f *fleet) path(name string) string { return filepath.Join(f.dir, name) }

// start starts the agent and gives how long it took to be ready.
func (f *fleet) start(env ...string) time.Duration {
	f.tb.Helper()
	socket := f.path("log/notify")
	_ = os.Remove(socket) // of the last start
	var err error
	if f.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"}); err != nil {
		f.tb.Fatal(err)
	}
	f.ready = make(chan struct{})
	go listen(f.notify, f.ready)
	f.log = f.path("log/agent")
	log, err := os.Create(f.log)
	if err != nil {
		f.tb.Fatal(err)
	}
	defer log.Close()
	f.cmd = exec.Command(filepath.Join(f.bin, "certagent"), "run", "--config", f.path("device/etc/config.toml"))
	f.cmd.Env = append(append(os.Environ(), "NOTIFY_SOCKET="+socket, "STATE_DIRECTORY=", "RUNTIME_DIRECTORY="), env...)
	f.cmd.Stderr = log
	began := time.Now()
	if err := f.cmd.Start(); err != nil {
		f.tb.Fatal(err)
	}
	f.tb.Cleanup(f.stop)
	select {
	case <-f.ready:
	case <-time.After(10 * time.Minute):
		f.tb.Fatal("the agent did not say that it is ready")
	}
	return time.Since(began)
}

// listen hears all that the agent tells the service manager: it waits until it is heard. It ends with the socket.
func listen(notify *net.UnixConn, ready chan<- struct{}) {
	for said := make([]byte, 4096); ; {
		n, err := notify.Read(said)
		if err != nil {
			return
		}
		if bytes.HasPrefix(said[:n], []byte("READY=1")) {
			close(ready) // nothing is reloaded here, so that it is said once
		}
	}
}

// logged waits until something stands so often in the agent's log.
func (f *fleet) logged(what string, times int) {
	f.tb.Helper()
	for deadline := time.Now().Add(10 * time.Minute); ; time.Sleep(10 * time.Millisecond) { // a log tells nobody that it grew
		log, err := os.ReadFile(f.log)
		if err != nil {
			f.tb.Fatal(err)
		}
		if bytes.Count(log, []byte(what)) >= times {
			return
		}
		if time.Now().After(deadline) {
			f.tb.Fatalf("the agent did not log %q %d times", what, times)
		}
	}
}

func (f *fleet) stop() {
	if f.cmd == nil {
		return
	}
	_ = f.cmd.Process.Signal(syscall.SIGTERM)
	_ = f.cmd.Wait()
	_ = f.notify.Close()
	f.cmd = nil
}

// issued is what the log says of each certificate.
const issued = `"message":"certificate issued"`

// enrol has all certificates issued, and ends the agent.
func (f *fleet) enrol() {
	f.tb.Helper()
	f.start()
	f.logged(issued, f.count)
	f.stop()
}

// usage is what a process has used of the system.
type usage struct {
	voluntary int // context switches of all threads
	ticks     int // of the processor, 10 ms each
	rss, pss  int // KiB
	threads   int
}

func (f *fleet) usage() usage {
	f.tb.Helper()
	var u usage
	proc := fmt.Sprintf("/proc/%d/", f.cmd.Process.Pid)
	tasks, err := filepath.Glob(proc + "task/*/status")
	if err != nil || len(tasks) == 0 {
		f.tb.Fatalf("the agent has no threads: %v", err)
	}
	u.threads = len(tasks)
	for _, task := range tasks {
		u.voluntary += field(f.tb, task, "voluntary_ctxt_switches:")
	}
	u.rss, u.pss = field(f.tb, proc+"status", "VmRSS:"), field(f.tb, proc+"smaps_rollup", "Pss:")
	stat, err := os.ReadFile(proc + "stat")
	if err != nil {
		f.tb.Fatal(err)
	}
	times := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // proc_pid_stat(5): utime is field 14
	for _, at := range []int{11, 12} {
		n, err := strconv.Atoi(times[at])
		if err != nil {
			f.tb.Fatal(err)
		}
		u.ticks += n
	}
	return u
}

// field is a number in a file of proc(5).
func field(tb testing.TB, file, name string) int {
	tb.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				tb.Fatal(err)
			}
			return n
		}
	}
	tb.Fatalf("%s has no %s", file, name)
	return 0
}

// rest leaves the agent alone, then looks at what it does in the time given, per minute.
func (f *fleet) rest(settle, idle time.Duration) (perMinute float64, before, after usage) {
	f.tb.Helper()
	time.Sleep(settle) // that nothing happens is what is measured
	before = f.usage()
	time.Sleep(idle)
	after = f.usage()
	return float64(after.voluntary-before.voluntary) / idle.Minutes(), before, after
}

// expiries counts the timers of an idle agent that run out, as strace(1) sees them: waits for a time that end without an
// event. The short sleeps of the Go runtime's monitor belong to the wake-up that they follow.
func (f *fleet) expiries(idle time.Duration) (perMinute float64) {
	f.tb.Helper()
	trace := f.path("log/trace")
	strace := exec.Command("strace", "-f", "-qq", "-o", trace, "-e", "trace=epoll_pwait,futex,restart_syscall",
		"-p", strconv.Itoa(f.cmd.Process.Pid))
	if err := strace.Start(); err != nil {
		f.tb.Fatal(err)
	}
	time.Sleep(idle)
	_ = strace.Process.Signal(syscall.SIGINT)
	_ = strace.Wait() // it ends by the signal
	data, err := os.ReadFile(trace)
	if err != nil {
		f.tb.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(data)) {
		timedOut := strings.Contains(line, "ETIMEDOUT")
		waited := strings.Contains(line, "epoll_pwait") && !strings.Contains(line, ", 0, NULL, 0) = 0") && strings.Contains(line, "= 0\n")
		if timedOut || waited {
			n++
		}
	}
	return float64(n) / idle.Minutes()
}

// BenchmarkIdle is what an agent costs that has nothing to do.
func BenchmarkIdle(b *testing.B) {
	bin := shipped(b, "certagent", "certagent-testca")
	for _, count := range []int{1, 1000} {
		f := newFleet(b, bin, count)
		f.enrol()
		for _, watchdog := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d,watchdog=%v", count, watchdog), func(b *testing.B) {
				f.tb = b
				var env []string
				if watchdog {
					env = append(env, "WATCHDOG_USEC=180000000") // as the unit says
				}
				for b.Loop() {
					f.start(env...)
					perMinute, before, after := f.rest(*settleFor, *idleFor)
					b.ReportMetric(perMinute, "switches/min")
					b.ReportMetric(f.expiries(*idleFor), "expiries/min")
					b.ReportMetric(float64(after.rss)/1024, "MiB-RSS")
					b.ReportMetric(float64(after.pss)/1024, "MiB-PSS")
					b.ReportMetric(float64(after.ticks-before.ticks)*10/idleFor.Minutes(), "ms-CPU/min")
					b.ReportMetric(float64(after.threads), "threads")
					b.ReportMetric(0, "ns/op")
					f.stop()
				}
			})
		}
	}
}

// BenchmarkStart is how long a start takes until the service manager hears of it, with certificates that are all well.
func BenchmarkStart(b *testing.B) {
	bin := shipped(b, "certagent", "certagent-testca")
	for _, count := range []int{1, 1000} {
		f := newFleet(b, bin, count)
		f.enrol()
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			f.tb = b
			var took time.Duration
			n := 0
			for b.Loop() {
				took += f.start()
				f.stop()
				n++
			}
			b.ReportMetric(took.Seconds()*1000/float64(n), "ms-to-READY")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkThousand is a thousand certificates that are due at once: all missing, then all renewed by force. By turns on
// the same server and disk: certagent, a loop that does no more than the same requests, keys and durable writes with the same
// parallelism (testdata/thousand), and that loop without the writes.
func BenchmarkThousand(b *testing.B) {
	const count, atOnce = 1000, "16"
	bin := shipped(b, "certagent", "certagent-testca")
	compare(b, bin, "./testdata/thousand")
	var sums [3][2]float64 // of certagent, the loop, the loop without writes; enrolments, renewals
	var peak float64
	n := 0
	for b.Loop() {
		n++
		f := newFleet(b, bin, count)
		began := time.Now()
		f.start()
		f.logged(issued, count)
		sums[0][0] += time.Since(began).Seconds()
		began = time.Now()
		if err := f.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
			b.Fatal(err)
		}
		f.logged(issued, 2*count)
		sums[0][1] += time.Since(began).Seconds()
		peak = max(peak, float64(field(b, fmt.Sprintf("/proc/%d/status", f.cmd.Process.Pid), "VmHWM:"))/1024)
		f.stop()
		for i, args := range [][]string{{b.TempDir()}, nil} {
			loop := exec.Command(filepath.Join(bin, "thousand"), append([]string{
				f.url, f.root, esttest.DefaultUser, esttest.DefaultPassword, strconv.Itoa(count), atOnce}, args...)...)
			out, err := loop.CombinedOutput()
			if err != nil {
				b.Fatalf("%v\n%s", err, out)
			}
			var enrol, renew float64
			if _, err := fmt.Sscan(string(out), &enrol, &renew); err != nil {
				b.Fatalf("%v: %s", err, out)
			}
			sums[1+i][0] += enrol
			sums[1+i][1] += renew
		}
	}
	for i, what := range []string{"certagent", "loop", "network"} {
		b.ReportMetric(float64(count*n)/sums[i][0], "enrolments/s-"+what)
		b.ReportMetric(float64(count*n)/sums[i][1], "renewals/s-"+what)
	}
	b.ReportMetric(sums[1][0]/sums[0][0], "enrolments-×loop")
	b.ReportMetric(sums[1][1]/sums[0][1], "renewals-×loop")
	b.ReportMetric(peak, "MiB-peak")
	b.ReportMetric(0, "ns/op")
}
