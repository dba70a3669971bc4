// Command demo plays the life of a certificate in front of your eyes, with a throw-away EST server and a real agent. The first
// act watches the agent enrol, renew, obey a signal, outlive an outage longer than its certificate, and come back through its
// bootstrap certificate. The second act has a cloud beside it, to which the certificate must be known, and is there for two of
// them: Azure DPS with a hub, and AWS IoT. It tells what it observes at the servers and on disk, and fails if a step does not
// happen.
//
// It needs no root and no network beyond loopback, and leaves nothing behind. `make demo`, `make demo-azure` and `make demo-aws`
// run it, in the directory of the project.
package main

import (
	"context"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

const patience = 30 * time.Second // for any single step

func main() {
	agent := flag.String("agent", "bin/certagent", "the certagent `program`")
	testca := flag.String("testca", "bin/certagent-testca", "the certagent-testca `program`")
	act := flag.String("act", "life", "which `act` is played: life, azure, aws")
	template := flag.String("template", "examples/aws-jitp/template.json", "the provisioning template (`file`) of the act aws")
	flag.Parse()
	// Who turns away leaves nothing behind either, not by closing the terminal, and not with make demo | head: there say notices.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) // else it ends the program
	acts := map[string]func(context.Context, *stage) error{"life": playLife, "azure": playAzure, "aws": playAWS}
	play := acts[*act]
	if play == nil {
		fmt.Fprintf(os.Stderr, "demo: there is no act %q\n", *act)
		os.Exit(2)
	}
	if err := perform(ctx, play, stage{agentPath: *agent, testcaPath: *testca, templatePath: *template, leave: stop}); err != nil {
		if ctx.Err() != nil {
			err = errors.New("it was told to stop")
		}
		fmt.Fprintf(os.Stderr, "\ndemo: FAILED: %v\n", err)
		os.Exit(1)
	}
}

// stage is where an act is played.
type stage struct {
	agentPath, testcaPath, templatePath string
	leave                               func() // ends the act

	dir   string // for everything, and gone afterwards
	began time.Time
}

// perform plays one act on a stage that it sets up and clears.
func perform(ctx context.Context, play func(context.Context, *stage) error, s stage) (err error) {
	if s.dir, err = os.MkdirTemp("", "certagent-demo-"); err != nil {
		return err
	}
	defer os.RemoveAll(s.dir)
	s.began = time.Now()
	return play(ctx, &s)
}

// say prints a text behind the time and its label, if it has one, in lines of 80 columns at most; what follows an empty line in
// it, as it stands.
func (s *stage) say(format string, args ...any) {
	text, block, _ := strings.Cut(fmt.Sprintf(format, args...), "\n\n")
	label := regexp.MustCompile(`^([A-Z]+:)? *`).FindString(text)
	lines := fmt.Sprintf("%5.1fs  %s", time.Since(s.began).Seconds(), label)
	margin := len(lines)
	column := margin
	for i, word := range strings.Fields(text[len(label):]) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case column+1+n > 80:
			lines, column = lines+"\n"+strings.Repeat(" ", margin), margin
		default:
			lines, column = lines+" ", column+1
		}
		lines, column = lines+word, column+n
	}
	if block != "" {
		lines += "\n\n" + strings.TrimSpace(block) + "\n"
	}
	if _, err := fmt.Println(lines); err != nil {
		s.leave() // nobody looks any more
	}
}

// start starts the agent with a configuration, in which DIR stands for the directory of the stage.
func (s *stage) start(configuration string, environment ...string) (*agent, error) {
	a := &agent{path: s.agentPath, config: filepath.Join(s.dir, "config.toml"), live: filepath.Join(s.dir, "state/certs/device-id/live")}
	if err := os.WriteFile(a.config, []byte(strings.ReplaceAll(configuration, "DIR", s.dir)), 0o600); err != nil {
		return nil, err
	}
	s.say("starting the agent with this configuration:\n\n%s", configuration)
	return a, a.start(s.dir, environment...)
}

func words(c *x509.Certificate) string {
	return fmt.Sprintf("certificate %.8x…, %s to %s", c.SerialNumber.Bytes(),
		c.NotBefore.Local().Format(time.TimeOnly), c.NotAfter.Local().Format(time.TimeOnly))
}
