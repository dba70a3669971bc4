//go:build external

package main

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// Where packages are, and how long idle agents are left alone, and then looked at, minute by minute: once for what they are seen
// to do from outside, and once by strace(1).
var (
	distIn    = flag.String("dist", "../../dist", "where make packages put the packages")
	settleFor = flag.Duration("settle", 2*time.Minute, "how long an idle agent is left alone before it is measured")
	idleFor   = flag.Duration("idle", 4*time.Minute, "for how long it is measured, each time")
)

// footprintPage has the tables, between these lines.
const (
	footprintPage  = "../../docs/performance.md"
	footprintBegin = "<!-- made by make footprint -->\n"
	footprintEnd   = "<!-- end of what make footprint made -->\n"
)

// BenchmarkFootprint measures what the agent takes of a gateway, as make packages ships it, beside what it may take. With
// -update it writes that to docs/performance.md.
func BenchmarkFootprint(b *testing.B) {
	for b.Loop() {
		var f footprint
		packages := f.packages(b)
		bin := shipped(b, "certagent", "certagent-testca")
		one, thousand := newFleet(b, bin, 1), newFleet(b, bin, 1000)
		f.starts(b, one, thousand)
		f.idles(b, one, thousand)
		made := f.table() + "\n" + measuredOn(b) + "\n\n" + packages
		fmt.Print(made)
		if !*update {
			continue
		}
		page, err := os.ReadFile(footprintPage)
		must(b, err)
		before, rest, begun := bytes.Cut(page, []byte(footprintBegin))
		_, after, ended := bytes.Cut(rest, []byte(footprintEnd))
		if !begun || !ended {
			b.Fatalf("%s has no lines %q and %q", footprintPage, footprintBegin, footprintEnd)
		}
		page = slices.Concat(before, []byte(footprintBegin+"\n"+made+"\n"+footprintEnd), after)
		must(b, os.WriteFile(footprintPage, page, 0o644))
	}
}

// footprint is what was measured.
type footprint []figure

// figure is one row: so much of a unit was measured, so much it may be, by such a command.
type figure struct {
	what  string
	is    float64
	most  float64 // 0 where there is no budget
	unit  string
	place int // behind the decimal point
	by    string
}

func (f *footprint) add(what string, is, most float64, unit string, place int, by string) {
	*f = append(*f, figure{what, is, most, unit, place, by})
}

func (f *footprint) table() string {
	var t strings.Builder
	t.WriteString("| what | measured | at most | | by |\n| --- | --- | --- | --- | --- |\n")
	for _, r := range *f {
		// What is shown is what is judged.
		is, most, verdict := fmt.Sprintf("%.*f", r.place, r.is), "–", ""
		if r.most > 0 {
			most, verdict = fmt.Sprintf("%g", r.most), "met"
			if r.is > r.most {
				verdict = "**missed**"
			}
		}
		fmt.Fprintf(&t, "| %s, %s | %s | %s | %s | %s |\n", r.what, r.unit, is, most, verdict, r.by)
	}
	return t.String()
}

// measuredOn says where it was measured.
func measuredOn(b *testing.B) string {
	kernel, _, _ := strings.Cut(strings.TrimSpace(tell(b, ".", "uname", "-r")), "-")
	load := strings.Fields(string(fileOf(b, "/proc/loadavg")))
	return fmt.Sprintf("On %d processors (%s), Linux %s, %s; the load of the last quarter of an hour was %s. An idle agent was left "+
		"alone for %v, then looked at for %d minutes, and for as long again by strace.",
		runtime.NumCPU(), runtime.GOARCH, kernel, runtime.Version(), load[2], *settleFor, idleMinutes())
}

const mib = 1 << 20

// packages notes how large the programs in the packages are, and gives a table of the packages; of those that were not made
// there is a dash.
func (f *footprint) packages(b *testing.B) string {
	formats := []struct {
		name, glob string
		arches     [4]string
	}{
		{"deb", "certagent_[0-9]*_%s.deb", [4]string{"amd64", "arm64", "armhf", "riscv64"}},
		{"rpm", "certagent-[0-9]*.%s.rpm", [4]string{"x86_64", "aarch64", "armv7hl", "riscv64"}},
		{"apk", "certagent_[0-9]*_%s.apk", [4]string{"x86_64", "aarch64", "armv7", "riscv64"}},
		{"archlinux", "certagent-[0-9]*-%s.pkg.tar.zst", [4]string{"x86_64", "aarch64", "armv7h", "riscv64"}},
	}
	var t strings.Builder
	t.WriteString("| package, MiB: the file, and installed | amd64 | arm64 | armhf | riscv64 |\n| --- | --- | --- | --- | --- |\n")
	for _, format := range formats {
		t.WriteString("| " + format.name)
		for _, arch := range format.arches {
			found, err := filepath.Glob(filepath.Join(*distIn, fmt.Sprintf(format.glob, arch)))
			if err != nil || len(found) > 1 {
				b.Fatalf("packages of %s for %s: %v, %v", format.name, arch, found, err)
			}
			if len(found) == 0 {
				t.WriteString(" | –")
				continue
			}
			info, err := os.Stat(found[0])
			must(b, err)
			installed := 0
			for name, file := range ofPackage(b, found[0]) {
				if strings.HasPrefix(name, "/.") {
					continue // of the package manager
				}
				installed += len(file.data)
				if name == "/usr/bin/certagent" && format.name == "deb" {
					most := 0.
					if arch == "amd64" {
						most = 10
					}
					f.add("program, stripped, "+arch, float64(len(file.data))/mib, most, "MiB", 2, "`make build`, `ls -l`")
				}
			}
			fmt.Fprintf(&t, " | %.2f, %.2f", float64(info.Size())/mib, float64(installed)/mib)
		}
		t.WriteString(" |\n")
	}
	return t.String()
}

