package renew_test

import (
	"testing"
	"time"

	"certagent/renew"
)

// TestRation renews as fast as it may for a week.
func TestRation(t *testing.T) {
	var spent time.Time
	perDay := make([]int, 7)
	for now := birth; now.Before(birth.AddDate(0, 0, 7)); {
		if next := renew.Ration(spent, now); next.After(now) {
			if wait := next.Sub(now); wait > time.Minute {
				t.Fatalf("%v to wait, after %v", wait, now.Sub(birth))
			}
			now = next
			continue
		}
		spent = renew.Spend(spent, now)
		perDay[now.Sub(birth)/day]++
		now = now.Add(time.Second)
	}
	for n, count := range perDay {
		if n == 0 && (count < 2*1440 || count > 2*1440+2) || n > 0 && (count < 1439 || count > 1441) {
			t.Fatalf("renewals a day: %v; want two days' worth, then 1440 a day", perDay)
		}
	}
}

func TestRationOfShortLives(t *testing.T) {
	var spent time.Time
	for now := birth; now.Before(birth.AddDate(0, 0, 30)); now = now.Add(96 * time.Second) { // 80% of two minutes
		if next := renew.Ration(spent, now); next.After(now) {
			t.Fatalf("a certificate of two minutes is held after %v, for %v", now.Sub(birth), next.Sub(now))
		}
		spent = renew.Spend(spent, now)
	}
}

// TestRationAfterAClockThatRanAhead holds that what was spent in 2038 is not owed today.
func TestRationAfterAClockThatRanAhead(t *testing.T) {
	var spent time.Time
	for n := range 3000 {
		spent = renew.Spend(spent, birth.AddDate(12, 0, 0).Add(time.Duration(n)*time.Second))
	}
	if next := renew.Ration(spent, birth); next.After(birth) {
		t.Errorf("held for %v", next.Sub(birth))
	}
	if got, want := renew.Spend(spent, birth), birth.Add(time.Minute); !got.Equal(want) {
		t.Errorf("spent until %v, want %v", got, want)
	}
}
