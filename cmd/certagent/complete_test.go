package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shell is an interactive shell on a terminal of its own, in which the tab key is pressed.
type shell struct {
	t        *testing.T
	dir      string
	terminal *os.File
	seen     chan []byte // closed when nobody has the terminal open any more
	all      strings.Builder
}

// startShell starts cmd, a shell without anybody's settings, and has it run setup. That must set a prompt, and define show
// as a command that prints its arguments in angle brackets on one line.
func startShell(t *testing.T, cmd *exec.Cmd, setup string) *shell {
	t.Helper()
	master, slave := openTerminal(t)
	sh := &shell{t: t, dir: t.TempDir(), terminal: master, seen: make(chan []byte)}
	sh.lay()
	cmd.Dir = sh.dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + sh.dir, "TERM=dumb", "INPUTRC=" + filepath.Join(sh.dir, "config.txt"), "LC_ALL=C.UTF-8", "XDG_DATA_HOME=" + sh.dir,
		"XDG_CONFIG_HOME=" + sh.dir, "HISTFILE=", "fish_history=", raceVariable + "=" + os.Getenv(raceVariable),
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	err := cmd.Start()
	slave.Close()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // ends when nobody has the terminal open any more, or the test has ended
		defer close(sh.seen)
		for {
			buffer := make([]byte, 4096)
			n, err := master.Read(buffer)
			if err != nil {
				return
			}
			select {
			case sh.seen <- buffer[:n]:
			case <-done:
				return
			}
		}
	}()
	t.Cleanup(func() {
		close(done)
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()         // it was killed
	})
	// The prompt is put together there, so that it differs from its echo.
	sh.send(setup + "; show set up\n")
	sh.until("<set><up>")
	return sh
}

// lay makes the files that are completed.
func (sh *shell) lay() {
	sh.t.Helper()
	const configuration = "[cert_issuance.certs.device-id]\ncommon_name = \"a\"\n[cert_issuance.certs.mqtt]\ncommon_name = \"b\"\n" +
		"[cert_issuance.est.urls]\ndefault = \"https://localhost:1/.well-known/est\"\n"
	files := map[string]string{
		"config.toml": configuration, "config.txt": "", "my cert.pem": "",
		"broken.toml": "state_dir = \"" + filepath.Join(sh.dir, "state") + "\"\n[",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(sh.dir, name), []byte(text), 0o600); err != nil {
			sh.t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(sh.dir, "state", "certs", "on-disk"), 0o755); err != nil {
		sh.t.Fatal(err)
	}
}

func (sh *shell) send(keys string) {
	sh.t.Helper()
	if _, err := io.WriteString(sh.terminal, keys); err != nil {
		sh.t.Fatal(err)
	}
}

// until waits until the shell has printed text, and returns all that it printed since the last call.
func (sh *shell) until(text string) string {
	sh.t.Helper()
	overdue := time.After(patience)
	var got strings.Builder
	for !strings.Contains(got.String(), text) {
		select {
		case b, open := <-sh.seen:
			if !open {
				sh.t.Fatalf("the shell ended; it printed %q", got.String())
			}
			got.Write(b)
			sh.all.Write(b)
		case <-overdue:
			sh.t.Fatalf("the shell did not print %q, but %q", text, got.String())
		}
	}
	return got.String()
}

// completed presses tab behind line, and returns the words that stand there then, and what was printed meanwhile.
func (sh *shell) completed(line, tabs string) (words []string, printed string) {
	sh.t.Helper()
	const begin, end = "\x01", "\x05" // of the line
	sh.send(line + tabs + begin + "show " + end + " end\n")
	printed = sh.until("<end>")
	result := printed[strings.LastIndex(printed, "<certagent>"):]
	result, _, _ = strings.Cut(result, "<end>")
	return strings.Split(strings.Trim(result, "<>"), "><"), printed
}

// twoTabs is what two tabs behind line have the shell print.
func (sh *shell) twoTabs(line string) string {
	_, printed := sh.completed(line, "\t\t")
	return printed
}

