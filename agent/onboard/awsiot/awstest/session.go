package awstest

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// packetLimit bounds a packet that is read here.
const packetLimit = 64 << 10

// readPacket reads one MQTT control packet: its first byte, its body, and all its bytes.
func readPacket(r *bufio.Reader) (first byte, body, whole []byte, err error) {
	if first, err = r.ReadByte(); err != nil {
		return 0, nil, nil, err
	}
	length, err := binary.ReadUvarint(r)
	if err != nil {
		return 0, nil, nil, err
	}
	if length > packetLimit {
		return 0, nil, nil, fmt.Errorf("a packet of %d bytes", length)
	}
	body = make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, nil, err
	}
	return first, body, append(binary.AppendUvarint([]byte{first}, length), body...), nil
}

// parseConnect returns the protocol level and the client id of a CONNECT.
func parseConnect(first byte, body []byte) (level byte, clientID string, err error) {
	wrong := errors.New("no CONNECT of MQTT 3.1.1 or 5")
	if first != 0x10 || len(body) < 10 || string(body[:6]) != "\x00\x04MQTT" || body[6] != 4 && body[6] != 5 || body[7]&1 != 0 {
		return 0, "", wrong
	}
	level, bare, body := body[6], body[7]&^2 == 0, body[10:] // bare: no will, no user name, no password
	if level == 5 {
		properties, n := binary.Uvarint(body)
		if n <= 0 || properties > uint64(len(body)-n) {
			return 0, "", wrong
		}
		body = body[n+int(properties):]
	}
	if len(body) < 2 || len(body)-2 < int(binary.BigEndian.Uint16(body)) {
		return 0, "", wrong
	}
	id, rest := body[2:2+binary.BigEndian.Uint16(body)], body[2+binary.BigEndian.Uint16(body):]
	if bare && len(rest) > 0 {
		return 0, "", wrong
	}
	return level, string(id), nil
}

// session is what follows the handshake of a certificate that is active.
func (s *Server) session(c *tls.Conn, k *Connection, v verdict) {
	r := bufio.NewReader(c)
	first, body, whole, err := readPacket(r)
	if err != nil {
		s.note(func() { k.Outcome = "dropped" })
		return
	}
	level, clientID, err := parseConnect(first, body)
	if err != nil {
		s.note(func() { k.Outcome = "dropped" })
		return
	}
	s.note(func() { k.ClientID = clientID })
	name := c.ConnectionState().PeerCertificates[0].Subject.CommonName
	if !v.policy || clientID != name && clientID != name+s.options.Suffix {
		s.note(func() { k.Outcome = "denied" })
		if level == 5 {
			c.Write([]byte{0x20, 3, 0, 0x87, 0})
			c.Close()
		}
		return
	}
	s.note(func() { k.Outcome = "admitted" })
	if s.options.Broker.Address != "" {
		s.relay(c, r, whole)
		return
	}
	if level == 5 {
		c.Write([]byte{0x20, 3, 0, 0, 0})
	} else {
		c.Write([]byte{0x20, 2, 0, 0})
	}
	for {
		switch first, body, _, err = readPacket(r); {
		case err != nil:
			return
		case first == 0x32: // PUBLISH with QoS 1
			id, ok := packetID(body)
			if !ok {
				return
			}
			s.note(func() { k.Published++ })
			c.Write([]byte{0x40, 2, id[0], id[1]}) // PUBACK, which MQTT 5 may shorten to this
		case first == 0xE0: // DISCONNECT
			s.note(func() {
				k.Left = true
				if len(body) == 7 && body[2] == 0x11 {
					k.Expiry = int64(binary.BigEndian.Uint32(body[3:]))
				}
			})
			return
		default:
			return
		}
	}
}

// packetID is the packet identifier of a PUBLISH, which stands behind its topic.
func packetID(publish []byte) (id [2]byte, ok bool) {
	if len(publish) < 2 {
		return id, false
	}
	at := 2 + int(binary.BigEndian.Uint16(publish))
	if len(publish) < at+2 {
		return id, false
	}
	return [2]byte(publish[at:]), true
}

// relay has client, whose first packet is in connect, speak with the broker until either hangs up.
func (s *Server) relay(client *tls.Conn, r io.Reader, connect []byte) {
	b := s.options.Broker
	settings := &tls.Config{RootCAs: b.Roots, ServerName: b.ServerName, MinVersion: tls.VersionTLS12}
	if b.Certificate != nil {
		settings.Certificates = []tls.Certificate{*b.Certificate}
	}
	broker, err := (&tls.Dialer{Config: settings}).DialContext(s.ctx, "tcp", b.Address)
	if err != nil {
		return
	}
	defer broker.Close()
	client.SetDeadline(time.Time{}) // an application stays for as long as it likes, or until Close
	if _, err := broker.Write(connect); err != nil {
		return
	}
	s.served.Go(func() { // until either hangs up
		io.Copy(client, broker)
		client.Close()
	})
	io.Copy(broker, r)
}

// tunnel is a connection to the proxy: CONNECT (RFC 9110 9.3.6) to the endpoint, and nothing else.
func (s *Server) tunnel(c net.Conn) {
	c.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(c)
	request, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	ports := map[string]int{
		net.JoinHostPort(s.options.Endpoint, "8883"): 8883, net.JoinHostPort(s.options.Endpoint, "443"): 443,
	}
	port := ports[request.Host]
	if request.Method != http.MethodConnect || port == 0 || r.Buffered() > 0 {
		io.WriteString(c, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
		return
	}
	if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"); err == nil {
		s.serve(c, port)
	}
}
