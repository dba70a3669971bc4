package agent

import (
	"crypto/x509"
	"testing"
	"time"

	"certagent/est"
	"certagent/store"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func cas(names ...string) (list []*x509.Certificate) {
	for _, name := range names {
		list = append(list, &x509.Certificate{Raw: []byte(name)})
	}
	return list
}

func sameCAs(a, b []*x509.Certificate) bool {
	return len(namesOf(a, b))+len(namesOf(b, a)) == 0
}

// TestWhatIsKnownDependsOnWhomWeTrust: what was learned under an anchor that a person took away counts no more.
func TestWhatIsKnownDependsOnWhomWeTrust(t *testing.T) {
	a, b := anchoring{anchors: cas("a")}, anchoring{anchors: cas("b")}
	both, roots := anchoring{anchors: cas("b", "a")}, anchoring{anchors: cas("a"), systemRoots: true}
	for _, c := range []struct {
		name    string
		learned anchoring
		now     anchoring
		counts  bool
	}{
		{"the same", a, a, true},
		{"one more", a, both, true},
		{"the system's roots, too", a, roots, true},
		{"one less", both, a, false},
		{"another", a, b, false},
		{"the system's roots no more", roots, a, false},
		{"none named", anchoring{}, a, true},
	} {
		stored := store.Trust{
			CAs: cas("x"), TLSAnchors: cas("x"), ImplicitOff: true, Fetched: noon, Under: c.learned.names(), Attributes: []byte{1},
		}
		k := knownOf(stored, c.now, noon)
		if counts := len(k.CAs) == 1 && len(k.TLSAnchors) == 1 && k.ImplicitOff && k.Attributes != nil; counts != c.counts {
			t.Errorf("%s: counts %v, want %v", c.name, counts, c.counts)
		}
		if !c.counts && (k.CAs != nil || k.TLSAnchors != nil || k.ImplicitOff || k.Attributes != nil) {
			t.Errorf("%s: a part of it counts: %+v", c.name, k)
		}
	}
	ahead := store.Trust{CAs: cas("x"), Fetched: noon.Add(time.Hour), AttributesFetched: noon.Add(time.Hour)}
	if k := knownOf(ahead, a, noon); !k.Fetched.IsZero() || !k.AttributesFetched.IsZero() || len(k.CAs) != 1 {
		t.Errorf("times that lie ahead: %+v", k)
	}
}

// TestLearning: two attempts at one server end one after the other, in whatever order.
func TestLearning(t *testing.T) {
	by := anchoring{anchors: cas("a")}
	before := est.Known{CAs: cas("old"), Fetched: noon.Add(-2 * day), AttributesFetched: noon.Add(-2 * day), Attributes: []byte{1}}
	stored := store.Trust{
		CAs: cas("old"), Fetched: before.Fetched, Attributes: []byte{1}, AttributesFetched: before.AttributesFetched,
		Refresh: store.Refresh{Failures: 3}, Bootstrap: cas("boot"),
	}
	first := before
	first.CAs, first.TLSAnchors, first.Fetched = cas("new"), cas("new"), noon.Add(-time.Minute)
	second := before
	second.CAs, second.TLSAnchors, second.Fetched, second.ImplicitOff = cas("new", "newer"), cas("newer"), noon, true
	second.Linking = true
	asked := before
	asked.Attributes, asked.AttributesFetched = []byte{2}, noon

	for name, order := range map[string][]est.Known{
		"in order": {first, asked, second}, "the other way round": {second, first, asked}, "twice": {second, second, asked, first},
	} {
		got := stored
		for _, after := range order {
			got = learn(got, before, after, by, noon)
		}
		if !sameCAs(got.CAs, second.CAs) || !sameCAs(got.TLSAnchors, second.TLSAnchors) || !got.Fetched.Equal(noon) ||
			!got.ImplicitOff || !got.Linking || got.Attributes[0] != 2 || got.Refresh.Failures != 0 ||
			len(got.Bootstrap) != 1 || len(got.Under) != 1 {
			t.Errorf("%s: %+v", name, got)
		}
	}

	if got := learn(stored, before, before, by, noon); got.Refresh.Failures != 3 || got.Under != nil || !got.Fetched.Equal(before.Fetched) {
		t.Errorf("nothing learned: %+v", got)
	}
	if got := learn(stored, est.Known{}, est.Known{}, by, noon); !sameCAs(got.CAs, stored.CAs) {
		t.Errorf("an attempt to which nothing counted took away what is stored: %+v", got)
	}
	doubted := before
	doubted.AttributesFetched = time.Time{}
	if got := learn(stored, before, doubted, by, noon); !got.AttributesFetched.IsZero() {
		t.Error("attributes that are to be asked for again still count as fresh")
	}
	wrong := stored
	wrong.Fetched = noon.Add(365 * day) // by a clock that ran ahead
	if got := learn(wrong, est.Known{CAs: cas("old")}, second, by, noon); !got.Fetched.Equal(noon) {
		t.Errorf("what a wrong clock wrote stands for ever: %v", got.Fetched)
	}
	distrusted := stored
	distrusted.Under, distrusted.Linking = anchoring{anchors: cas("gone")}.names(), true
	if got := learn(distrusted, est.Known{}, est.Known{CAs: cas("new"), Fetched: noon}, by, noon); got.Linking || got.Attributes != nil ||
		!got.AttributesFetched.IsZero() || void(got, by) {
		t.Errorf("what was learned under an anchor that is gone counts again: %+v", got)
	}
	off := first
	off.ImplicitOff = true // a later connection of the server's, nothing fetched
	if got := learn(learn(stored, before, first, by, noon), first, off, by, noon); !got.ImplicitOff {
		t.Error("the system's roots still count")
	}
}

func TestFreshAnswers(t *testing.T) {
	live := func(life time.Duration) *store.Generation {
		return &store.Generation{Leaf: &x509.Certificate{NotBefore: noon, NotAfter: noon.Add(life)}}
	}
	for _, c := range []struct {
		name string
		o    order
		want time.Duration
	}{
		{"a renewal in a year's life", order{live: live(365 * day), reason: reasonThreshold}, day},
		{"in a day's", order{live: live(day), reason: reasonThreshold}, day / 10},
		{"forced", order{live: live(365 * day), reason: reasonForced}, 0},
		{"after a failure", order{live: live(365 * day), reason: reasonThreshold, lastClass: "rejected"}, 0},
		{"expired", order{live: live(365 * day), reason: reasonExpired}, 0},
		{"without a certificate", order{reason: reasonMissing}, 0},
	} {
		if got := fresh(c.o); got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
