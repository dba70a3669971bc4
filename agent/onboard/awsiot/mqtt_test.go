package awsiot

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
)

// The packets, byte for byte as MQTT 5 has them (3.1, 3.14).
func TestPackets(t *testing.T) {
	for what, test := range map[string]struct {
		got  []byte
		want string
	}{
		"CONNECT": {connectPacket("gw-1"), "10 16 0004 4d515454 05 00 001e 05 11 00093a80 0004 67772d31"},
		"CONNECT whose length takes two bytes": {connectPacket(strings.Repeat("x", 128)),
			"10 9201 0004 4d515454 05 00 001e 05 11 00093a80 0080" + strings.Repeat("78", 128)},
		"DISCONNECT that ends its own session":       {disconnectPacket(false), "e0 07 00 05 11 00000000"},
		"DISCONNECT that leaves an application's be": {disconnectPacket(true), "e0 00"},
	} {
		if got := hex.EncodeToString(test.got); got != strings.ReplaceAll(test.want, " ", "") {
			t.Errorf("%s: %s, want %s", what, got, test.want)
		}
	}
}

// Whatever comes, at most one packet is read, nothing large is allocated, and a yes is the five bytes of one or has
// properties that fit.
func FuzzReadConnack(f *testing.F) {
	for _, s := range []string{"\x20\x03\x00\x00\x00", "\x20\x03\x01\x00\x00", "\x20\x02\x00\x05", "\x20\x03\x00\x87\x00",
		"\x20\xff\xff\xff\x7f", "\x20\x06\x00\x00\x03\x21\x00\x0a", "\x20\x80\x80\x80\x80\x01"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		a, err := readConnack(r)
		read := len(data) - r.Len()
		switch {
		case read > connackLimit+5:
			t.Errorf("read %d bytes", read)
		case err != nil && !errors.Is(err, errNotMQTT) && err != io.EOF && err != io.ErrUnexpectedEOF:
			t.Errorf("%v", err)
		case err == nil && a.reason == 0 && (read < 5 || data[0] != 0x20):
			t.Errorf("% x is a yes", data)
		}
	})
}

// Each reason code that a broker can refuse with (MQTT 5, table 3-1; MQTT 3.1.1, table 3.1) has one meaning, and any other is
// no answer of AWS IoT.
func TestReasonCodes(t *testing.T) {
	for reason := range 256 {
		want := CodeBadResponse
		switch reason {
		case 0x85, 0x86, 0x87, 0x8A, 0x8C, 2, 4, 5:
			want = CodeDenied
		case 0x89, 0x97, 0x9F:
			want = CodeThrottled
		case 0x80, 0x83, 0x88, 3:
			want = CodeUnavailable
		}
		e := (&visit{}).refused(byte(reason))
		if e.Code != want || e.Hint == "" || e.Reason != byte(reason) || !strings.Contains(e.Error(), "(CONNACK reason code 0x") {
			t.Errorf("%#02x: %#v", reason, e)
		}
	}
}
