//go:build external

package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"certagent/est/esttest"
)

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
