package status_test

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	"certagent/agent/status"
)

var sgr = regexp.MustCompile("\x1b\\[[0-9]*m")

// columnsIn counts the columns of a line by what a terminal does with the characters that these tests use; the program counts
// by a table of ranges.
func columnsIn(line string) (n int) {
	for _, r := range line {
		switch {
		case unicode.In(r, unicode.Mn, unicode.Me):
		case unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul) || r > 0xffff || r >= 0xff01 && r <= 0xff5e:
			n += 2
		default:
			n++
		}
	}
	return n
}

// TestTableOfTheCloud: how far a cloud knows the certificate, in words that are true.
func TestTableOfTheCloud(t *testing.T) {
	registered := status.Onboarding{Cloud: "dps", Endpoint: "https://dps.example", Hub: "hub.example", DeviceID: "gw", Registered: in(-day)}
	never := status.Onboarding{Cloud: "dps", Endpoint: "https://dps.example"}
	for _, c := range []struct {
		of      status.Onboarding
		state   string
		why     string
		running bool
		want    string
	}{
		{registered, status.Registered, "", true, "cloud: registered as gw at hub.example"},
		{registered, status.Registered, "asked", true, "; being registered again"},
		{registered, status.Registered, "asked", false, "; to be registered again"},
		{registered, status.Pending, "renewed", true, "cloud: being registered; the certificate before was registered as gw"},
		{registered, status.Pending, "", true, "cloud: no valid certificate to register; the last was registered as gw"},
		{registered, status.Failed, "renewed", true, "cloud: not registered since the certificate was issued; before,"},
		{never, status.Pending, "unknown", true, "cloud: being registered at https://dps.example"},
		{never, status.Pending, "unknown", false, "cloud: to be registered at https://dps.example"},
		{never, status.Pending, "", true, "cloud: no valid certificate to register at https://dps.example"},
		{never, status.Failed, "unknown", true, "cloud: not registered at https://dps.example"},
	} {
		c.of.State, c.of.Why = c.state, c.why
		s := status.Snapshot{Time: now, Running: c.running, Certificates: []status.Certificate{{
			ID: "device-id", State: status.Valid, NotBefore: in(-day), NotAfter: in(day), Onboarding: &c.of,
			Outputs: []status.Output{{State: status.Pending}},
		}}}
		table := func() string {
			var b strings.Builder
			if err := s.WriteTable(&b, status.Look{Columns: 160}); err != nil {
				t.Fatal(err)
			}
			return b.String()
		}
		if got := table(); !strings.Contains(got, c.want) || strings.Contains(got, "waiting") {
			t.Errorf("%+v: want %q in\n%s", c.of, c.want, got)
		}
		c.of.HoldsUntil = in(4 * time.Minute)
		if got := table(); !strings.Contains(got, "outputs: 1 pending; waiting for the cloud, going ahead in 4 minutes") {
			t.Errorf("outputs that wait:\n%s", got)
		}
	}
}

