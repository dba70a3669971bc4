// Package dpstest is an endpoint of Azure's Device Provisioning Service and the IoT hubs behind it, in the process and
// over real TLS, with a queue of faults. Tests use it, and so may a demo. It is for tests only: it keeps everything in
// memory and believes its caller.
//
// It shares no code with the client that it tests, and does not import package testing, so that a program can link it.
//
// It behaves as the REST reference "Runtime Registration" and the articles on X.509 attestation say:
//
//   - TLS 1.2, and a client certificate is required. Whether it is any good is said over HTTP: 401 with errorCode 401002.
//   - An enrolment takes a device by the path from its certificate to a CA that was registered (a group's, or an individual
//     entry's), made of nothing but the certificates that the device shows; or, in an individual entry, by the certificate
//     itself. The common name must be the registration id, whatever the case of its letters, and its key RSA or on a NIST
//     curve.
//   - The individual entry of a registration id decides alone, also when it is disabled. Of several groups the one whose CA
//     is nearest to the device decides.
//   - PUT …/register answers 202 with Retry-After and an operation; so does a poll until the registration is done. A second
//     registration of the same id meanwhile gets 409203.
//   - A device may poll five times in ten seconds; after that it gets 429.
//   - What was registered is known to the hub by its thumbprint from the end of the registration on. The hub takes messages
//     from the device by that certificate alone, and answers 401 to any other, such as a renewed one.
//   - Re-provisioning follows the enrolment's policy, and tells it in substatus.
//   - Errors are {"errorCode","trackingId","message","timestampUtc"} with the headers x-ms-error-code and x-ms-request-id.
//
// Guesses, where nothing is published: that a disabled enrolment is a 401002 as any other; the numbers of errors other
// than 401002, 409203 and 400209; that with the policy "never" the hub still learns the new thumbprint; and that a
// registration that ends at the hub it began at is an initialAssignment, unless the policy is to reset.
package dpstest
