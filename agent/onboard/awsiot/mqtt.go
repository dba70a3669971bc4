package awsiot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The packets of MQTT Version 5.0 (OASIS Standard, 7 March 2019) that one connection takes: CONNECT, CONNACK,
// DISCONNECT. docs/architecture.md says why these lines are ours.

// keepAlive bounds how long the broker keeps a connection whose other end is gone, in seconds: that of the least which
// AWS IoT takes.
const keepAlive = 30

// sessionKept is for how long the broker keeps a session that an application has under our client id, in seconds, should
// the application not come back and set its own: seven days, the most that AWS IoT grants. An account that grants less has
// the last word (3.2.2.3.2).
const sessionKept = 7 * 24 * 3600

// connectPacket is a CONNECT (3.1) of clientID without user, password or will. It does not start clean, and wants the
// session kept: an application's own session under this client id, with its subscriptions and what waits for it, must
// outlive our short visit.
func connectPacket(clientID string) []byte {
	body := []byte{0, 4, 'M', 'Q', 'T', 'T', 5, 0}
	body = binary.BigEndian.AppendUint16(body, keepAlive)
	body = append(body, 5, sessionExpiryInterval)
	body = binary.BigEndian.AppendUint32(body, sessionKept)
	body = binary.BigEndian.AppendUint16(body, uint16(len(clientID)))
	body = append(body, clientID...)
	return append(binary.AppendUvarint([]byte{0x10}, uint64(len(body))), body...) // 1.5.5 is an unsigned LEB128
}

// sessionExpiryInterval is a property (3.1.2.11.2, 3.14.2.2.2).
const sessionExpiryInterval = 0x11

// disconnectPacket is a DISCONNECT (3.14). Without a session that was there before, none is left behind.
func disconnectPacket(sessionPresent bool) []byte {
	if sessionPresent {
		return []byte{0xE0, 0}
	}
	return []byte{0xE0, 7, 0, 5, sessionExpiryInterval, 0, 0, 0, 0}
}

// connack is what a CONNACK (3.2) says.
type connack struct {
	reason         byte // 0 is success
	sessionPresent bool
}

// connackLimit bounds the length of a CONNACK, whose properties we have no use for.
const connackLimit = 8 << 10

var errNotMQTT = errors.New("the answer is no CONNACK of MQTT 5")

// readConnack reads a CONNACK and nothing behind it. An error of r's is returned as it is; io.EOF is the end before the
// first byte. What is not MQTT is an error that wraps errNotMQTT.
func readConnack(r io.Reader) (connack, error) {
	var first, digit [1]byte
	if _, err := io.ReadFull(r, first[:]); err != nil {
		return connack{}, err
	}
	if first[0] != 0x20 {
		return connack{}, fmt.Errorf("%w: its first byte is %#02x", errNotMQTT, first[0])
	}
	length := 0
	for shift := 0; ; shift += 7 {
		if _, err := io.ReadFull(r, digit[:]); err != nil {
			return connack{}, err
		}
		length |= int(digit[0]&0x7f) << shift
		if length > connackLimit {
			return connack{}, fmt.Errorf("%w: it is too long", errNotMQTT)
		}
		if digit[0] < 0x80 {
			break
		}
		if shift == 21 {
			return connack{}, fmt.Errorf("%w: its length has no end", errNotMQTT)
		}
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(r, body); err != nil {
		return connack{}, err
	}
	if length < 2 || body[0] > 1 {
		return connack{}, fmt.Errorf("%w: its flags are wrong", errNotMQTT)
	}
	a := connack{sessionPresent: body[0] == 1, reason: body[1]}
	if length == 2 && a.reason != 0 { // a broker of MQTT 3 refuses as it can
		return a, nil
	}
	if properties, n := binary.Uvarint(body[2:]); n <= 0 || n > 4 || properties != uint64(length-2-n) {
		return connack{}, fmt.Errorf("%w: its properties are wrong", errNotMQTT)
	}
	if a.reason != 0 && (a.reason < 0x80 || a.sessionPresent) {
		return connack{}, fmt.Errorf("%w: its reason code is %#02x", errNotMQTT, a.reason)
	}
	return a, nil
}
