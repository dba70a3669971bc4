package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"
	"time"

	"certagent/agent/config"
	"certagent/agent/status"
	"certagent/est"
	"certagent/store"
	"certagent/store/durable"
)

// Problem is what status shows; see [status.Problem].
type Problem = status.Problem

// failure is an attempt that failed for a reason of this device: configuration, credentials, keys, disk. What the server
// or the network did is an [est.Error].
type failure struct {
	class   string // label of logs and metrics
	problem Problem
	err     error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

func configurationFailure(code string, err error, hint string) error {
	return &failure{class: "configuration", problem: Problem{Code: code, Hint: hint}, err: err}
}

// Remedies that more than one failure has.
const (
	hintClient     = "correct in the configuration what the text names; certagent config show says what is in force"
	hintKind       = "choose another kind of key (key = \"…\")"
	hintHook       = "see to that; it is run again by itself, and by certagent reload at once"
	hintOutput     = "see to that; it is written again by itself, and by certagent reload at once"
	hintCloudRoots = "make the file readable for the agent, or take it out of trusted_certs of [provisioning]"
	hintBug        = "this is a mistake in certagent; please report it"
)

// classStore is the class of failures of the state directory.
const classStore = "store"

func storeFailure(what string, err error) error {
	return &failure{
		class:   classStore,
		problem: storeProblem(err),
		err:     fmt.Errorf("%s: %w", what, err),
	}
}

// storeProblem says that the disk does not do what it should.
func storeProblem(err error) Problem {
	p := Problem{Code: "store", Text: err.Error(), Hint: "look at the state directory's owner, mode and free space"}
	switch {
	case errors.Is(err, store.ErrUnsafe):
		p.Hint = "mend what the text names: it must belong to the agent's user or to root, and nobody else may write it"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		p.Hint = "make room on the file system of the state directory; it is tried again by itself"
	case errors.Is(err, syscall.EROFS):
		p.Hint = "have the file system of the state directory mounted for writing; it is tried again by itself"
	}
	return p
}

// verdict is what an error means for the next attempt. It is the one place where classes become actions.
type verdict struct {
	class      string
	problem    Problem
	refusal    bool          // the server does not take this identity
	pending    bool          // the server took the request and has not decided
	retryAfter time.Duration // 0: the server did not say
	canceled   bool          // the agent is stopping: no failure of anybody
}

// judge gives the zero verdict where there is no error.
func judge(err error) verdict {
	if err == nil {
		return verdict{}
	}
	if f, ok := errors.AsType[*failure](err); ok {
		f.problem.Text = f.Error()
		return verdict{class: f.class, problem: f.problem}
	}
	if errors.Is(err, context.Canceled) {
		return verdict{class: "canceled", canceled: true}
	}
	v := verdict{class: "internal", problem: Problem{Code: "internal", Text: err.Error(), Hint: hintBug}}
	for _, c := range []struct {
		class error
		name  string
		hint  string // where package est knows none
	}{
		{est.ErrPending, "pending", "have it approved at the server; certagent renew --discard ID drops it and asks anew"},
		{est.ErrUnauthorized, "unauthorized", "compare the login in [cert_issuance.est.auth] with whom the server lets enrol"},
		{est.ErrRejected, "rejected", "the server's log may say more: have it allow the request, or ask for something else in the configuration"},
		{est.ErrUnavailable, "unavailable", "nothing by hand if it passes: it is tried again; if it does not, look at the network and at the server"},
		{est.ErrUntrusted, "untrusted", "compare trusted_certs, the URL and the clock with what the server shows (certagent cacerts URL)"},
		{est.ErrBadResponse, "bad-response", "see what answers at the URL (certagent cacerts URL): a captive portal, a proxy, a server of another kind"},
	} {
		if errors.Is(err, c.class) {
			v.class = c.name
			v.problem = Problem{Code: "est-" + c.name, Text: err.Error(), Notice: c.class == est.ErrPending, Hint: c.hint}
		}
	}
	v.pending = errors.Is(err, est.ErrPending)
	if e, ok := errors.AsType[*est.Error](err); ok {
		v.refusal, v.retryAfter, v.problem.Hint = e.Refusal, e.RetryAfter, cmp.Or(e.Hint, v.problem.Hint)
	}
	return v
}

// keyPerm resolves owner and mode of the key file. What the agent may not do is a problem with a remedy, not a failure of
// the renewal: the key is then for the agent's own user alone.
func keyPerm(c *config.Certificate) (durable.Perm, *Problem) {
	own := durable.Perm{Mode: 0o600, UID: -1, GID: -1}
	if c.Group == "" {
		own.Mode = c.KeyMode
		return own, nil
	}
	cannot := func(err error) (durable.Perm, *Problem) {
		return own, &Problem{
			Code: "key-group", Text: fmt.Sprintf("the key cannot be given to the group %s: %v", c.Group, err),
			Hint: "create the group, make the agent's user a member (SupplementaryGroups= in a drop-in of the unit), restart the agent, then certagent renew " + c.ID,
		}
	}
	g, err := user.LookupGroup(c.Group)
	if err != nil {
		return cannot(err)
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		return cannot(err)
	}
	groups, err := os.Getgroups()
	if err != nil {
		return cannot(err)
	}
	if os.Geteuid() != 0 && os.Getegid() != gid && !slices.Contains(groups, gid) {
		return cannot(errors.New("the agent's user is not a member"))
	}
	return durable.Perm{Mode: c.KeyMode, UID: -1, GID: gid}, nil
}
