package agent

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"certagent/agent/config"
	"certagent/agent/control"
	"certagent/agent/status"
	"certagent/renew"
	"certagent/store"
	"certagent/store/durable"
)

// reasonImported stands in meta.json for a pair that a person brought.
const reasonImported reason = "imported"

// Adoption is a pair to be taken over as the live generation of a certificate.
type Adoption struct {
	Store       *store.Store // open, and nobody else's
	Certificate *config.Certificate
	Pair        Pair
	Replace     bool // also where there is a live generation
	Host        Host
	Version     string
	Now         time.Time
	// Credible says whether Now may be believed: else nothing is judged expired.
	Credible bool
}

// Adopt takes a pair over. What the configuration asks for now is recorded as what it was issued for, so that the certificate
// is renewed as it is and no drift comes of it. The error is a [*control.Error] where the pair or the moment is not right;
// the warnings are for who brought it.
func Adopt(a Adoption) (*store.Generation, []string, error) {
	stored, err := a.Store.Certificate(a.Certificate.ID)
	if err != nil {
		return nil, nil, err
	}
	if err := a.vacant(stored); err != nil {
		return nil, nil, err
	}
	warnings, err := a.check()
	if err != nil {
		return nil, nil, err
	}
	before, err := stored.Retry()
	if err != nil {
		return nil, nil, err
	}
	perm, problem := keyPerm(a.Certificate)
	if problem != nil {
		warnings = append(warnings, problem.Text+"; "+problem.Hint)
	}
	meta := store.Meta{
		// Not when it came: what is due by its dates is due, and is not guarded like one that a server has just issued.
		Issued: earliest(a.Pair.Leaf.NotBefore, a.Now), Reason: string(reasonImported), MachineID: a.Host.LastingID(), Version: a.Version,
	}
	if want, err := desire(a.Certificate, a.Host); err == nil {
		meta.Request = &want.recorded
		if asked := want.recorded.Subject; !bytes.Equal(want.recorded.SubjectDER, a.Pair.Leaf.RawSubject) && asked != a.Pair.Leaf.Subject.String() {
			warnings = append(warnings, fmt.Sprintf("its subject is %q, and the configuration asks for %q: it is renewed with its own",
				a.Pair.Leaf.Subject, asked))
		}
	} // else nothing is recorded, and that is no drift either
	g, err := stored.Commit(store.Issue{
		Pending: &store.Pending{Key: a.Pair.Key}, Leaf: a.Pair.Leaf, Chain: a.Pair.Chain, CAs: a.Pair.CAs, Meta: meta, KeyPerm: perm,
	})
	if err != nil {
		return nil, nil, err
	}
	return g, warnings, stored.SaveRetry(adopted(before, a.Now))
}

// adopted is a retry state after a pair was taken over: nothing that was tried or wished before matters any more.
func adopted(before store.Retry, now time.Time) store.Retry {
	return store.Retry{LastTry: now, LastSuccess: now, Login: before.Login}
}

// vacant refuses to put a pair in the place of one that lives.
func (a Adoption) vacant(stored *store.Certificate) error {
	live, err := stored.Live()
	switch {
	case err != nil && !lost(err):
		return err
	case err != nil || a.Replace || a.Host.cloned(live):
		return nil
	}
	return &control.Error{
		Status: http.StatusConflict,
		Text:   fmt.Sprintf("%s has a certificate already: %s, until %s", a.Certificate.ID, live.Dir, live.Leaf.NotAfter.Format(time.DateTime)),
		Hint:   "put this one in its place with --replace; the other stays on disk until the next renewal",
	}
}

// check judges the pair as an answer of the server is judged, as far as that can be done without one.
func (a Adoption) check() (warnings []string, err error) {
	leaf, c := a.Pair.Leaf, a.Certificate
	refuse := func(hint, format string, args ...any) error {
		return &control.Error{Status: http.StatusUnprocessableEntity, Text: fmt.Sprintf(format, args...), Hint: hint}
	}
	switch {
	case leaf.IsCA && !c.CA:
		return nil, refuse("", "the certificate is a CA certificate, and %s is none", c.ID)
	case !leaf.IsCA && c.CA:
		return nil, refuse("", "the certificate is no CA certificate, and %s is one", c.ID)
	case a.Credible && !a.Now.Before(leaf.NotAfter):
		return nil, refuse("it cannot log in any more: let the agent enrol with its bootstrap credential",
			"the certificate expired %s (%s)", status.Until(leaf.NotAfter.Sub(a.Now)), leaf.NotAfter.Format(time.DateTime))
	case a.Credible && renew.LeafOf(leaf, false).Misdated(a.Now):
		return nil, refuse("compare this device's clock with the CA's; import it when it is valid",
			"the certificate becomes valid %s (%s) only", status.Until(leaf.NotBefore.Sub(a.Now)), leaf.NotBefore.Format(time.DateTime))
	}
	if !a.Credible {
		warnings = append(warnings, "the clock is not credible, so that nobody looked whether the certificate has expired")
	} else if leaf.NotBefore.After(a.Now) {
		warnings = append(warnings, "the certificate becomes valid "+status.Until(leaf.NotBefore.Sub(a.Now)))
	}
	if kind := string(a.Pair.Key.Algorithm()); c.Key != "" && c.Key != kind {
		warnings = append(warnings, fmt.Sprintf("its key is of kind %s, and the configuration asks for %s: the next renewal brings that", kind, c.Key))
	}
	if plan := c.Policy.Plan(renew.LeafOf(leaf, false), a.Now); plan.State == renew.Due && c.Policy.Enabled {
		warnings = append(warnings, "its renewal is due already")
	}
	if top := a.Pair.top(); !a.knows(top) {
		warnings = append(warnings, fmt.Sprintf("%q, which issued it, did not come along and is not trusted (trusted_certs): unless that is a root "+
			"that its readers have, add the certificates between to --cert", top.Issuer))
	}
	for _, s := range a.Pair.Spare {
		warnings = append(warnings, "left out, being neither its chain nor a root: "+nameOf(s))
	}
	return warnings, nil
}