// TestTableFits: no line has more columns than the terminal, whatever stands in it.
func TestTableFits(t *testing.T) {
	long := map[string]string{
		"path":      "/" + strings.Repeat("very-long/", 20),
		"word":      strings.Repeat("x", 500),
		"han":       strings.Repeat("証明書の期限が切れました。", 30),
		"fullwidth": strings.Repeat("Ａ", 100),
		"hangul":    strings.Repeat("인증서가 만료되었습니다 ", 20),
		"emoji":     strings.Repeat("🔑", 90),
		"marks":     strings.Repeat("e\u0301", 200) + strings.Repeat("\u0489", 300) + strings.Repeat("\u0300", 300),
		"mixed":     strings.Repeat("Gerät 証明書 /etc/ssl/証明書/鍵.pem ", 20),
		"lines":     strings.Repeat("one\n\n  two\n", 5),
		"controls":  strings.Repeat("\x1b[31m\r\u009b2J\u202e", 50),
		"not UTF-8": strings.Repeat("\xff\xfe\x80", 60),
	}
	s := everything()
	s.StateDir = long["path"]
	for _, text := range long {
		p := status.Problem{Code: "store", Text: text, Hint: text, Since: in(-day)}
		s.Problems = append(s.Problems, p, status.Problem{Code: text, Notice: true})
		s.Certificates = append(s.Certificates, status.Certificate{
			ID: "c" + strings.Repeat("-", len(s.Certificates)*5%63), State: status.Expired, NotBefore: time.Date(2, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: in(-119 * time.Minute),
			RenewAt: in(-day), NextTry: in(119 * time.Second), NextWhy: text, LastClass: text, LastTry: now, LastSuccess: in(-day), LastIdentity: text, Failures: 3,
			Problems: []status.Problem{p},
		}, status.Certificate{ID: text, State: status.State(text)})
	}
	for _, look := range []status.Look{
		{}, {Columns: 20}, {Columns: 80, Unicode: true}, {Columns: 81, Unicode: true, Colour: true}, {Columns: 133, Unicode: true}, {Columns: 1000, Unicode: true},
	} {
		most := min(max(look.Columns, 80), 160)
		for line := range strings.Lines(table(t, s, look)) {
			line = sgr.ReplaceAllString(strings.TrimSuffix(line, "\n"), "")
			if n := columnsIn(line); n > most {
				t.Errorf("%+v: %d columns: %s", look, n, line)
			}
			for _, r := range line {
				if status.Printable(string(r)) != string(r) || !look.Unicode && r > 0x7e {
					t.Errorf("%+v: %U in %q", look, r, line)
				}
			}
		}
	}
	// What a line has room for stays in one piece, to be copied, and of a path what stands between its slashes.
	path := "/" + strings.Repeat("seven77/", 9)
	s = status.Snapshot{Time: now, Problems: []status.Problem{{Code: "store", Text: "cannot read " + path + "\n" + path + path[1:]}}}
	if got, want := table(t, s, status.Look{}), "cannot read\n  "+path+"\n  "+path+"\n  "+path[1:]+"\n"; !strings.Contains(got, want) {
		t.Errorf("a path was broken:\n%s\nwant\n%s", got, want)
	}
	got := regexp.MustCompile(`\s`).ReplaceAllString(table(t, status.Snapshot{Time: now, Problems: []status.Problem{{Text: long["word"]}}}, status.Look{}), "")
	if !strings.Contains(got, long["word"]) {
		t.Error("something of a long word was lost")
	}
}

// TestMarksAreBounded: as many combining marks as languages need, and not the heap that is written over the lines above.
func TestMarksAreBounded(t *testing.T) {
	heap := "a" + strings.Repeat("\u0301", 50) + "b\u0302\u0323"
	if got, want := status.Printable(heap), "a"+strings.Repeat("\u0301", 4)+"b\u0302\u0323"; got != want {
		t.Errorf("Printable is %+q, want %+q", got, want)
	}
}

// TestColours: states and problem codes alone are coloured, and without colours the same is said.
func TestColours(t *testing.T) {
	coloured := table(t, everything(), status.Look{Colour: true})
	if got := sgr.ReplaceAllString(coloured, ""); got != table(t, everything(), status.Look{}) {
		t.Error("the colours are not all that differs")
	}
	var words []string
	for _, m := range regexp.MustCompile("\x1b\\[(3[0-9])m([^\x1b]*)\x1b\\[0m").FindAllStringSubmatch(coloured, -1) {
		if word := m[1] + " " + m[2]; !slices.Contains(words, word) {
			words = append(words, word)
		}
	}
	slices.Sort(words)
	want := []string{
		"31 broken:", "31 config-invalid:", "31 dps-unauthorized:", "31 est-unavailable:", "31 expired", "31 hook-failed:", "31 key-mismatch", "31 missing", "31 output-refused:",
		"32 due", "32 valid", "33 not-yet-valid", "33 overdue", "36 altered-by-ca",
	}
	if !slices.Equal(words, want) {
		t.Errorf("coloured: %q", words)
	}
}

// TestWorstFirst: what somebody must look at stands above what is well.
func TestWorstFirst(t *testing.T) {
	got := table(t, crowd(), status.Look{})
	if n := strings.Count(got, "\n"); n > 50 {
		t.Errorf("%d lines for 60 certificates of which 9 are not well", n)
	}
	if i, j := strings.Index(got, "\ndevice-57 "), strings.Index(got, "\ndevice-00 "); i < 0 || j < i {
		t.Errorf("the expired one is not above the valid ones:\n%s", got)
	}
}

// TestThousand: what a thousand certificates have in common is said once, with how many and which, on a screen or two; each of them
// is there for who asks, and for programs.
func TestThousand(t *testing.T) {
	well, gone := everything().Certificates[0], everything().Certificates[5]
	well.Onboarding = nil
	failing := func(i int) status.Certificate {
		c := gone
		c.Problems = slices.Clone(c.Problems)
		if i%4 == 0 { // another reason
			c.Problems[0].Code, c.Problems[0].Text = "est-unauthorized", fmt.Sprintf("the server refused password %d", i)
		}
		c.Problems = append(c.Problems, status.Problem{Code: "expired", Text: fmt.Sprintf("it expired %d minutes ago", i)})
		return c
	}
	for name, make := range map[string]func(int) status.Certificate{
		"well":    func(int) status.Certificate { return well },
		"failing": failing,
	} {
		s := status.Snapshot{Time: now, Running: true, Started: in(-day)}
		for i := range 1000 {
			c := make(i)
			c.ID = fmt.Sprintf("device-%03d", i)
			c.NotAfter = c.NotAfter.Add(-time.Duration(i) * time.Second) // the last ones end first
			s.Certificates = append(s.Certificates, c)
		}
		short, each := table(t, s, status.Look{}), table(t, s, status.Look{Each: true})
		if n := strings.Count(short, "\n"); n > 70 {
			t.Errorf("%s: %d lines:\n%s", name, n, short)
		}
		want := map[string][]string{
			"well": {"\ndevice-999 ", "\ndevice-998 ", "\ndevice-997 ", "\nand 997 more like these: valid (--all shows each)\n"},
			"failing": {"\ndevice-999 ", "\nand 747 more like these: expired, est-unavailable (--all shows each)\n", "\ndevice-996 ",
				"\nand 247 more like these: expired, est-unauthorized (--all shows each)\n",
				"\ndevice-001, device-002, device-003 and 747 more: est-unavailable: est\n",
				"\nest-unauthorized: 247 more like these; certagent status ID shows those of one\n  certificate, --all each\n"},
		}
		for _, text := range want[name] {
			if !strings.Contains(short, text) {
				t.Errorf("%s: there is no %q in\n%s", name, text, short)
			}
		}
		var b bytes.Buffer
		if err := s.WriteJSON(&b); err != nil {
			t.Fatal(err)
		}
		for face, n := range map[string]int{
			"--all":  len(regexp.MustCompile(`(?m)^device-\d{3} .*\n +next: `).FindAllString(each, -1)),
			"--json": len(regexp.MustCompile(`"id": "device-\d{3}"`).FindAllString(b.String(), -1)),
		} {
			if n != 1000 {
				t.Errorf("%s: %s has %d certificates in full", name, face, n)
			}
		}
		if strings.Contains(each, "more like") {
			t.Errorf("%s: not each problem is told", name)
		}
	}
}

// TestFewAlike: twenty certificates are shown one by one; of more, four of a kind are, since a line for the fourth is a line as well.
// That tries fail makes a kind of its own, also where that is no problem yet.
func TestFewAlike(t *testing.T) {
	well := everything().Certificates[0]
	well.Problems = nil
	failing := well
	failing.Failures, failing.LastClass = 1, "unavailable"
	for _, c := range []struct {
		well, failing int
		want          []string
	}{
		{20, 0, nil},
		{21, 0, []string{"and 18 more like these: valid (--all shows each)"}},
		{21, 4, []string{"and 18 more like these: valid (--all shows each)"}},
		{4, 21, []string{"and 18 more like these: valid, unavailable (--all shows each)"}},
	} {
		s := status.Snapshot{Time: now, Certificates: slices.Concat(
			slices.Repeat([]status.Certificate{well}, c.well), slices.Repeat([]status.Certificate{failing}, c.failing))}
		got := table(t, s, status.Look{})
		if more := regexp.MustCompile(`(?m)^and .*$`).FindAllString(got, -1); !slices.Equal(more, c.want) {
			t.Errorf("of %d and %d: %q, want %q:\n%s", c.well, c.failing, more, c.want, got)
		}
	}
}

// TestTableIsSafe: text that came from a server cannot move the cursor, colour, ring, reverse or begin a line of its own.
func TestTableIsSafe(t *testing.T) {
	const evil = "no\x1b[2J\x1b]0;title\x07\r\u009b31m\u202efdp\u200b\x00\xff\ndevice-id  valid\tenough"
	s := status.Snapshot{Time: now, Problems: []status.Problem{{Code: "est-rejected", Text: evil, Hint: evil}}, Certificates: []status.Certificate{
		{ID: "a", State: status.Missing, NextWhy: evil, Problems: []status.Problem{{Code: "est-rejected", Text: evil, Hint: evil}}},
	}}
	got := table(t, s, status.Look{})
	for _, r := range got {
		if r != '\n' && status.Printable(string(r)) != string(r) {
			t.Errorf("the table has %U", r)
		}
	}
	for line := range strings.Lines(got) {
		if strings.HasPrefix(strings.TrimSpace(line), "device-id") && !strings.HasPrefix(line, "  ") {
			t.Errorf("a server wrote a row of its own:\n%s", got)
		}
	}
	if want := "no?[2J?]0;title???31m?fdp??\ufffd device-id  valid enough"; status.Printable(evil) != want {
		t.Errorf("Printable is %q, want %q", status.Printable(evil), want)
	}
	if plain := "Gerät \"<7>\" – 証明書"; status.Printable(plain) != plain {
		t.Error("Printable changes what a person wrote")
	}
}

func TestUntil(t *testing.T) {
	for _, tc := range []struct {
		d    time.Duration
		want string
	}{
		{0, "in 0 seconds"},
		{time.Second, "in 1 second"},
		{-119*time.Second - time.Millisecond, "119 seconds ago"},
		{2 * time.Minute, "in 2 minutes"},
		{-119 * time.Minute, "119 minutes ago"},
		{47*time.Hour + 59*time.Minute, "in 47 hours"},
		{3 * day, "in 3 days"},
		{729 * day, "in 729 days"},
		{20 * 365 * day, "in 20 years"},
	} {
		if got := status.Until(tc.d); got != tc.want {
			t.Errorf("%v is %q, want %q", tc.d, got, tc.want)
		}
	}
}
