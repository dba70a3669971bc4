package renew

import "time"

// What Guard allows is a matter of lifetimes, and those are the server's choice: one that issues for a second would be
// asked several times a second for as long as it answers. So renewals that the clock asks for are rationed too.
const (
	// rationEvery is what one renewal uses up.
	rationEvery = time.Minute
	// rationAhead is how much may be used up in advance.
	rationAhead = day
)

// Spend returns the state of the ration after a renewal at now, given the state before it: until when the ration is
// used up. The zero time is the state before the first one.
func Spend(spent, now time.Time) time.Time {
	return later(heeded(spent, now), now.Round(0)).Add(rationEvery)
}

// Ration returns the earliest instant at which the next renewal by threshold or after expiry may follow, given the
// state of the ration. In the long run that is one renewal a minute, after a day's worth in advance. A certificate that
// lives for two minutes or longer never comes near it. A forced renewal, and that of a certificate which is missing, is
// the caller's business.
func Ration(spent, now time.Time) time.Time { return heeded(spent, now).Add(-rationAhead) }

// heeded returns spent, or now where it is further ahead than any renewal brings it: a clock was wrong.
func heeded(spent, now time.Time) time.Time {
	if now = now.Round(0); spent.Sub(now) > rationAhead+rationEvery {
		return now
	}
	return spent
}
