package main

import (
	"encoding/binary"
	"time"

	"certagent/renew"
)

// epoch is when every simulation begins; times within are counted from it. Nothing depends on the date.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// device is a gateway with one certificate, in 64 bytes: a fleet has to fit into a processor's cache as far as it can.
type device struct {
	// raw stands for the certificate's bytes, from which its place in the spread is derived.
	raw [8]byte
	// issued is when the certificate was issued and stored, and life how long it lasts.
	issued, life time.Duration
	// What the device keeps over a power cut, as renew.Tries has it. A time that Tries leaves zero is never.
	last, next, retryAfter time.Duration
	// at is when the device acts next, and due whether that is a try.
	at       time.Duration
	after    int32 // the next device of those that act in the same minute; nobody after the last
	failures int16
	due      bool
	first    bool // no renewal since it was enrolled
}

// never stands for the zero time. It is what Time.Sub makes of that.
const never time.Duration = -1 << 63

// enrol gives the device its first certificate.
func (d *device) enrol(number int, life, now time.Duration) {
	binary.BigEndian.PutUint32(d.raw[:], uint32(number))
	d.life = life
	d.renew(now)
	d.first = true
}

// renew gives the device a new certificate. One that has expired cannot log in, so that it is an enrolment once more.
func (d *device) renew(now time.Duration) {
	serial := d.raw[4:]
	binary.BigEndian.PutUint32(serial, binary.BigEndian.Uint32(serial)+1)
	d.first = now >= d.expires()
	d.issued = now
	d.keep(renew.Tries{Last: epoch.Add(now)})
}

// leaf is the certificate. Its times are whole seconds (RFC 5280, section 4.1.2.5).
func (d *device) leaf() renew.Leaf {
	born := epoch.Add(d.born())
	return renew.Leaf{NotBefore: born, NotAfter: born.Add(d.life), Raw: d.raw[:], First: d.first}
}

func (d *device) born() time.Duration    { return d.issued.Truncate(time.Second) }
func (d *device) expires() time.Duration { return d.born() + d.life }

func (d *device) tries() renew.Tries {
	return renew.Tries{Failures: int(d.failures), Last: instant(d.last), Next: instant(d.next), RetryAfter: instant(d.retryAfter)}
}

func (d *device) keep(t renew.Tries) {
	d.failures, d.last, d.next, d.retryAfter = int16(t.Failures), since(t.Last), since(t.Next), since(t.RetryAfter)
}

func instant(since time.Duration) time.Time {
	if since == never {
		return time.Time{}
	}
	return epoch.Add(since)
}

func since(t time.Time) time.Duration {
	if t.IsZero() {
		return never
	}
	return t.Sub(epoch)
}
