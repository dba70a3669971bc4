package agent

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"certagent/agent/config"
	"certagent/agent/onboard"
	"certagent/agent/status"
	"certagent/store"
	"certagent/store/durable"
)

// cloud is what the device certificate is to be known to, and how far that is: one protocol of agent/onboard, with what is
// stored of it. It belongs to one goroutine. But for what begin returns it is without I/O and without a clock, so that the
// keeper, "run --once", status and a table test cannot disagree.
type cloud interface {
	// name is that of its files, and in status, metrics and logs.
	name() string
	// restore takes over what is on disk, nil where there is nothing.
	restore(result, state []byte)
	// stored is what is to be on disk; a result that is nil is none.
	stored() (result, state []byte)
	// aim says what is to be known from now on, and reports whether that is something else than before: live is the
	// certificate, nil while there is none that could be shown.
	aim(p config.Provisioning, live *store.Generation) (changed bool)
	// next is what to do next.
	next(now time.Time) errand
	// begin notes that the next errand is begun, whatever its time, and gives the errand itself: one exchange, for a goroutine
	// of its own, bounded in time and ended by its context.
	begin(to contact, draw float64, now time.Time) func(context.Context) tiding
	// ask has it done again although nothing changed, and retryNow has what failed tried at once. Neither goes over what
	// the cloud asked for.
	ask()
	retryNow()
	// address is where it is, host:port, and what is asked for by ALPN there.
	address() (string, []string)
	// describe says it for people and machines.
	describe(now time.Time) (status.Onboarding, []Problem)
	// hangUp closes the connection that may be left from the last errand. None is under way.
	hangUp()
}

// errand is what is to be done next to be known to a cloud.
type errand struct {
	why  string    // "" means that there is nothing to do
	new  bool      // the cloud does not know the certificate; else it is to be told once more
	at   time.Time // not before; zero: at once
	held time.Time // the part of at that no order goes over
}

// contact is what an errand needs to reach a cloud.
type contact struct {
	dialer    onboard.Dialer
	userAgent string
	now       func() time.Time
	trust     durable.Trust // in files that go along
}

// tiding is what came of an errand.
type tiding struct {
	// record takes it over into the cloud, in the goroutine that this belongs to. It says whether that is the end: the
	// certificate is known, or the try failed. Else another errand goes on with it.
	record func(draw float64, now time.Time) (end bool)
	err    error  // nil where it brought something
	over   bool   // err is that the errand was called off: it counts for nothing
	class  string // of err, as logs name it
	status int    // of HTTP; 0 where there was none
}

// tidingOf says what came of an errand to others: err, whose classes are those of agent/onboard, and the status of HTTP, if
// there was one. Only the error of an errand that was called off has no class.
func tidingOf(err error, status int) tiding {
	class, failed := errors.AsType[*onboard.Class](err)
	if !failed {
		return tiding{err: err, over: err != nil, status: status}
	}
	return tiding{err: err, class: class.Name, status: status}
}

// described is s with how it goes on, given the next errand: shown says that there is a certificate to be known, tried that
// there were tries with it, and p what was wrong with the last one, nil for nothing.
func described(s status.Onboarding, shown bool, next errand, tried bool, p *onboard.Problem) (status.Onboarding, []Problem) {
	s.State, s.Why = status.Pending, next.why
	if shown && !next.new {
		s.State = status.Registered
	}
	if !tried {
		return s, nil
	}
	s.NextTry = next.at
	if p == nil || next.why == "" {
		return s, nil
	}
	if s.State != status.Registered && !p.Notice {
		s.State = status.Failed
	}
	return s, []Problem{problemOfCloud(p)}
}

func problemOfCloud(p *onboard.Problem) Problem {
	return Problem{Code: p.Code, Text: p.Text, Hint: p.Hint, Notice: p.Notice, Since: p.Since}
}

// cloudOf is the cloud that a configuration names, with nothing known of it; nil where it names none that can be told.
func cloudOf(p config.Provisioning) cloud {
	switch {
	case p.Source == config.SourceDPS && !p.Blank():
		return &dpsCloud{}
	case p.Source == config.SourceAWS:
		return &awsCloud{}
	}
	return nil
}

// cloudRoots are what verifies a cloud: the configured certificates, or nil for the system's roots. EST's anchors have no say.
func cloudRoots(p config.Provisioning) (*x509.CertPool, error) {
	if len(p.TrustedCerts) == 0 {
		return nil, nil
	}
	certificates, err := readAnchors(p.TrustedCerts)
	if err != nil {
		return nil, fmt.Errorf("trusted_certs of [provisioning]: %w", err)
	}
	roots := x509.NewCertPool()
	for _, c := range certificates {
		roots.AddCert(c)
	}
	return roots, nil
}

// surveyCloud finds out from the disk how far the cloud knows live, nil for none; nil where no cloud is to be told.
func surveyCloud(p config.Provisioning, s *store.Store, live *store.Generation, now time.Time) (*status.Onboarding, []Problem, error) {
	c := cloudOf(p)
	if c == nil {
		return nil, nil, nil
	}
	files := s.Onboarding(c.name())
	result, err := files.Result()
	if err != nil {
		return nil, nil, err
	}
	state, err := files.State()
	if err != nil {
		return nil, nil, err
	}
	c.restore(result, state)
	c.aim(p, live)
	d, problems := c.describe(now)
	d.File, d.HoldsUntil = files.ResultFile(), heldUntil(c.next(now), live, now)
	return &d, problems, nil
}