// knows tells whether what issued c came along, is trusted, or was learned from the server.
func (a Adoption) knows(c *x509.Certificate) bool {
	trusted, _ := readAnchors(a.Certificate.Trust.Files) // whoever cannot be read knows nobody
	learned := store.Trust{}
	if a.Certificate.URL != nil {
		learned, _ = a.Store.Trust(a.Certificate.URL.String())
	}
	return slices.ContainsFunc(slices.Concat(a.Pair.CAs, trusted, learned.CAs), func(ca *x509.Certificate) bool {
		return bytes.Equal(ca.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(ca) == nil
	})
}

// brought is how the names of files begin in which pairs are handed to a running agent.
const brought = "import-"

// BroughtName is a name for a file in which a pair is handed to a running agent, in the directory of its socket.
func BroughtName(random string) string { return brought + random + ".pem" }

// broughtFor is how long such a file may lie there. Whoever made it asks for it at once, and removes it should that fail.
const broughtFor = time.Minute

// sweepBrought removes files that are older than broughtFor at now: who made them was killed.
func sweepBrought(dir string, now time.Time) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // the socket cannot be had either, which is said
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), brought) {
			continue
		}
		if info, err := e.Info(); err == nil && now.Sub(info.ModTime()) > broughtFor {
			_ = os.Remove(filepath.Join(dir, e.Name())) // they are private; who is told of one that stays could do no more
		}
	}
}

// maxBrought bounds such a file in bytes.
const maxBrought = 256 << 10

// Import takes over the pair in a file beside the control socket, and removes the file; see [control.Agent].
func (a *Agent) Import(ctx context.Context, i control.Import) (control.Imported, error) {
	a.mu.Lock()
	dir := filepath.Dir(a.cfg.Control.Socket)
	a.mu.Unlock()
	owner, _ := a.o.Store.Owner()
	pair, err := takeBrought(dir, i.File, owner)
	if err != nil {
		return control.Imported{}, &control.Error{Status: http.StatusUnprocessableEntity, Text: err.Error()}
	}
	keepers, err := a.named([]string{i.ID})
	if err != nil {
		return control.Imported{}, err
	}
	type outcome struct {
		taken control.Imported
		err   error
	}
	k, done := keepers[0], make(chan outcome, 1)
	err = k.visit(ctx, func() func() {
		taken, err := k.adopt(pair, i.Replace)
		return func() { done <- outcome{taken, err} }
	})
	if err != nil {
		return control.Imported{}, err
	}
	select {
	case o := <-done:
		return o.taken, o.err
	case <-ctx.Done():
		return control.Imported{}, ctx.Err()
	}
}

// takeBrought reads a pair and removes its file. It must belong to root, or to who the agent
// works for: only they could have put it there.
func takeBrought(dir, name string, owner int) (Pair, error) {
	if !strings.HasPrefix(name, brought) || name != filepath.Base(name) {
		return Pair{}, fmt.Errorf("%q is no name of a file in %s that begins with %s", name, dir, brought)
	}
	path := filepath.Join(dir, name)
	text, info, err := durable.ReadFile(durable.OS{}, path, maxBrought)
	if err != nil {
		return Pair{}, err
	}
	defer clear(text)
	if uid, _ := durable.Owner(info); uid != 0 && uid != owner || info.Mode().Perm()&0o077 != 0 {
		return Pair{}, fmt.Errorf("%s is not for the agent's user alone", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Pair{}, fmt.Errorf("remove the imported key: %w", err)
	}
	return parsePair(text, text, path, path)
}

// adopt is Import in the keeper's goroutine. An attempt that is under way would be done with the certificate that there
// was; it has its end first.
func (k *keeper) adopt(p Pair, replace bool) (control.Imported, error) {
	if k.running {
		return control.Imported{}, &control.Error{
			Status: http.StatusConflict, Text: fmt.Sprintf("an attempt to get %s from the server is under way", k.id),
			Hint: "import it again when that has ended (certagent status)",
		}
	}
	a := k.agent
	g, warnings, err := Adopt(Adoption{
		Store: a.o.Store, Certificate: k.cfg, Pair: p, Replace: replace, Host: a.o.Host, Version: a.o.Version,
		Now: a.o.Now(), Credible: a.clock.credible(),
	})
	if g == nil {
		return control.Imported{}, err
	}
	if err != nil {
		warnings = slices.Concat(warnings, []string{err.Error()}) // it is live; the retry state is tried again at each look
	}
	k.retry = adopted(k.retry, a.o.Now())
	k.readLive()
	z := a.o.Log.Info().Str("event", "import").Str("certificate", k.id).Int("generation", g.Number).Str("serial", g.Serial())
	list(z, "warnings", warnings)
	z.Msg("certificate imported")
	return control.Imported{Generation: g.Number, Directory: g.Dir, Warnings: warnings}, nil
}
