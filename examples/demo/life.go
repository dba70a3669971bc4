package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// playLife plays the life of a certificate.
func playLife(ctx context.Context, s *stage) (err error) {
	const lifetime = 12 * time.Second
	say := s.say
	say("starting an EST server whose certificates live %v, with a bootstrap certificate \"from manufacturing\"", lifetime)
	// It comes back at the port that it had. On this address no connection of anybody's is given that meanwhile: those go out
	// from 127.0.0.1.
	ca, err := s.startServer(ctx, "127.0.0.2:0", lifetime)
	if err != nil {
		return err
	}
	defer func() { ca.kill() }()
	say("it listens on %s", ca.url)

	a, err := s.start(configuration(ca.url, commonName, ""))
	if err != nil {
		return err
	}
	defer a.kill()
	defer a.explain(&err)

	leaf, err := a.enrols(ctx, ca)
	if err != nil {
		return fmt.Errorf("enrol with the bootstrap certificate: %w", err)
	}
	say("ENROLLED: the bootstrap certificate logged in (simpleenroll); %s", words(leaf))
	say("          the private key is for its owner alone (0600) and matches the certificate")

	first := leaf
	if leaf, err = a.renews(ctx, ca, first); err != nil {
		return fmt.Errorf("renew by threshold: %w", err)
	}
	say("RENEWED:  after %.0f %% of its life the certificate renewed itself (simplereenroll); %s",
		100*float64(leaf.NotBefore.Sub(first.NotBefore))/float64(lifetime), words(leaf))

	say("sending SIGUSR1 to the agent")
	if err := a.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		return err
	}
	old := leaf
	if leaf, err = a.renews(ctx, ca, old); err != nil {
		return fmt.Errorf("renew at the signal: %w", err)
	}
	if early := leaf.NotBefore.Sub(old.NotBefore); early >= lifetime/2 {
		return fmt.Errorf("renew at the signal: it took %v, the threshold would have done that", early)
	}
	say("FORCED:   renewed at once, long before its threshold; %s", words(leaf))

	say("stopping the EST server: an outage begins")
	ca.kill()
	say("waiting until the certificate has expired (%s)", leaf.NotAfter.Local().Format(time.TimeOnly))
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Until(leaf.NotAfter) + time.Second):
	}
	var state certificateStatus
	if err := until(ctx, func() (err error) {
		state, err = a.status()
		if err == nil && (state.State != "expired" || state.Class != "unavailable" || state.Failures == 0) {
			err = fmt.Errorf("status during the outage says %+v, want an expired certificate and an unavailable server", state)
		}
		return err
	}); err != nil {
		return err
	}
	if !a.alive() {
		return errors.New("the agent did not outlive the outage")
	}
	say("EXPIRED:  the agent lives on, has failed %d times (%s), and says so:\n\n%s", state.Failures, state.Class, a.table())

	say("the EST server comes back")
	if ca, err = s.startServer(ctx, ca.address, lifetime); err != nil {
		return err
	}
	if leaf, err = a.enrols(ctx, ca); err != nil {
		return fmt.Errorf("come back through the bootstrap certificate: %w", err)
	}
	say("BACK:     an expired certificate cannot log in, so the bootstrap certificate did; %s", words(leaf))
	if leaf, err = a.renews(ctx, ca, leaf); err != nil {
		return fmt.Errorf("renew after the outage: %w", err)
	}
	say("RENEWED:  and it renews itself as before; %s", words(leaf))

	if err := a.stop(); err != nil {
		return err
	}
	say("the agent stopped at SIGTERM. That was the whole story; nothing is left of it.")
	return nil
}

// commonName is how the device's certificate is named where its name does not matter.
const commonName = `common_name = "gateway-42"`

// configuration is that of a device with a bootstrap certificate; name says what its certificate is asked for, and cloud what
// it is known to.
func configuration(url, name, cloud string) string {
	return fmt.Sprintf(`state_dir = "DIR/state"
run_dir = "DIR/run"
%[3]s
[provisioning.attestation.identity_cert]
method = "est"
%[2]s

[provisioning.attestation.identity_cert.auto_renew]
threshold = "50%%"
retry = "4%%"
jitter = "0%%"

[cert_issuance.est]
trusted_certs = ["file://DIR/ca/ca.pem"]

[cert_issuance.est.auth]
bootstrap_identity_cert = "file://DIR/ca/bootstrap.pem"
bootstrap_identity_pk = "file://DIR/ca/bootstrap.key.pem"

[cert_issuance.est.urls]
default = "%[1]s"
`, url, name, cloud)
}
