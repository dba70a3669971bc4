package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"certagent/agent/onboard/awsiot/awstest"
)

// application is a program on the device that speaks MQTT 3.1.1 with AWS IoT, and has its certificate and key from the files
// that the agent writes for it.
type application struct {
	cloud            *awstest.Server
	certificate, key string // files
	name             string // of the thing, and so of the client
}

// pair is what is in its files.
func (a *application) pair() (tls.Certificate, error) {
	return tls.LoadX509KeyPair(a.certificate, a.key)
}

// errDropped means that AWS IoT ended the connection without a word.
var errDropped = errors.New("AWS IoT dropped the connection")

// publish connects with a certificate, and sends a message that is to be acknowledged.
func (a *application) publish(ctx context.Context, pair tls.Certificate) error {
	roots := x509.NewCertPool()
	roots.AddCert(a.cloud.Root)
	dialer := tls.Dialer{Config: &tls.Config{
		ServerName: a.cloud.Endpoint(), RootCAs: roots, Certificates: []tls.Certificate{pair}, // no resolver knows the endpoint
	}}
	conn, err := dialer.DialContext(ctx, "tcp", a.cloud.Addr())
	if err != nil {
		return fmt.Errorf("connect to AWS IoT: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	connect := append([]byte{0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 30}, field(a.name)...) // a clean session; hello every 30 s
	publish := append(field(a.name+"/hello"), 0, 1)                                    // as packet 1
	for _, step := range []struct {
		name   string
		packet []byte
		answer [4]byte
	}{
		{"CONNECT", packet(0x10, connect), [4]byte{0x20, 2, 0, 0}},
		{"PUBLISH", packet(0x32, append(publish, "hello"...)), [4]byte{0x40, 2, 0, 1}},
	} {
		var got [4]byte
		if _, err = conn.Write(step.packet); err == nil {
			_, err = io.ReadFull(conn, got[:])
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
			return errDropped
		case err != nil:
			return fmt.Errorf("send %s: %w", step.name, err)
		case got != step.answer:
			return fmt.Errorf("the answer to %s is %x, want %x", step.name, got, step.answer)
		}
	}
	_, err = conn.Write(packet(0xE0, nil)) // DISCONNECT
	return err
}

// field is a string of MQTT.
func field(s string) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...) }

// packet is a control packet of MQTT, whose length is coded as an unsigned LEB128 is.
func packet(first byte, body []byte) []byte {
	return append(binary.AppendUvarint([]byte{first}, uint64(len(body))), body...)
}
