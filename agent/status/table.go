package status

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

const (
	barWidth     = 16 // cells of a lifetime's bar; more on a wide terminal
	mostBarWidth = 40
	stateWidth   = 13 // of the longest state; what another version may send is cut
)

// WriteTable writes the Snapshot for people: how many certificates are how, each with a bar of its lifetime and what happens
// next, the worst first, then the problems with what to do. Of more than 20 certificates those that are alike are told of together,
// unless look has each of them. No line is longer than look says, whatever stands in it. Times are in the zone of s.Time.
func (s Snapshot) WriteTable(w io.Writer, look Look) error {
	p := newPage(look)
	certificates := s.worstFirst()
	p.say("", "  ", p.words(s.summary())...)
	p.say("agent: ", "  ", p.words(s.agentLine())...)
	inFull := look.Each || len(certificates) <= many
	p.writeCertificates(alikes(certificates, look.Each), inFull, s)
	p.writeProblems(remarksOf(s.Problems, certificates), inFull, s.Time)
	if c := s.backedOff(certificates); c != nil {
		p.WriteByte('\n')
		p.say("", "  ", p.words("after a repair nobody has to wait: certagent renew "+c.ID)...)
	}
	_, err := io.WriteString(w, p.String())
	return err
}

// backedOff is the worst certificate that a running agent tries again only after a while; nil if there is none.
func (s Snapshot) backedOff(worstFirst []*Certificate) *Certificate {
	for _, c := range worstFirst {
		if s.Running && c.State != Unmanaged && c.Failures > 0 && c.NextTry.After(s.Time) {
			return c
		}
	}
	return nil
}

// worstFirst are the certificates in the order in which somebody wants to look at them: by state, then those with a problem,
// those with a failure, the others.
func (s Snapshot) worstFirst() []*Certificate {
	place := func(c *Certificate) int {
		switch {
		case trouble(c.Problems) != "":
			return 0
		case c.Failures > 0:
			return 1
		}
		return 2
	}
	all := make([]*Certificate, len(s.Certificates))
	for i := range s.Certificates {
		all[i] = &s.Certificates[i]
	}
	slices.SortStableFunc(all, func(a, b *Certificate) int {
		if d := rank(a.State) - rank(b.State); d != 0 {
			return d
		}
		return place(a) - place(b)
	})
	return all
}

// summary counts: "1000 certificates: 3 expired, 997 valid; 2 problems, 1 notice".
func (s Snapshot) summary() string {
	var b strings.Builder
	b.WriteString(counted(len(s.Certificates), "certificate"))
	separator := ": "
	var last State
	for _, c := range s.worstFirst() {
		if c.State == last {
			continue
		}
		last = c.State
		n := 0
		for i := range s.Certificates {
			if s.Certificates[i].State == last {
				n++
			}
		}
		fmt.Fprintf(&b, "%s%d %s", separator, n, last)
		separator = ", "
	}
	problems, notices := 0, 0
	count := func(all []Problem) {
		for _, p := range all {
			if p.Notice {
				notices++
			} else {
				problems++
			}
		}
	}
	count(s.Problems)
	for i := range s.Certificates {
		count(s.Certificates[i].Problems)
	}
	separator = "; "
	for _, c := range []struct {
		n    int
		what string
	}{{problems, "problem"}, {notices, "notice"}} {
		if c.n > 0 {
			b.WriteString(separator + counted(c.n, c.what))
			separator = ", "
		}
	}
	return b.String()
}

// agentLine says who tells all this.
func (s Snapshot) agentLine() string {
	switch {
	case !s.Running:
		return "not running; this is what is on disk in " + s.StateDir
	case s.Started.IsZero():
		return "running, but it did not answer; this is what is on disk in " + s.StateDir
	}
	line := "version " + s.Version
	if s.PID != 0 {
		line += fmt.Sprintf(", process %d", s.PID)
	}
	return line + ", started " + moment(s.Started, s.Time)
}

// writeCertificates writes the table itself, in which one that is well has one line unless inFull. An id for which it has no room
// stands on a line of its own, since it is what one types next.
func (p *page) writeCertificates(groups []*alike, inFull bool, s Snapshot) {
	if len(groups) == 0 {
		return
	}
	var all []*Certificate
	for _, g := range groups {
		all = append(all, g.shown...)
	}
	zone := "EXPIRES (" + p.clean(s.Time.Format("MST")) + ")"
	id, state, expires := len("ID"), len("STATE"), columnsOf(zone)
	for _, c := range all {
		id = max(id, columnsOf(p.clean(c.ID)))
		state = max(state, columnsOf(p.state(c)))
		expires = max(expires, columnsOf(expiry(c, s.Time)))
	}
	room := p.columns - 6 - state - p.barColumns(barWidth) - expires
	id = min(id, room)
	cells := min(barWidth+min(room-id, p.columns-leastColumns), mostBarWidth)
	line := func(name, state, bar, expires string) {
		p.WriteString(name + "  " + state + "  " + bar + "  " + expires + "\n")
	}
	p.WriteByte('\n')
	line(padded("ID", id), padded("STATE", state), padded("LIFETIME", p.barColumns(cells)), zone)
	for _, g := range groups {
		for _, c := range g.shown {
			name := p.clean(c.ID)
			if columnsOf(name) > id {
				p.say("", "", word{text: name})
				name = ""
			}
			word := p.state(c)
			painted := p.paint(word, stateColour(c.State)) + padded("", state-columnsOf(word))
			line(padded(name, id), painted, p.bar(c, s.Time, cells), expiry(c, s.Time))
			if inFull || c.State != Valid || c.Failures > 0 || trouble(c.Problems) != "" {
				p.writeDetails(c, s, padded("", min(id, 16)+2))
			}
		}
		p.writeMore(g)
	}
}

