// Package awstest is an endpoint of AWS IoT Core and the account behind it, in the process and over real TLS. Tests use
// it, and so may a demo. It is for tests only: it keeps everything in memory and believes its caller.
//
// It shares no code with the client that it tests, and does not import package testing, so that a program can link it.
//
// It behaves as the developer guide says (just-in-time provisioning, provisioning templates, registering a CA):
//
//   - A CA is registered with its certificate, which must be one of a CA by its basicConstraints, and with a certificate
//     that the CA signed for the account's registration code; or with none, for devices that send SNI.
//   - Keys are RSA of 2048 bits and more, or on P-256, P-384 or P-521; signatures RSA or ECDSA with SHA-2.
//   - TLS 1.2 and 1.3. The client names the complete endpoint (SNI), and shows a certificate of a CA that is registered
//     and ACTIVE, which itself must have issued it. Port 443 wants ALPN x-amzn-mqtt-ca.
//   - A certificate is known by its SHA-256 fingerprint. One that was not seen before is registered as PENDING_ACTIVATION
//     where its CA has auto-registration, and that connection is dropped. Where the CA has a template, RegisterThing
//     follows: the subject must have every parameter of the template; an existing thing needs OverrideSettings that do not
//     say FAIL, and thing and attributes such names and values as the registry takes. Afterwards the certificate is ACTIVE,
//     or stays as it was with a reason that the device is not told.
//   - While RegisterThing is throttled ([Server.Throttle]) new certificates wait, and are dropped.
//   - A certificate that is not ACTIVE is dropped.
//   - Its policy lets a client connect by the common name as client id, or by that and [Options.Suffix]. Another one is
//     refused with reason code 0x87 by MQTT 5, and dropped by MQTT 3.1.1.
//   - What may connect is relayed to a broker, or answered here where there is none.
//
// Guesses, where nothing is published or the guide is vague: when in the connection AWS drops it ([Options.Alert] drops
// in the handshake); that a denied client is told; that an existing thing without OverrideSettings is a conflict; that
// RegisterThing is not tried again by itself when it failed.
package awstest
