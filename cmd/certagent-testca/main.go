// Command certagent-testca is a throw-away CA and EST server for the demo, tests and labs: package esttest with flags
// around it. It is never packaged with the agent.
//
// On stdout it prints what to put into a config.toml, then one line "ready on URL", then one line of key=value pairs
// for each request (the String of esttest.Login). Everything before the ready line is TOML. On stderr it prints what
// went wrong. It ends with code 0 on SIGTERM or SIGINT, 1 when it cannot run, 2 when the command line is wrong. With
// --verification it is no server, and prints the name of the file that it wrote.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"certagent/est/esttest"
)

// version is set by the linker (Makefile).
var version string

// closeWithin is how long open connections, or a reader of stdout that does not read, can hold up the end.
const closeWithin = 800 * time.Millisecond

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the whole program but for its end. It returns the exit code when ctx is done.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		io.WriteString(stdout, usage)
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "certagent-testca: %v\ncertagent-testca: hint: --help lists the flags\n", err)
		return 2
	case c.version:
		fmt.Fprintln(stdout, "certagent-testca", versionText())
		return 0
	}

	if c.verification != "" {
		file, err := esttest.Verify(c.server, c.verification)
		if err != nil {
			fmt.Fprintf(stderr, "certagent-testca: %v\n", err)
			return 1
		}
		fmt.Fprintln(stdout, file)
		return 0
	}

	var mu sync.Mutex // guards stdout, and holds back requests until the ready line is out
	mu.Lock()
	c.server.OnLogin = func(l esttest.Login) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintln(stdout, l)
	}
	c.server.ErrorLog = log.New(stderr, "certagent-testca: ", 0)
	s, err := esttest.Open(c.server)
	if err != nil {
		fmt.Fprintf(stderr, "certagent-testca: %v\n", err)
		if errors.Is(err, syscall.EADDRINUSE) {
			fmt.Fprintf(stderr, "certagent-testca: hint: is another one running? --listen chooses another port\n")
		}
		return 1
	}
	announce(stdout, s, c.server)
	fmt.Fprintf(stdout, "ready on %s\n", s.URL())
	mu.Unlock()

	<-ctx.Done()
	closed := make(chan struct{})
	go func() { // ends with Close, or with the program
		s.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(closeWithin):
	}
	return 0
}

func versionText() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
