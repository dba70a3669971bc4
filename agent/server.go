package agent

import (
	"fmt"
	"net/url"
	"time"

	"certagent/agent/config"
	"certagent/agent/status"
	"certagent/renew"
	"certagent/store"
)

// server is one EST server of the configuration.
type server struct {
	url    *url.URL
	cert   config.Certificate // one that uses it: the first, or the first that can log in
	login  *store.Generation  // the live one of cert, if it can log in now; nil while no certificate can
	issued bool               // a live generation came from it
}

// serversOf lists the servers of a configuration, each once, in the order of the certificates. live gives the live
// generation of one, nil if there is none.
func serversOf(certificates []config.Certificate, live func(id string) *store.Generation, now time.Time) []server {
	var all []server
	place := map[string]int{} // in all, by URL
	for _, c := range certificates {
		g := live(c.ID)
		for _, u := range []*url.URL{c.URL, c.RenewURL} {
			if u == nil {
				continue
			}
			name := u.String()
			i, found := place[name]
			if !found {
				i = len(all)
				place[name], all = i, append(all, server{url: u, cert: c})
			}
			if all[i].login == nil && canLogIn(c, g, now) {
				all[i].cert, all[i].login = c, g
			}
			all[i].issued = all[i].issued || g != nil && g.Meta.Server == name
		}
	}
	return all
}

// canLogIn tells whether the live generation g of c is worth showing to a server: a CA certificate is no login, and most
// servers end the connection over one that has expired or is for servers alone.
func canLogIn(c config.Certificate, g *store.Generation, now time.Time) bool {
	if c.CA || g == nil {
		return false
	}
	own := g.TLS()
	return checkLeaf(&own, now) == "" && forClients(g.Leaf)
}

// serverView is a server and when its CA certificates are to be fetched next.
type serverView struct {
	server server
	trust  store.Trust
	due    time.Time // by the age of what there is
	at     time.Time // with what failed tries and the server want
	never  bool      // nothing is known of it yet: the first attempt asks it
}

// viewServer is without I/O and without a clock of its own, so that the agent, status and a table test cannot disagree.
func viewServer(s server, t store.Trust, place float64, since, now time.Time) serverView {
	v := serverView{server: s, trust: t, never: len(t.CAs) == 0 && !s.issued}
	if v.never {
		return v
	}
	v.due = refreshDue(t, place, since, now)
	v.at = v.due
	if t.Refresh.LastTry.After(now) { // by a clock that was wrong
		v.trust.Refresh = store.Refresh{}
	}
	v.at = latest(v.at, sane(v.trust.Refresh.NextTry, now))
	return v
}

// When CA certificates are fetched again, if no renewal does so before.
const (
	refreshEvery   = 7 * 24 * time.Hour
	refreshAtLeast = time.Hour
	// refreshUnknown is within which time that begins where nothing says how old they are.
	refreshUnknown = time.Hour
	// refreshMaxWait bounds the wait after failures, and what is believed of a stored time.
	refreshMaxWait = 24 * time.Hour
)

// refreshDue is when CA certificates are old: after a week, or half of what was left of the one that expires first when they
// were fetched, but not within an hour. place, in [0, 1), brings it forward by up to a quarter, so that a fleet that was
// installed in one minute does not come in one. Certificates that had expired when they came say nothing.
func refreshDue(t store.Trust, place float64, since, now time.Time) time.Time {
	if t.Fetched.IsZero() || t.Fetched.After(now) {
		return since.Add(time.Duration(place * float64(refreshUnknown)))
	}
	return t.Fetched.Add(max(refreshAtLeast, refreshAge(t)-time.Duration(place*float64(refreshAge(t)/4))))
}

func refreshAge(t store.Trust) time.Duration {
	age := refreshEvery
	for _, ca := range t.CAs {
		if left := ca.NotAfter.Sub(t.Fetched); left > 0 {
			age = min(age, left/2)
		}
	}
	return age
}

// lastsFor is how long the stored certificates last: until the first that has not yet expired does; 0 if none is left.
func lastsFor(t store.Trust, now time.Time) time.Duration {
	var least time.Duration
	for _, ca := range t.CAs {
		if left := ca.NotAfter.Sub(now); left > 0 && (least == 0 || left < least) {
			least = left
		}
	}
	return least
}

// refreshDelay is the wait after that many failures in a row, which count from 1: an hour, four times as long each time, at
// most a day, nor a quarter of what is left of the certificates, at least five minutes; each drawn between half and one and
// a half. draw is in [0, 1).
func refreshDelay(failures int, draw float64, left time.Duration) time.Duration {
	limit := refreshMaxWait
	if left > 0 {
		limit = min(limit, left/4)
	}
	wait := max(5*time.Minute, grown(refreshAtLeast, limit, failures))
	return min(refreshMaxWait, time.Duration((.5+draw)*float64(wait)))
}

// sane is a stored time, or zero where it is further ahead than any rule puts it.
func sane(t, now time.Time) time.Time {
	if t.Sub(now) > refreshMaxWait {
		return time.Time{}
	}
	return t
}

// place is where this device stands in the spread of a server's clients.
func (h Host) place(u *url.URL) float64 {
	name := h.MachineID
	if name == "" && h.Hostname != nil {
		name, _ = h.Hostname()
	}
	return renew.Spread([]byte(name + " " + u.String()))
}

// serverViews looks at every server of the configuration in force.
func (a *Agent) serverViews(since time.Time) []serverView {
	a.mu.Lock()
	live := func(id string) *store.Generation { return a.o.Host.own(a.views[id].live) }
	servers := serversOf(a.cfg.Certificates, live, a.o.Now())
	a.mu.Unlock()
	return viewServers(servers, a.o.Store, a.o.Host, since, a.o.Now())
}

func viewServers(servers []server, s *store.Store, h Host, since, now time.Time) []serverView {
	views := make([]serverView, 0, len(servers))
	for _, srv := range servers {
		t, _ := s.Trust(srv.url.String()) // what cannot be read is fetched anew
		views = append(views, viewServer(srv, t, h.place(srv.url), since, now))
	}
	return views
}

// describeServers says it for people and machines.
func describeServers(views []serverView, now time.Time) (all []status.Server, problems []Problem) {
	all = []status.Server{}
	for _, v := range views {
		t := v.trust
		all = append(all, status.Server{
			URL: v.server.url.String(), Fetched: t.Fetched, CAs: len(t.CAs), NextRefresh: v.at, Failures: t.Refresh.Failures,
		})
		if t.Refresh.Failures == 0 {
			continue
		}
		age := "have not been fetched"
		if !t.Fetched.IsZero() {
			age = "were last fetched at " + t.Fetched.UTC().Format(time.RFC3339)
		}
		problems = append(problems, Problem{
			Code: "cacerts-stale",
			Text: fmt.Sprintf("the CA certificates of %s %s, and %d tries to fetch them again failed: %s",
				v.server.url, age, t.Refresh.Failures, t.Refresh.LastError),
			Hint:   "certificates are renewed all the same; but have /cacerts answer, to which no password is given",
			Notice: now.Before(v.due.Add(refreshAge(t))), Since: t.Refresh.Since,
		})
	}
	return all, problems
}
