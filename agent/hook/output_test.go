package hook_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
)

const cutMark = "[the beginning was cut off]\n"

func TestOutput(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, script, want string }{
		{"none", "exit 0", ""},
		{"both streams, in order", "echo a; echo b >&2; echo c", "a\nb\nc\n"},
		{"no newline at the end", "printf a", "a"},
		{"controls, colours, rubbish", `printf 'a\tb\033[31m\r\n\000\377\303'`, "a\tb?[31m?\n??"},
		{"just so much", "head -c 4096 /dev/zero | tr '\\0' x", strings.Repeat("x", 4096)},
		{"one too many", "printf y; head -c 4096 /dev/zero | tr '\\0' x", cutMark + strings.Repeat("x", 4096)},
		{"not within a character", "printf ü; head -c 4095 /dev/zero | tr '\\0' x", cutMark + strings.Repeat("x", 4095)},
		{
			"100 MB", "head -c 104857600 /dev/zero | tr '\\0' x; echo end",
			cutMark + strings.Repeat("x", 4092) + "end\n",
		},
		{"nobody listens at the end", "exec >&- 2>&-; exit 0", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := ok(t, "/bin/sh", "-c", tt.script); got != tt.want {
				t.Errorf("%d bytes: %.200q; want %d: %.200q", len(got), got, len(tt.want), tt.want)
			}
		})
	}
}

// What fails says why in its output, which is kept too.
func TestOutputOfAFailure(t *testing.T) {
	t.Parallel()
	if res := run(t.Context(), time.Minute, "/bin/sh", "-c", "echo no such broker >&2; exit 1"); res.Err == nil || res.Output != "no such broker\n" {
		t.Errorf("%v, output %q", res.Err, res.Output)
	}
}

// A program that prints its key must not publish it: status is for everybody.
func TestNoPrivateKeyInTheOutput(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	small := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	large := string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: []byte(strings.Repeat("secret", 800))})) // as RSA-8192
	tests := []struct{ name, printed, want string }{
		{"whole", "a\n" + small + "b\n", "a\n[redacted: private key]\nb\n"},
		{"two", small + large + "b\n", "[redacted: private key]\n[redacted: private key]\nb\n"},
		{"not finished", "a\n" + large[:4500], "a\n[redacted: private key]"},
		{"its beginning cut off", large + strings.Repeat("x", 12<<10), cutMark + strings.Repeat("x", 4096)},
		{"its beginning cut off, and little after it", strings.Repeat("x", 16<<10) + large + "b\n", ""},
		{"the last of a flood", strings.Repeat(large, 20), ""},
		{"only its end is left", large + strings.Repeat("y", 16<<10-100), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "printed")
			must(t, os.WriteFile(file, []byte(tt.printed), 0o600))
			got := ok(t, "/bin/cat", file)
			if tt.want != "" && got != tt.want {
				t.Errorf("got %.300q, want %.300q", got, tt.want)
			}
			for line := range strings.Lines(small + large) {
				line = strings.TrimSpace(line)
				if _, err := base64.StdEncoding.DecodeString(line); err == nil && strings.Contains(got, line) {
					t.Fatalf("a line of the key is shown: %q", line)
				}
			}
			if !utf8.ValidString(got) || len(got) > 4096+len(cutMark) {
				t.Errorf("%d bytes", len(got))
			}
		})
	}
}

// A daemon that a program leaves behind holds its output open for ever. That does not hold us, and it lives on.
func TestAChildThatKeepsTheOutput(t *testing.T) {
	t.Parallel()
	res := run(t.Context(), time.Hour, "/bin/sh", "-c", "sleep infinity & echo $!")
	pid, err := strconv.Atoi(strings.TrimSpace(res.Output))
	if res.Err != nil || err != nil {
		t.Fatalf("%v, output %q", res.Err, res.Output)
	}
	must(t, syscall.Kill(pid, syscall.SIGKILL)) // is there
	if res.Took > 30*time.Second {
		t.Errorf("took %v", res.Took)
	}
}
