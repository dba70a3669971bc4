// Package esttest is a certificate authority and an EST server (RFC 7030) in the process, with a queue of faults. Tests
// use it, and certagent-testca is a command around it. It is for tests only: its keys are unprotected, it issues what
// anybody who can log in asks for, and it revokes nothing.
//
// [Misbehaviours] is a catalogue of how servers, and proxies before them, are hostile or broken; [Server.Misbehave]
// plays one.
//
// It shares no code with the client that it tests, and does not import package testing, so that a command can link it.
//
// There are two faces over one CA, because each is lenient where the other is strict.
//
// The first is globalsign/est's router, on TLS 1.2 and 1.3. It insists on Content-Transfer-Encoding: base64, demands a
// client certificate for simplereenroll and compares subject and subjectAltName byte for byte. The CA behind it copies
// the subject, the subjectAltName and the usages of the request, and issues CA certificates when asked for one.
//
// The second, Options.LikeLibest, behaves as cisco's libest 3.2.0p example server does:
//
//   - TLS 1.2 only, on curve P-256 only, without session tickets or ALPN. An untrusted or expired client
//     certificate ends the handshake with a fatal alert, whatever the operation.
//   - A few workers, each bound to one connection; an idle connection holds its worker for 10 s. Header and body leave
//     as two small writes with Nagle's algorithm on, so a client's delayed acknowledgement stalls the second by 40 ms.
//   - A chunked request body gets 400, and so does base64 that is not wrapped, or DER; PEM is accepted.
//   - A 401 has Content-Length: 0, and the connection is dropped after it without a Connection: close.
//   - Errors are text without a Content-Type. A trailing slash is 404; HEAD and DELETE are 400.
//   - cacerts comes without smime-type, in lines of 64 columns; csrattrs ends in a NUL.
//   - serverkeygen makes an RSA key, and sends it in clear, as PKCS#1 under the name of PKCS#8. (The first face makes a key
//     of the kind that the request came with, and encrypts it where the request names a key to encrypt to.)
//   - simplereenroll is simpleenroll. The issued subject keeps only CN and serialNumber, all requested extensions are
//     dropped, a request without CN gets 500, and the answer has only the leaf.
//
// In both a client certificate of this CA, of whatever subject, or the password is a login; Options.AskPassword demands
// the password always.
package esttest
