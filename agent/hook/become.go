package hook

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A program of a hook must start with SIGUSR1 ignored: `systemctl kill -s USR1 certagent` asks the agent to renew,
// reaches every process of the unit, and would end all others. Ignoring is inherited over execve(2), handling is not;
// but the agent cannot ignore the signal for the moment of a fork without losing it. So the hook's process is first
// this program once more, which ignores the signal and then becomes the program. From before the fork until then the
// signal is blocked in that one thread: blocking is inherited by the child, and the agent's other threads go on
// receiving it.

// blockUser1 blocks SIGUSR1 in the calling thread, to which its goroutine must be locked.
func blockUser1() error {
	var set unix.Sigset_t
	set.Val[0] = 1 << (uint(unix.SIGUSR1) - 1)
	return unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil)
}

// complaintFD is the pipe on which a process that cannot become the program says why. It closes when it becomes it.
const complaintFD = 3

// Become turns this process into the program of a hook and returns only if it cannot. [Runner.Run] starts this program
// with words that must make main call Become first of all, with the words that follow: the program's path, which
// is its argv[0] too, and its arguments. SIGUSR1 is then ignored, all other signals are at their defaults, none is blocked; no descriptor but 0, 1 and 2
// is open; the umask is 077, so that what a hook makes out of a private key is private. Signals 32 and 33 stay as they
// are: they belong to the C library (nptl(7)), which sets them when it needs them, and package signal leaves them alone.
func Become(words []string) error {
	if len(words) == 0 {
		return errors.New("become a hook: nothing to run")
	}
	runtime.LockOSThread()  // the signal mask is the thread's
	var errno syscall.Errno // of execve(2): it has the class
	err := prepare()
	if err == nil {
		err = syscall.Exec(words[0], words, os.Environ())
		errno, _ = errors.AsType[syscall.Errno](err)
	}
	_, told := fmt.Fprintf(os.NewFile(complaintFD, "complaint"), "%d %v", int(errno), err)
	return errors.Join(err, told)
}

// prepare makes this process, and the calling thread in it, what Become promises to the program.
func prepare() error {
	signal.Ignore(syscall.SIGUSR1) // forgets one that is pending
	ignored, err := ignoredSignals()
	if err != nil {
		return err
	}
	for _, s := range ignored {
		if s != syscall.SIGUSR1 {
			signal.Notify(make(chan os.Signal, 1), s) // what is handled is at its default after execve(2)
		}
	}
	// That the program dies with the agent is a setting of the thread: what start gave this process is that of its first
	// thread, and execve(2) keeps that of the one which calls it (prctl(2), PR_SET_PDEATHSIG). Until then both have it.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("be killed with the agent: %w", err)
	}
	syscall.Umask(0o077)
	if err := closeOnExec(); err != nil {
		return err
	}
	var none unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &none, nil); err != nil {
		return fmt.Errorf("unblock signals: %w", err)
	}
	return nil
}

// ignoredSignals are those that this process ignores (proc_pid_status(5), SigIgn). The agent ignores some, whoever
// started it may have had it ignore others, and package signal does not know all of them.
func ignoredSignals() (signals []syscall.Signal, err error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, fmt.Errorf("find ignored signals: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		name, mask, _ := strings.Cut(line, ":")
		if name != "SigIgn" {
			continue
		}
		bits, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
		if err != nil {
			return nil, fmt.Errorf("find ignored signals: %w", err)
		}
		for s := range 64 {
			if bits&(1<<s) != 0 {
				signals = append(signals, syscall.Signal(s+1))
			}
		}
		return signals, nil
	}
	return nil, errors.New("find ignored signals: no SigIgn in /proc/self/status")
}

// closeOnExec keeps every descriptor but 0, 1 and 2 from the program: the agent's own are marked so, but not those that
// it was started with.
func closeOnExec() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("find open descriptors: %w", err)
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd) // one that was closed meanwhile is no harm
		}
	}
	return nil
}
