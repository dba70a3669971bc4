package esttest

import (
	"bytes"
	"io"
	"net"
)

// badConnections misbehave before there is TLS.
func badConnections() []Misbehaviour {
	clientHello := func(c net.Conn) { c.Read(make([]byte, 16<<10)) }
	says := func(answer string) func(*Server) {
		return taking(func(c net.Conn) {
			clientHello(c)
			io.WriteString(c, answer)
		})
	}
	// alert is a fatal TLS alert in the clear (RFC 8446 6).
	alert := func(description byte) func(*Server) {
		return says(string([]byte{21, 3, 3, 0, 2, 2, description}))
	}
	return []Misbehaviour{
		{Name: "accepts and says nothing", Class: "unavailable", Silent: true, play: taking(func(net.Conn) {})},
		{Name: "accepts and reads nothing", Class: "unavailable", Silent: true, play: taking(unread)},
		{Name: "closes at once", Class: "unavailable", play: taking(func(c net.Conn) { c.Close() })},
		{Name: "resets at once", Class: "unavailable", play: taking(reset)},
		{Name: "closes after the ClientHello", Class: "unavailable", play: taking(func(c net.Conn) {
			clientHello(c)
			c.Close()
		})},
		{Name: "resets after the ClientHello", Class: "unavailable", play: taking(func(c net.Conn) {
			clientHello(c)
			reset(c)
		})},
		{Name: "speaks plain HTTP", Class: "untrusted",
			play: says("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\nthis is the wrong port\n")},
		{Name: "greets as SSH does", Class: "untrusted",
			play: taking(func(c net.Conn) { io.WriteString(c, "SSH-2.0-est\r\n") })},
		{Name: "floods instead of a handshake", Class: "untrusted", play: taking(func(c net.Conn) {
			flood(c, string(bytes.Repeat([]byte{0xff}, 16<<10)))
		})},
		{Name: "drips a handshake", Class: "unavailable", Silent: true, play: taking(func(c net.Conn) {
			drip(c, "\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03"+string(make([]byte, 16<<10)))
		})},
		{Name: "announces a handshake record and never sends it", Class: "unavailable", Silent: true,
			play: says("\x16\x03\x03\x40\x00\x02")},
		{Name: "announces a handshake message of 16 MiB", Class: "untrusted",
			play: says("\x16\x03\x03\x00\x10\x02\xff\xff\xff" + string(make([]byte, 12)))},
		{Name: "announces a record larger than TLS allows", Class: "untrusted",
			play: says("\x16\x03\x03\xff\xff" + string(make([]byte, 1<<16)))},
		{Name: "insists on TLS 1.0", Class: "untrusted", play: says(serverHelloTLS10())},
		{Name: "alert handshake_failure", Class: "unavailable", play: alert(40)},
		{Name: "alert protocol_version", Class: "unavailable", play: alert(70)},
		{Name: "alert internal_error", Class: "unavailable", play: alert(80)},
		{Name: "alert unrecognized_name", Class: "unavailable", play: alert(112)},
		{Name: "alert unknown_ca before there was a certificate", Class: "unavailable", play: alert(48)},
		{Name: "alert of no known kind", Class: "unavailable", play: alert(201)},
		{Name: "close_notify in the handshake", Class: "unavailable", play: says("\x15\x03\x03\x00\x02\x01\x00")},
		{Name: "a thousand warnings in the handshake", Class: "untrusted", play: taking(func(c net.Conn) {
			clientHello(c)
			for range 1000 { // user_canceled, which does not end anything by itself
				if _, err := io.WriteString(c, "\x15\x03\x03\x00\x02\x01\x5a"); err != nil {
					return
				}
			}
		})},
	}
}

// serverHelloTLS10 is a ServerHello that chooses version 3.1 (RFC 2246) whatever was offered, with
// TLS_RSA_WITH_AES_128_CBC_SHA.
func serverHelloTLS10() string {
	body := "\x03\x01" + string(make([]byte, 32)) + "\x00" + "\x00\x2f" + "\x00"
	return "\x16\x03\x01\x00" + string(rune(len(body)+4)) + "\x02\x00\x00" + string(rune(len(body))) + body
}
