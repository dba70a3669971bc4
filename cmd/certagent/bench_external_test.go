//go:build external

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"certagent/est/esttest"
)

// withShell enrols as the tutorials of EST servers do it by hand. It needs openssl and curl.
const withShell = `set -eu
cd "$6"
openssl ecparam -name prime256v1 -genkey -noout -out key.pem
openssl req -new -key key.pem -subj "/CN=$5" -outform DER -out request.der
openssl base64 -in request.der -out request
curl -sSf --cacert "$2" -o cacerts "$1/cacerts"
curl -sSf --cacert "$2" --anyauth -u "$3:$4" -H 'Content-Type: application/pkcs10' \
	-H 'Content-Transfer-Encoding: base64' --data-binary @request -o answer "$1/simpleenroll"
openssl base64 -d -in answer -out answer.der
openssl pkcs7 -inform DER -in answer.der -print_certs -out cert.pem
`

// compare builds what certagent is compared with, a package of testdata, into bin.
func compare(tb testing.TB, bin, pkg string) {
	tb.Helper()
	build := exec.CommandContext(tb.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin+"/", pkg)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		tb.Fatalf("go build %s: %v\n%s", pkg, err, out)
	}
}

// BenchmarkProcess is one enrolment by password as a whole process, with a new key and everything written: certagent as
// it is shipped, a bare net/http program (testdata/bare), and openssl with curl, by turns on the same server.
func BenchmarkProcess(b *testing.B) {
	bin := shipped(b, "certagent")
	compare(b, bin, "./testdata/bare")
	// What certagent writes it has synchronised to the disk, which the others do not, and which costs most of its time: so
	// once more in memory, where there is a file system for that.
	places := map[string]string{"disk": b.TempDir()}
	if dir, err := os.MkdirTemp("/dev/shm", "certagent-"); err == nil {
		b.Cleanup(func() { os.RemoveAll(dir) })
		places["memory"] = dir
	}
	for _, where := range []struct {
		face, place string
		options     esttest.Options
	}{
		{"globalsign", "disk", esttest.Options{}},
		{"globalsign", "memory", esttest.Options{}},
		{"libest", "disk", esttest.Options{LikeLibest: true}},
		{"libest", "memory", esttest.Options{LikeLibest: true}},
	} {
		place := places[where.place]
		if place == "" {
			continue
		}
		b.Run(where.face+"/"+where.place, func(b *testing.B) {
			s := esttest.New(b, where.options)
			run := func(made string, program string, args ...string) time.Duration {
				cmd := exec.Command(program, args...)
				cmd.Env = append(os.Environ(), "HTTPS_PROXY=", "https_proxy=", "STATE_DIRECTORY=", "RUNTIME_DIRECTORY=")
				began := time.Now()
				out, err := cmd.CombinedOutput()
				took := time.Since(began)
				if err != nil {
					b.Fatalf("%s: %v\n%s", program, err, out)
				}
				if _, err := os.Stat(made); err != nil {
					b.Fatal(err)
				}
				return took
			}
			took, n := [3]time.Duration{}, 0
			for b.Loop() {
				n++
				dir, err := os.MkdirTemp(place, "")
				if err != nil {
					b.Fatal(err)
				}
				for _, d := range []string{filepath.Join(dir, "bare"), filepath.Join(dir, "shell")} {
					if err := os.Mkdir(d, 0o700); err != nil {
						b.Fatal(err)
					}
				}
				config := filepath.Join(dir, "config.toml")
				text := fmt.Sprintf("state_dir = %q\nrun_dir = %q\n[cert_issuance.est]\ntrusted_certs = [%q]\n"+
					"[cert_issuance.est.auth]\nusername = %q\npassword = %q\n[cert_issuance.est.urls]\ndefault = %q\n"+
					"[cert_issuance.certs.gw]\nmethod = \"est\"\ncommon_name = \"gw-1\"\n",
					filepath.Join(dir, "state"), filepath.Join(dir, "run"), "file://"+s.CAFile(),
					esttest.DefaultUser, esttest.DefaultPassword, s.URL())
				if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
					b.Fatal(err)
				}
				took[0] += run(filepath.Join(dir, "state/certs/gw/live/cert.pem"), filepath.Join(bin, "certagent"),
					"run", "--once", "--config", config)
				args := []string{s.URL(), s.CAFile(), esttest.DefaultUser, esttest.DefaultPassword, "gw-1"}
				took[1] += run(filepath.Join(dir, "bare/answer"), filepath.Join(bin, "bare"),
					append(args, filepath.Join(dir, "bare"))...)
				took[2] += run(filepath.Join(dir, "shell/cert.pem"), "sh",
					append(append([]string{"-c", withShell, "sh"}, args...), filepath.Join(dir, "shell"))...)
			}
			for i, unit := range []string{"ms", "ms-net/http", "ms-openssl+curl"} {
				b.ReportMetric(took[i].Seconds()*1000/float64(n), unit)
			}
			b.ReportMetric(float64(took[0])/float64(took[1]), "×net/http")
			b.ReportMetric(float64(took[0])/float64(took[2]), "×openssl+curl")
			b.ReportMetric(0, "ns/op")
		})
	}
}