// starts has the certificates of fleets issued, and notes how long the start of an agent takes with them.
func (f *footprint) starts(b *testing.B, fleets ...*fleet) {
	const often = 21
	for _, of := range fleets {
		of.enrol()
		var took []time.Duration
		for range often {
			took = append(took, of.start())
			of.stop()
		}
		slices.Sort(took)
		f.add("from exec(2) to READY=1, "+of.size(), took[often/2].Seconds()*1000, 50, "ms", 0,
			fmt.Sprintf("sd_notify(3), median of %d", often))
	}
}

// idles notes what agents take that have nothing to do, of the fleets and of two more. They are all idle at the same time, each
// with a program file of its own, so that no page of it is shared.
func (f *footprint) idles(b *testing.B, one, thousand *fleet) {
	const unit = "WATCHDOG_USEC=180000000" // WatchdogSec= of the unit
	metrics := newFleet(b, one.bin, 1)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	must(b, free.Close())
	metrics.configure(fmt.Sprintf("[metrics]\ntextfile = %q\nlisten = %q\n",
		metrics.path("device/run/certagent.prom"), free.Addr()), metrics.anchor())
	metrics.enrol()
	roots := newFleet(b, one.bin, 1)
	roots.configure("", "")
	bundle := roots.path("roots.pem")
	system, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	must(b, err)
	must(b, os.WriteFile(bundle, slices.Concat(system, fileOf(b, roots.root)), 0o644))

	for _, of := range []*fleet{one, metrics, thousand} {
		of.start(unit)
	}
	roots.start(unit, "SSL_CERT_FILE="+bundle)
	roots.logged(issued, 1)

	time.Sleep(*settleFor) // that nothing happens is what is measured
	all := []*fleet{one, metrics, roots, thousand}
	begun, after := map[*fleet]usage{}, map[*fleet]usage{}
	for _, of := range all {
		begun[of] = of.usage()
		after[of] = begun[of]
	}
	switches, expiries := map[*fleet][]int{}, map[*fleet][]int{}
	for range idleMinutes() {
		before := maps.Clone(after)
		time.Sleep(time.Minute)
		for _, of := range all {
			after[of] = of.usage()
			switches[of] = append(switches[of], after[of].voluntary-before[of].voluntary)
		}
	}
	for range idleMinutes() {
		traces := map[*fleet]*trace{}
		for _, of := range all {
			traces[of] = of.trace()
		}
		time.Sleep(time.Minute)
		for _, of := range all {
			expiries[of] = append(expiries[of], traces[of].expiries(b))
		}
	}
	for _, of := range all {
		of.stop()
	}

	for _, m := range []struct {
		of   *fleet
		what string
		most float64
	}{
		{one, "1 certificate", 11},
		{metrics, "1 certificate, metrics on", 0},
		{roots, "1 certificate, just enrolled at a server that the system's roots vouch for", 15},
		{thousand, "1000 certificates", 32},
	} {
		u := after[m.of]
		f.add("resident, idle, "+m.what, float64(u.rss)*1024/1e6, m.most, "MB", 1, "`Rss` of /proc/PID/smaps_rollup")
		f.add("of it anonymous, "+m.what, float64(u.anonymous)*1024/1e6, 0, "MB", 1, "`Anonymous` there")
	}
	for _, m := range []struct {
		of   *fleet
		what string
	}{{one, "1 certificate"}, {metrics, "1 certificate, metrics on"}, {thousand, "1000 certificates"}} {
		f.perMinute("voluntary switches, "+m.what, switches[m.of], 20, "`voluntary_ctxt_switches` of /proc/PID/task/\\*/status")
		f.perMinute("timer expiries, "+m.what, expiries[m.of], 3, "`strace -f -e trace="+waits+" -p PID`")
		f.add("processor, "+m.what, float64(after[m.of].ticks-begun[m.of].ticks)*10/float64(idleMinutes()), 0, "ms a minute", 0,
			"utime and stime of /proc/PID/stat")
	}
}

// idleMinutes is for how many of them idle agents are looked at.
func idleMinutes() int { return max(1, int(idleFor.Minutes())) }

// perMinute notes the median of what was counted in each minute, and between which counts it lies.
func (f *footprint) perMinute(what string, counts []int, most float64, by string) {
	slices.Sort(counts)
	n := len(counts)
	median := float64(counts[(n-1)/2]+counts[n/2]) / 2
	f.add(what, median, most, fmt.Sprintf("a minute (%d to %d)", counts[0], counts[n-1]), 1, by)
}