// writeDetails writes what happens next to c, and what happened last.
func (p *page) writeDetails(c *Certificate, s Snapshot, indent string) {
	got := "issued: "
	if c.Imported {
		got = "imported: "
	}
	for _, l := range []struct{ name, text string }{
		{"next: ", s.next(c)},
		{"failed: ", failedLine(c, s.Time)},
		{got, issuedLine(c, s.Time)},
		{"cloud: ", s.cloud(c.Onboarding)},
		{"", deliveryLine(c, s.Time)},
	} {
		if l.text != "" {
			p.say(indent+l.name, indent+"  ", p.words(l.text)...)
		}
	}
}

func (p *page) state(c *Certificate) string {
	text := p.clean(string(c.State))
	text, _ = split(text, stateWidth)
	return text
}

func stateColour(s State) colour {
	switch s {
	case Valid, Due:
		return green
	case Expired, KeyMismatch, Missing:
		return red
	case Unmanaged:
		return plain
	}
	return yellow
}

func padded(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-columnsOf(text)))
}

func expiry(c *Certificate, now time.Time) string {
	if c.NotAfter.IsZero() {
		return "-"
	}
	return date(c.NotAfter, now)
}

// next says when the agent will act on c and why then. Without an agent it promises nothing.
func (s Snapshot) next(c *Certificate) string {
	if c.NextTry.IsZero() {
		return c.NextWhy
	}
	at, agent := "now", "when an agent runs"
	if c.NextTry.After(s.Time) {
		at = moment(c.NextTry, s.Time)
		agent = at + ", if an agent runs"
	}
	if !s.Running {
		at = agent
	}
	return at + ": " + c.NextWhy
}

// failedLine says why and how often the last tries failed: "unavailable, 5 times in a row, last 4 minutes ago (17:24:10)".
func failedLine(c *Certificate, now time.Time) string {
	if c.LastClass == "" || c.LastClass == "pending" || c.State == Unmanaged {
		return ""
	}
	line := c.LastClass + ", "
	if c.Failures > 1 {
		line += fmt.Sprintf("%d times in a row, last ", c.Failures)
	}
	if c.LastTry.IsZero() {
		return line + "at an unknown time"
	}
	return line + moment(c.LastTry, now)
}

// issuedLine says when the last success was and who logged in for it.
func issuedLine(c *Certificate, now time.Time) string {
	if c.LastSuccess.IsZero() {
		return ""
	}
	line := moment(c.LastSuccess, now)
	if c.LastIdentity != "" {
		line += ", login: " + c.LastIdentity
	}
	return line
}

// cloud says whether the cloud knows c, and what happens next if it does not: "registered as gw-17 at
// hub-1.azure-devices.net 5 hours ago (12:30:00)".
func (s Snapshot) cloud(o *Onboarding) string {
	if o == nil {
		return ""
	}
	now, being := s.Time, "being"
	if !s.Running {
		being = "to be"
	}
	where := o.Hub
	if where == "" {
		where = o.Endpoint
	}
	known := ""
	if !o.Registered.IsZero() {
		known = "registered"
		if o.DeviceID != "" {
			known += " as " + o.DeviceID
		}
		known += " at " + where + " " + moment(o.Registered, now)
	}
	next := ""
	if o.NextTry.After(now) {
		next = ", next try " + moment(o.NextTry, now)
	}
	switch {
	case o.State == Registered && o.Why == "":
		return known
	case o.State == Registered:
		return known + "; " + being + " registered again" + next
	case o.Why == "" && known != "":
		return "no valid certificate to register; the last was " + known
	case o.Why == "":
		return "no valid certificate to register at " + where
	case o.State == Failed && known != "":
		return "not registered since the certificate was issued" + next + "; before, it was " + known
	case o.State == Failed:
		return "not registered at " + where + next
	case known != "":
		return being + " registered" + next + "; the certificate before was " + known
	}
	return being + " registered at " + where + next
}

// deliveryLine says how the consumers of c are served: "outputs: 3 ok; hooks: 1 ok, 1 failed; next try in 4 minutes (17:24:10)".
// It is empty for a certificate that has neither.
func deliveryLine(c *Certificate, now time.Time) string {
	var outputs, hooks []string
	for _, o := range c.Outputs {
		outputs = append(outputs, o.State)
	}
	for _, h := range c.Hooks {
		hooks = append(hooks, h.State)
	}
	var parts []string
	add := func(name string, states []string) {
		if len(states) == 0 {
			return
		}
		var counts []string
		for _, state := range []string{"ok", "pending", "failed"} {
			if n := len(states) - len(slices.DeleteFunc(slices.Clone(states), func(s string) bool { return s == state })); n > 0 {
				counts = append(counts, fmt.Sprintf("%d %s", n, state))
			}
		}
		parts = append(parts, name+": "+strings.Join(counts, ", "))
	}
	add("outputs", outputs)
	add("hooks", hooks)
	if o := c.Onboarding; o != nil && o.HoldsUntil.After(now) {
		parts = append(parts, "waiting for the cloud, going ahead "+moment(o.HoldsUntil, now))
	}
	if next := c.nextDelivery(); !next.IsZero() {
		parts = append(parts, "next try "+moment(next, now))
	}
	return strings.Join(parts, "; ")
}
