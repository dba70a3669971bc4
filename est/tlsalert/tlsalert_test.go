package tlsalert_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"

	"certagent/est/tlsalert"
)

// Each alert that a server sends is told from every other one, whether crypto/tls has a name for it or not.
func TestEveryAlertIsKnownByItsNumber(t *testing.T) {
	for number := range 256 {
		a, ok := tlsalert.Received(fmt.Errorf("on the way up: %w", answered(t, byte(number))))
		if number == 0 { // close_notify is the end as it should be
			if ok {
				t.Errorf("close_notify is taken for alert %d", a)
			}
			continue
		}
		if !ok || int(a) != number {
			t.Errorf("alert %d is taken for %d, %v", number, a, ok)
		}
	}
}

// answered is the error of a handshake that the other side answers with nothing but an alert.
func answered(t *testing.T, number byte) error {
	t.Helper()
	here, there := net.Pipe()
	defer here.Close()
	go func() { // ends with the pipe
		defer there.Close()
		there.Read(make([]byte, 4096))
		there.Write([]byte{21, 3, 3, 0, 2, 2, number})
		io.Copy(io.Discard, there)
	}()
	err := tls.Client(here, &tls.Config{ServerName: "a.test"}).HandshakeContext(t.Context())
	if err == nil {
		t.Fatal("the handshake succeeded")
	}
	return err
}

func TestWhatIsNoAlertOfTheOtherSide(t *testing.T) {
	for _, err := range []error{
		nil, io.EOF, errors.New("remote error: tls: bad certificate"), tls.AlertError(42),
		&net.OpError{Op: "local error", Err: tls.AlertError(42)}, &net.OpError{Op: "remote error", Err: io.EOF},
	} {
		if a, ok := tlsalert.Received(err); ok {
			t.Errorf("%v is taken for alert %d", err, a)
		}
	}
}

func TestOverCertificate(t *testing.T) {
	over := []tls.AlertError{42, 43, 44, 45, 46, 48, 49, 51, 116}
	for number := range 256 {
		if a := tls.AlertError(number); tlsalert.OverCertificate(a) != slices.Contains(over, a) {
			t.Errorf("%d, %v", number, a)
		}
	}
}
