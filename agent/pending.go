package agent

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"

	"certagent/est"
	"certagent/store"
	"certagent/store/keys"
)

// advice is what a server said that it wants to see in a request (RFC 7030 section 4.5). failed means that it was asked and
// nothing was understood: then known is nil, and says nothing.
type advice struct {
	known  *est.Attributes
	failed bool
}

// attributes asks the server what it wants to see. That it cannot say so is a warning; that it is not there, not
// trusted, or does not take this identity is the end of the attempt.
func (s *session) attributes(ctx context.Context) (advice, error) {
	if !s.o.cert.Attributes {
		return advice{}, nil
	}
	known, err := s.client.Attributes(ctx)
	if err == nil {
		return advice{known: known}, nil
	}
	e, ok := errors.AsType[*est.Error](err)
	if !ok || e.Status == 0 && (e.Class == est.ErrUntrusted || e.Class == est.ErrUnavailable || e.Class == est.ErrUnauthorized) {
		return advice{}, err
	}
	s.e.Warnings = append(s.e.Warnings, fmt.Sprintf("what the server wants to see in a request could not be had: %v", err))
	return advice{failed: true}, nil
}

// kind is the kind of key that a server asks for; "" where it does not say, or asks for one that we do not make.
func (a advice) kind() keys.Algorithm {
	if a.known == nil {
		return ""
	}
	kind := keys.Algorithm(a.known.Algorithm)
	switch bits := a.known.Bits; kind {
	case "ec":
		kind = keys.Algorithm(fmt.Sprintf("ec-p%d", bits))
	case "rsa":
		kind = keys.Algorithm(fmt.Sprintf("rsa-%d", bits))
	}
	if !kind.Valid() {
		return ""
	}
	return kind
}

// allows tells whether a key of that kind is what the server asks for as far as it says anything: where it names no size,
// or one that we do not make, any of the family will do.
func (a advice) allows(kind keys.Algorithm) bool {
	switch {
	case a.known == nil || a.known.Algorithm == "":
		return true
	case a.kind() == "":
		return familyOf(kind) == a.known.Algorithm
	}
	return a.kind() == kind
}

func familyOf(kind keys.Algorithm) string {
	switch kind {
	case keys.ECP256, keys.ECP384, keys.ECP521:
		return "ec"
	case keys.RSA2048, keys.RSA3072, keys.RSA4096:
		return "rsa"
	}
	return string(kind)
}

// The kinds of keys that are made where neither the configuration nor the server says enough.
const (
	defaultKey    = keys.ECP256
	defaultRSAKey = keys.RSA2048
)

// keyKind is the kind of key to ask a certificate for. The configuration decides where it says anything; else a request
// that the server has accepted, else the server's advice, else the key that there is.
func keyKind(configured string, asked advice, accepted, live keys.Algorithm) keys.Algorithm {
	switch {
	case configured != "":
		return keys.Algorithm(configured)
	case accepted != "":
		return accepted
	case asked.kind() != "":
		return asked.kind()
	case live.Valid() && asked.allows(live):
		return live
	case asked.known != nil && asked.known.Algorithm == "rsa":
		return defaultRSAKey
	case asked.allows(defaultKey) || !live.Valid():
		return defaultKey
	}
	return live
}

