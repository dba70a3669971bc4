package hook

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Grace is how long a program and its children have to end after SIGTERM, before SIGKILL.
	Grace = 3 * time.Second
	// killed is how long SIGKILL may take. A process in an uninterruptible sleep does not die of it.
	killed = time.Second
)

// process is a program that runs, or has ended and was not reaped: until then its number, which is also that of its
// process group, is nobody else's.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed by keep when the program has ended
	free   chan struct{} // closed by reap: the group is signalled no more
	status chan error    // what Wait said; gets one value
}

// start starts cmd in a process group of its own, with SIGUSR1 blocked; as somebody else where as is not nil.
//
// The program is killed if the agent dies (PR_SET_PDEATHSIG, see Become), lest it run beside that of the agent's successor.
// Children of the program are not: with systemd they end with the unit's control group.
func start(as *syscall.Credential, cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, exited: make(chan struct{}), free: make(chan struct{}), status: make(chan error, 1)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as, Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go p.keep(started)
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// keep starts the program and stays with it until it is reaped, in a thread of its own: to Linux the parent that must
// not die is the thread, and the signal mask is the thread's too. The goroutine never lets go of its thread, which
// therefore ends with it. It ends when the program has ended and reap was called.
func (p *process) keep(started chan<- error) {
	runtime.LockOSThread()
	err := blockUser1()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		started <- fmt.Errorf("start a process: %w", err)
		return
	}
	started <- nil
	for {
		// WNOWAIT leaves it to be reaped.
		err := unix.Waitid(unix.P_PID, p.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	close(p.exited)
	<-p.free
	p.status <- p.cmd.Wait()
}

func (p *process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// endGroup ends the program and its children: SIGTERM, and SIGKILL after Grace. It does not wait that long if the
// program has ended and nobody has its output open any more. It reports whether the program has ended.
func (p *process) endGroup(outputEnded <-chan struct{}) bool {
	p.signal(unix.SIGTERM)
	grace := time.NewTimer(Grace)
	defer grace.Stop()
	for _, ended := range []<-chan struct{}{p.exited, outputEnded} {
		select {
		case <-ended:
			continue
		case <-grace.C:
		}
		break
	}
	p.signal(unix.SIGKILL)
	select {
	case <-p.exited:
		return true
	case <-time.After(killed):
		return false
	}
}

// signal sends a signal to the process group. Nobody is left in it, or nobody whom we may signal: both are no error,
// for nothing can be done about them.
func (p *process) signal(s syscall.Signal) { _ = unix.Kill(-p.cmd.Process.Pid, s) }

// reap gives the program's number back and returns how it ended: nil for exit status 0. It does not wait for a program
// that has not ended, which is then reaped when it does.
func (p *process) reap() error {
	close(p.free)
	if !p.hasExited() {
		return nil
	}
	return <-p.status
}
