package agent

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"

	"certagent/agent/config"
	"certagent/agent/hook"
	"certagent/est"
	"certagent/store"
	"certagent/store/export"
)

// consignment is what is delivered of a certificate, and to whom. Nothing in it changes.
type consignment struct {
	live    *store.Generation
	cas     []*x509.Certificate // what consumers should trust
	caFile  string              // where those stand in PEM
	outputs []config.Output
	hooks   []hook.Hook
}

// consign finds out what is to be delivered: the live generation, and the CA certificates as they are known now.
func (a *Agent) consign(c *config.Certificate, live *store.Generation) (consignment, error) {
	to := consignment{live: live, outputs: c.Outputs, hooks: hooksOf(c.OnRenew)}
	server := live.Meta.Server
	if server == "" {
		server = c.URL.String()
	}
	stored, err := a.o.Store.Trust(server)
	if err != nil {
		return consignment{}, err
	}
	// What was learned under an anchor that is configured no more does not count. Where the anchors cannot be read just
	// now, nobody took one away.
	known := stored.CAs
	if by, _, _, err := configuredAnchors(c, stored); err == nil {
		known = knownOf(stored, by, a.o.Now()).CAs
	}
	to.cas, to.caFile = bundle(known, live), live.File("ca.pem")
	if !sameSet(to.cas, live.CAs) {
		if to.caFile, err = a.o.Store.TrustFile(server); err != nil {
			return consignment{}, err
		}
	}
	return to, nil
}

func hooksOf(r config.OnRenew) []hook.Hook { return hook.List(r.Exec, r.Reload, r.Restart, r.Timeout) }

// bundle are the CA certificates that consumers should trust: the roots that the server is known to have, and that under
// which the live certificate was accepted, should none of them have issued it. Where nothing is known of the server, those
// that stand beside the certificate. Expiry is no matter here: the clock may be wrong, and what has expired goes when
// the server is asked again.
func bundle(known []*x509.Certificate, live *store.Generation) []*x509.Certificate {
	cas := slices.DeleteFunc(slices.Clone(known), func(c *x509.Certificate) bool { return !est.IsRoot(c) })
	if len(cas) == 0 {
		return live.CAs
	}
	top := live.Leaf
	if n := len(live.Chain); n > 0 {
		top = live.Chain[n-1]
	}
	issuer := func(ca *x509.Certificate) bool {
		return bytes.Equal(ca.RawSubject, top.RawIssuer) && top.CheckSignatureFrom(ca) == nil
	}
	if i := slices.IndexFunc(live.CAs, issuer); i >= 0 && !slices.ContainsFunc(cas, issuer) {
		cas = append(cas, live.CAs[i])
	}
	return cas
}

func sameSet(a, b []*x509.Certificate) bool { return bundleID(a) == bundleID(b) }

// bundleID names a set of certificates, in whatever order.
func bundleID(cas []*x509.Certificate) string {
	prints := make([]string, 0, len(cas))
	for _, c := range cas {
		prints = append(prints, thumbprint(c))
	}
	slices.Sort(prints)
	h := sha256.New()
	for _, p := range slices.Compact(prints) {
		fmt.Fprintln(h, p)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// wanted says it in the words of delivery.json.
func (c consignment) wanted() wanted {
	w := wantedOf(c.outputs, c.hooks)
	w.generation, w.sha256, w.cas, w.reason = c.live.Number, thumbprint(c.live.Leaf), bundleID(c.cas), c.live.Meta.Reason
	return w
}

func wantedOf(outputs []config.Output, hooks []hook.Hook) (w wanted) {
	for _, o := range outputs {
		w.outputs = append(w.outputs, store.DeliveredOutput{Path: o.Path, Format: o.Format})
	}
	for _, h := range hooks {
		w.hooks = append(w.hooks, h.String())
	}
	return w
}

// set is what package export writes.
func (c consignment) set() export.Set {
	s := export.Set{Pair: export.Pair{Key: c.live.Key, Leaf: c.live.Leaf, Chain: c.live.Chain, CAs: c.cas}}
	for _, o := range c.outputs {
		out := export.Output{Format: export.Format(o.Format), Path: o.Path, Owner: o.Owner, Group: o.Group, Mode: o.Mode}
		if o.PasswordFile != "" {
			out.Password = func() (string, error) { return readPassword(o.PasswordFile) }
		}
		s.Outputs = append(s.Outputs, out)
	}
	return s
}

// passwordFiles are what the outputs depend on beside the consignment.
func (c consignment) passwordFiles() (files []string) {
	for _, o := range c.outputs {
		if o.PasswordFile != "" {
			files = append(files, o.PasswordFile)
		}
	}
	return files
}

// event is what a hook is told.
func (c consignment) event(id, reason string) hook.Event {
	g := c.live
	return hook.Event{
		ID: id, Generation: g.Number, Directory: g.Dir, Reason: reason,
		Cert: g.File("cert.pem"), Chain: g.File("chain.pem"), FullChain: g.File("fullchain.pem"), Key: g.File("key.pem"),
		CA: c.caFile, Serial: g.Serial(), Fingerprint: thumbprint(g.Leaf), NotAfter: g.Leaf.NotAfter,
	}
}
