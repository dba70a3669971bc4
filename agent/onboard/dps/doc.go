// Package dps registers a device at Azure's Device Provisioning Service, over HTTPS and with an X.509 certificate, so
// that an IoT hub knows the device and the certificate that it comes with.
//
// The hub keeps the thumbprint of the certificate that was registered and refuses another one. So a device registers
// after every new certificate, and not at every boot: [Due] says when, from what is stored. What comes next is [Next],
// and what an answer means for that is [State.After]; both are pure. [Client.Exchange] is the only effect: one HTTP
// exchange, bounded in time and size, over connections that an [onboard.Dialer] of the caller's opens. The package writes no
// file, and keeps neither clock nor dice: it gives the bytes of a [Result], which is for applications, and of a
// [State], which is for the next start.
//
// The order for whoever drives it, with s and r read by [ParseState] and [ParseResult]:
//
//	step := Next(want, r, s, now)            // nothing to do, or wait until step.At
//	s = s.Begin(want, step, draw, now)       // stored before a registration, so that a crash counts
//	answer, err := client.Exchange(ctx, step)
//	s, new := s.After(want, step, answer, err, draw, now)
//	                                         // where new is not nil it is stored first, then s
//
// A crash at any point costs at most one more registration, which changes at the service what its re-provisioning
// policy says, and with the usual one nothing.
//
// The protocol is that of the REST reference "Runtime Registration" of Azure DPS. No line of this was tried on Azure
// itself: the tests have a local endpoint, package dpstest.
package dps
