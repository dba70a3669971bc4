// Package est is an EST client (RFC 7030, with the clarifications of RFC 8951): it fetches a server's CA
// certificates, sends a certification request, and checks the answer before anyone sees it.
//
// It owns the protocol: connections and their TLS settings, which server may be spoken to, when a login is
// answered, what an answer must look like, and the class of each error. It knows no files, no configuration,
// no schedule and no log: it is handed certificates and keys in memory and hands certificates back.
//
// A [Client] lives for one attempt. It dials when it must, keeps one connection over the requests of the
// attempt, and closes it after. Everything it reads is bounded in size and every request in time. It speaks
// HTTP/1.1 only, shows an enrolment, a login and a client certificate to no server but those that a person named,
// wherever it is redirected, and to none before that is authorised on the same connection.
//
// One line is out of its hands: what a server sends without being asked, net/http prints through package log. It can
// quote a login, so a program points log.SetOutput to where that does no harm.
package est
