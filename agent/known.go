package agent

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"certagent/est"
	"certagent/store"
)

// anchoring is what the configuration trusts an EST server by, found out anew at each attempt.
type anchoring struct {
	anchors     []*x509.Certificate // explicit (RFC 7030 section 3.6.1)
	systemRoots bool                // implicit (section 3.6.2)
}

// names are what stands in the store beside what was learned under this trust.
func (t anchoring) names() []string {
	names := []string{}
	for _, a := range t.anchors {
		names = append(names, thumbprint(a))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if t.systemRoots {
		names = append(names, "system-roots")
	}
	return names
}

func thumbprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// knownOf is what of the stored trust counts now. What was learned under an anchor that a person has taken away since does
// not: the server that it vouched for may have been the reason. A time that lies ahead was written by a clock that was
// wrong, and makes nothing fresh.
func knownOf(t store.Trust, by anchoring, now time.Time) est.Known {
	if void(t, by) {
		return est.Known{}
	}
	k := est.Known{
		CAs: t.CAs, TLSAnchors: t.TLSAnchors, ImplicitOff: t.ImplicitOff, Fetched: t.Fetched,
		Attributes: t.Attributes, AttributesFetched: t.AttributesFetched, Linking: t.Linking,
	}
	if k.Fetched.After(now) {
		k.Fetched = time.Time{}
	}
	if k.AttributesFetched.After(now) {
		k.AttributesFetched = time.Time{}
	}
	return k
}

// void tells that an anchor which t was learned under is trusted no more.
func void(t store.Trust, by anchoring) bool {
	trusted := by.names()
	return slices.ContainsFunc(t.Under, func(name string) bool { return !slices.Contains(trusted, name) })
}

// learn is the stored trust after an attempt that began with before and ended with after, under the trust called by. What
// another attempt stored meanwhile stands where it is newer.
func learn(stored store.Trust, before, after est.Known, by anchoring, now time.Time) store.Trust {
	newer := func(at, than time.Time) bool { return !at.Before(than) || than.After(now) }
	switch {
	case len(after.CAs) == 0:
	case !after.Fetched.Equal(before.Fetched) && newer(after.Fetched, stored.Fetched):
		if void(stored, by) {
			stored.Attributes, stored.AttributesFetched, stored.Linking = nil, time.Time{}, false
		}
		stored.CAs, stored.TLSAnchors, stored.ImplicitOff = after.CAs, after.TLSAnchors, after.ImplicitOff
		stored.Fetched, stored.Under, stored.Refresh = after.Fetched, by.names(), store.Refresh{}
	case after.ImplicitOff && !before.ImplicitOff && after.Fetched.Equal(stored.Fetched):
		stored.TLSAnchors, stored.ImplicitOff = after.TLSAnchors, true
	}
	if at := after.AttributesFetched; !at.Equal(before.AttributesFetched) && (at.IsZero() || newer(at, stored.AttributesFetched)) {
		stored.Attributes, stored.AttributesFetched = after.Attributes, at
	}
	if after.Linking != before.Linking {
		stored.Linking = after.Linking
	}
	return stored
}

// maxFresh bounds for how long an answer to /cacerts or /csrattrs is taken in place of asking again.
const maxFresh = 24 * time.Hour

// fresh is how old such an answer may be for o: a day, or a tenth of the certificate's lifetime if that is less. Whoever
// wants a certificate out of the ordinary, or after a failure, wants the server asked: its CA may be what changed.
func fresh(o order) time.Duration {
	if o.live == nil || o.reason != reasonThreshold || o.lastClass != "" {
		return 0
	}
	return min(maxFresh, o.live.Leaf.NotAfter.Sub(o.live.Leaf.NotBefore)/10)
}

// saveLearned stores what an attempt learned of a server, and logs and tells a change of its CA certificates.
func (a *Agent) saveLearned(server string, before, after est.Known, by anchoring) (changed bool, err error) {
	var was, is []*x509.Certificate
	err = a.o.Store.UpdateTrust(server, func(t store.Trust) store.Trust {
		was = t.CAs
		t = learn(t, before, after, by, a.o.Now())
		is = t.CAs
		return t
	})
	if err != nil {
		return false, err
	}
	added, removed := namesOf(is, was), namesOf(was, is)
	if changed = len(added)+len(removed) > 0; changed {
		z := a.o.Log.Info().Str("event", "trust").Str("server", server)
		list(z, "added", added)
		list(z, "removed", removed)
		z.Msg("the server's CA certificates changed")
		a.kickAll() // consumers may have to be told
	}
	a.authorities.kicked()
	return changed, nil
}

// namesOf are the certificates of list that others does not have, for people.
func namesOf(list, others []*x509.Certificate) []string {
	names := []string{}
	for _, c := range list {
		if !slices.ContainsFunc(others, c.Equal) {
			names = append(names, nameOf(c))
		}
	}
	return names
}

// nameOf names a certificate that a server sent: its subject, bounded and quoted, and its SHA-256.
func nameOf(c *x509.Certificate) string {
	const most = 200
	subject := c.Subject.String()
	if len(subject) > most {
		subject = subject[:most] + "…"
	}
	return fmt.Sprintf("%q SHA-256 %s", subject, thumbprint(c))
}