// completes goes through what the tab key must do, in whichever shell. listed is what it prints of candidates.
func (sh *shell) completes(listed func(line string) string) {
	t := sh.t
	t.Helper()
	for line, want := range map[string][]string{
		"certagent stat":                                  {"status"},
		"certagent config ch":                             {"config", "check"},
		"certagent help conf":                             {"help", "config"},
		"certagent help config ch":                        {"help", "config", "check"},
		"certagent completion f":                          {"completion", "fish"},
		"certagent renew --new":                           {"renew", "--new-key"},
		"certagent renew --config config.toml mq":         {"renew", "--config", "config.toml", "mqtt"},
		"certagent renew --config=config.toml mq":         {"renew", "--config=config.toml", "mqtt"},
		"certagent --config config.toml renew mqtt d":     {"--config", "config.toml", "renew", "mqtt", "device-id"},
		"certagent renew --config config.toml mqtt mq":    {"renew", "--config", "config.toml", "mqtt", "mq"},
		"certagent renew --config conf":                   {"renew", "--config", "config.toml"}, // not config.txt
		"certagent renew --config=conf":                   {"renew", "--config=config.toml"},
		"certagent config check config.tx":                {"config", "check", "config.txt"},
		"certagent import --cert my":                      {"import", "--cert", "my cert.pem"},
		"certagent import --cert=my":                      {"import", "--cert=my cert.pem"},
		"certagent status --config broken.toml o":         {"status", "--config", "broken.toml", "on-disk"},
		"certagent wait --config config.toml mqtt d":      {"wait", "--config", "config.toml", "mqtt", "d"},
		"certagent wait --config nothing-there.toml d":    {"wait", "--config", "nothing-there.toml", "d"},
		"certagent wait --timeout my":                     {"wait", "--timeout", "my"}, // no file
		"certagent no-such-command co":                    {"no-such-command", "co"},
		"certagent status --no-such-flag --config=br":     {"status", "--no-such-flag", "--config=broken.toml"},
		"certagent cacerts co":                            {"cacerts", "co"},
		"certagent wait --config config.toml device-id -": nil, // many: only that nothing goes wrong
	} {
		words, printed := sh.completed(line, "\t")
		if want != nil && !slices.Equal(words[1:], want) {
			t.Errorf("%s<TAB>: %q, want %q\n%s", line, words[1:], want, printed)
		}
	}
	printed := listed("certagent renew --config config.toml ")
	for _, id := range []string{"device-id", "mqtt"} {
		if !strings.Contains(printed, id) {
			t.Errorf("%s is not listed: %q", id, printed)
		}
	}
	if printed := listed("certagent config "); !strings.Contains(printed, "say what is wrong") {
		t.Errorf("nothing says what the commands are for: %q", printed)
	}

	// What stands in a line that is still being written is not run.
	for _, running := range []string{"$(touch ran)", "(touch ran)", "`touch ran`", "; touch ran"} {
		const cancel = "\x15" // what stands in front of the cursor
		sh.send("certagent status --json " + running + " mq\t" + cancel + "show over\n")
		sh.until("<over>")
	}
	if _, err := os.Stat(filepath.Join(sh.dir, "ran")); err == nil {
		t.Error("completing ran what stands in the line")
	}
	for _, trouble := range []string{"certagent: ", "rror", "not found", "bash: ", "zsh: ", "fish: "} {
		if strings.Contains(sh.all.String(), trouble) {
			t.Errorf("%q stands on the terminal:\n%s", trouble, sh.all.String())
		}
	}
}

// TestBashCompletes: a bash without the package bash-completion.
func TestBashCompletes(t *testing.T) {
	sh := startShell(t, exec.Command("bash", "--norc", "--noprofile", "-i"), bashSetup+`source <(certagent completion bash)`)
	sh.completes(sh.twoTabs)
}

const bashSetup = `PS1='$ '; bind 'set enable-bracketed-paste off'; bind 'set completion-query-items 0'; bind 'set page-completions off'; ` +
	`show() { printf '<%s>' "$@"; echo; }; `
