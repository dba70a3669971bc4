package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// server is a running certagent-testca.
type server struct {
	cmd          *exec.Cmd
	url, address string
	logins       chan login // closed when the server has ended
}

// login is a line of the server's: one request, key=value.
type login map[string]string

// startServer starts one that listens there, and whose certificates live so long.
func (st *stage) startServer(ctx context.Context, listen string, lifetime time.Duration) (*server, error) {
	s := &server{
		cmd: exec.Command(st.testcaPath, "--listen", listen, "--dir", filepath.Join(st.dir, "ca"), "--lifetime", lifetime.String(),
			"--bootstrap"),
		logins: make(chan login, 1000),
	}
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the EST server: %w", err)
	}
	ready := make(chan string, 1)
	go func() { // ends with the server
		defer close(s.logins)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if url, ok := strings.CutPrefix(lines.Text(), "ready on "); ok {
				ready <- url
			} else if l := parseLogin(lines.Text()); l["op"] != "" {
				s.logins <- l
			}
		}
	}()
	select {
	case s.url = <-ready:
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(patience):
		err = errors.New("the EST server did not say that it is ready")
	}
	if err != nil {
		s.kill()
		return nil, err
	}
	s.address = strings.TrimPrefix(s.url, "https://")
	s.address, _, _ = strings.Cut(s.address, "/")
	if _, _, err := net.SplitHostPort(s.address); err != nil {
		s.kill()
		return nil, fmt.Errorf("read the EST server's address %q: %w", s.url, err)
	}
	return s, nil
}

// issued waits for a successful request of that kind.
func (s *server) issued(ctx context.Context, op string, which func(login) bool) (login, error) {
	timeout := time.After(patience)
	for {
		select {
		case l, ok := <-s.logins:
			if !ok {
				return nil, errors.New("the EST server ended")
			}
			if l["op"] == op && l["status"] == "200" && which(l) {
				return l, nil
			}
		case <-timeout:
			return nil, fmt.Errorf("no such %s within %v", op, patience)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *server) kill() {
	if s.cmd.Process != nil && s.cmd.ProcessState == nil {
		// It may have ended by itself; Wait tells the rest.
		_ = s.cmd.Process.Signal(syscall.SIGTERM)
		_ = s.cmd.Wait()
	}
}

// parseLogin reads key=value pairs, values quoted where they need to be.
func parseLogin(line string) login {
	l := login{}
	for line = strings.TrimSpace(line); line != ""; line = strings.TrimSpace(line) {
		key, rest, ok := strings.Cut(line, "=")
		if !ok {
			return l
		}
		value := rest
		if quoted, err := strconv.QuotedPrefix(rest); err == nil {
			value, line = quoted, rest[len(quoted):]
			if value, err = strconv.Unquote(quoted); err != nil {
				return l
			}
		} else {
			value, line, _ = strings.Cut(rest, " ")
		}
		l[key] = value
	}
	return l
}
