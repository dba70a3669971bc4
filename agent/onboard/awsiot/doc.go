// Package awsiot makes AWS IoT Core acquainted with a device certificate: it connects once by MQTT, which is what has an
// account register and provision a certificate of a CA that it knows (just-in-time provisioning, JITP; just-in-time
// registration, JITR, where a rule of the account's own does the second half).
//
// To AWS each renewed certificate is a new one. The first connection that a new certificate makes is dropped while the
// account provisions it, so the package expects that, and tries again: ten times within some minutes, and then slowly and
// for ever. What the wire does not tell apart, the texts do not either: a certificate that is not active yet, one that
// was deactivated, and a policy that does not allow the connection may all look like a connection that ends without a
// word. MQTT 5 is spoken because there a broker can say why it refuses, and AWS IoT documents that it does.
//
// [Due] says when to connect, from what is stored, [Next] what comes next, and [State.After] what an outcome means for
// that; all are pure. [Connect] is the only effect: one connection, bounded in time and size, that an [onboard.Dialer] of the
// caller's opens. [CheckSubject] compares what a provisioning template may use with what the CA issued. The package
// writes no file, and keeps neither clock nor dice: it gives the bytes of a [Result], which is for applications, and of a
// [State], which is for the next start.
//
// The order for whoever drives it, with s and r read by [ParseState] and [ParseResult]:
//
//	step := Next(want, r, s, now)            // nothing to do, or wait until step.At
//	s = s.Begin(want, draw, now)             // stored before the connection, so that a crash counts
//	err := Connect(ctx, options)
//	s, new := s.After(want, step, err, draw, now)
//	                                         // where new is not nil it is stored first, then s
//
// A crash at any point costs at most one more connection.
//
// No line of this was tried on AWS itself: the tests have a local endpoint, package awstest.
package awsiot