// pend makes the request durable before anything is sent. While it asks for the same as the one that is pending already,
// that one is repeated byte for byte; one that asks for something else is signed anew, with the same key where it can be.
func (a *Agent) pend(ctx context.Context, o order, e *event, p store.Pending, t est.Template, asked advice) (*store.Pending, error) {
	old, err := o.stored.Pending()
	if err != nil && o.lastClass != classStore {
		// A disk may recover. One bad sector must not stop this certificate for ever: the second time it counts as none, and
		// is replaced.
		return nil, storeFailure("read the pending request", err)
	}
	if old != nil && a.o.Host.foreignPending(old, o.cloned) {
		old = nil // its key is another device's
	}
	var accepted, live keys.Algorithm
	if old != nil && !old.Accepted.IsZero() {
		accepted = old.Key.Algorithm()
	}
	if o.live != nil {
		live = o.live.Key.Algorithm()
	}
	kind := keyKind(p.Request.Key, asked, accepted, live)
	if p.Request.Key == "" && accepted == "" && !o.cert.RotateKey && live.Valid() {
		kind = live // the configuration says to keep the key; the server only advises
	}
	if !asked.allows(kind) {
		e.Warnings = append(e.Warnings, fmt.Sprintf("the server asks for another kind of key (%s, %d bits) than %s",
			asked.known.Algorithm, asked.known.Bits, kind))
	}
	if old != nil && (old.Key.Algorithm() != kind || (old.Operation == opServerKeygen) != (p.Operation == opServerKeygen)) {
		old = nil // another kind of key is asked for, or somebody else is to make it
	}
	key, err := a.key(ctx, o, p, kind, old)
	if err != nil {
		return nil, err
	}
	same := old != nil && keys.Equal(old.Key.Public(), key.Public()) && old.Operation == p.Operation && old.Server == p.Server
	if same && asked.failed && accepted != "" && old.Unlinked == nil && repeats(old, p.Request, o.live) {
		return old, nil // what the server wanted last time is in it
	}
	p.CSR, err = est.CreateRequest(key, t)
	if err != nil {
		return nil, configurationFailure("request", fmt.Errorf("make the certificate request: %w", err), hintKind)
	}
	p.Created = a.o.Now()
	switch {
	case same && old.Unlinked == nil && asksTheSame(old.CSR, p.CSR):
		return old, nil
	case same && old.Unlinked != nil && asksTheSame(old.Unlinked, p.CSR):
		// The same request, linked to a connection that is gone: it is linked to the next one, or to none.
		again := *old
		again.CSR, again.Unlinked = old.Unlinked, nil
		p = again
	}
	saved, err := o.stored.SavePending(key, p)
	if err != nil {
		return nil, storeFailure("store the request before sending it", err)
	}
	return saved, nil
}

// asksTheSame compares what two requests say under their signatures, which differ each time.
func asksTheSame(a, b []byte) bool {
	x, err := x509.ParseCertificateRequest(a)
	if err != nil {
		return false
	}
	y, err := x509.ParseCertificateRequest(b)
	return err == nil && bytes.Equal(x.RawTBSCertificateRequest, y.RawTBSCertificateRequest) &&
		x.SignatureAlgorithm == y.SignatureAlgorithm
}

// repeats compares a pending request with what is wanted now, field by field.
func repeats(old *store.Pending, wanted store.Request, live *store.Generation) bool {
	if requestDrift(&old.Request, wanted).any() {
		return false
	}
	if old.Operation != opReenroll {
		return true
	}
	r, err := x509.ParseCertificateRequest(old.CSR)
	return err == nil && bytes.Equal(r.RawSubject, live.Leaf.RawSubject)
}

// key picks the private key of the next request: the live one where rotate_key is false, whichever identity logs in; else
// the one already pending; else a new one. Where the server makes the key of the certificate, this one only signs.
func (a *Agent) key(ctx context.Context, o order, p store.Pending, kind keys.Algorithm, old *store.Pending) (keys.Key, error) {
	if old != nil && (!old.Accepted.IsZero() || p.Operation == opServerKeygen) {
		return old.Key, nil // the server knows this request and may approve it yet
	}
	if p.Operation != opServerKeygen {
		if !o.cert.RotateKey && o.live != nil && o.live.Key.Algorithm() == kind {
			return o.live.Key, nil
		}
		if old != nil && (o.live == nil || !keys.Equal(old.Key.Public(), o.live.Key.Public())) {
			return old.Key, nil
		}
	}
	return a.generate(ctx, kind)
}

// generate makes a key. RSA on an old device takes minutes and cannot be interrupted, so that it is left behind when ctx
// ends: it touches nothing but the processor, and ends by itself.
func (a *Agent) generate(ctx context.Context, kind keys.Algorithm) (keys.Key, error) {
	type made struct {
		key          keys.Key
		err, crashed error
	}
	done := make(chan made, 1)
	go func() {
		var m made
		m.crashed = guard(func() { m.key, m.err = a.o.Keys.Generate(kind) })
		done <- m
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case m := <-done:
		switch {
		case m.crashed != nil:
			return nil, m.crashed
		case m.err != nil:
			return nil, &failure{
				class:   "key",
				problem: Problem{Code: "key-generation", Hint: hintKind},
				err:     fmt.Errorf("generate a key (%s): %w", kind, m.err),
			}
		}
		return m.key, nil
	}
}
