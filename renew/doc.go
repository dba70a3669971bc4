// Package renew decides when a certificate is renewed, when a failed attempt is made again, and whether the wall
// clock can be believed.
//
// Every decision is a function of its arguments: the certificate, the policy and an instant that the caller read
// from the wall clock. The package does no I/O, reads no clock, draws no random number and starts no goroutine, so
// the daemon's loop, the status command and a table test cannot disagree. All of its types are values and safe for
// concurrent use.
//
// Only wall clock time counts. Go's monotonic readings stop while a device is suspended and do not see the clock
// being set; an instant that carries one is used without it.
//
// A certificate counts as expired from the instant of its NotAfter on. RFC 5280, section 4.1.2.5, still includes
// that instant, but OpenSSL and much of what stands on it do not, and the party that renews errs on the early side.
// Lifetimes of more than 292 years, such as that of an IEEE 802.1AR device identity "without end" (RFC 5280,
// section 4.1.2.5: 99991231235959Z), count as 292 years.
package renew
