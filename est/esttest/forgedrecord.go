package esttest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash"
	"net"
	"strings"
)

// Handshake messages that crypto/tls never sends by itself: type, length in three bytes, body.
const (
	helloRequest = "\x00\x00\x00\x00"     // RFC 5246 7.4.1.1
	keyUpdate    = "\x18\x00\x00\x01\x00" // RFC 8446 4.6.3, without asking for one in return

	// newSessionTicket is of RFC 8446 4.6.1: lifetime, age_add, nonce, ticket, extensions.
	newSessionTicket = "\x04\x00\x00\x0e" + "\x00\x00\x0e\x10" + "\x00\x00\x00\x00" + "\x00" + "\x00\x01\x00" + "\x00\x00"
)

// Types of records (RFC 8446 5.1).
const (
	recordAlert           = 21
	recordHandshake       = 22
	recordApplicationData = 23
)

// forging plays a server that, once the handshake is over and the first request has begun, sends a record of a type n
// times. crypto/tls has no words for that, so they are made by hand, with the keys of the session. Where TLS 1.3 agrees
// on ChaCha20, as it does between machines without AES in hardware, the connection just ends.
func forging(version uint16, kind byte, message string, n int) func(*Server) {
	return func(s *Server) {
		s.setConduct(conduct{take: func(c net.Conn) {
			var secrets bytes.Buffer
			heard := &eavesdropper{Conn: c}
			config := s.currentTLS().Clone()
			config.MinVersion, config.MaxVersion = version, version
			config.SessionTicketsDisabled = true // a ticket would be a record that has to be counted
			config.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}
			config.KeyLogWriter = &secrets
			secured := tls.Server(heard, config)
			if secured.Handshake() != nil {
				return
			}
			if _, err := secured.Read(make([]byte, 1)); err != nil {
				return
			}
			keys, err := sessionKeys(secured.ConnectionState(), secrets.String(), heard.written)
			if err != nil {
				c.Close()
				return
			}
			for range n {
				if _, err := c.Write(keys.seal(kind, message)); err != nil {
					return
				}
				if message == keyUpdate {
					keys = keys.updated()
				}
			}
		}})
	}
}

// eavesdropper keeps the first bytes that were written, which hold the ServerHello.
type eavesdropper struct {
	net.Conn
	written []byte
}

func (e *eavesdropper) Write(p []byte) (int, error) {
	if len(e.written) < 64 {
		e.written = append(e.written, p...)
	}
	return e.Conn.Write(p)
}

// recordKeys seal what a server writes in one TLS session.
type recordKeys struct {
	version uint16
	secret  []byte // the traffic secret of TLS 1.3
	hash    func() hash.Hash
	aead    cipher.AEAD
	iv      []byte // of 12 bytes in TLS 1.3, of 4 in TLS 1.2
	next    uint64 // sequence number
}

// sessionKeys finds a session's keys from its key log (RFC 9850) and the bytes of its ServerHello.
func sessionKeys(state tls.ConnectionState, log string, serverHello []byte) (*recordKeys, error) {
	k := &recordKeys{version: state.Version, hash: sha256.New}
	size := 16
	switch state.CipherSuite {
	case tls.TLS_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:
	case tls.TLS_AES_256_GCM_SHA384:
		size, k.hash = 32, sha512.New384
	default:
		return nil, errors.New("records are forged for AES-GCM only")
	}
	if k.version == tls.VersionTLS13 {
		secret, _, err := logged(log, "SERVER_TRAFFIC_SECRET_0")
		if err != nil {
			return nil, err
		}
		k.secret = secret
		return k.keyed(size), nil
	}
	master, clientRandom, err := logged(log, "CLIENT_RANDOM")
	if err != nil {
		return nil, err
	}
	const randomAt = 5 + 4 + 2 // behind the heads of record and message, and the version
	serverRandom := serverHello[randomAt : randomAt+32]
	block := prf12(master, "key expansion"+string(serverRandom)+string(clientRandom), 2*16+2*4)
	k.aead, k.iv = gcm(block[16:32]), block[36:40]
	k.next = 1 // Finished was 0
	return k, nil
}

// logged returns the secret and the client's random value that stand behind a label.
func logged(log, label string) (secret, clientRandom []byte, err error) {
	for line := range strings.Lines(log) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == label {
			secret, err = hex.DecodeString(f[2])
			clientRandom, _ = hex.DecodeString(f[1])
			return secret, clientRandom, err
		}
	}
	return nil, nil, errors.New("no " + label + " in the key log")
}

func gcm(key []byte) cipher.AEAD { return must(cipher.NewGCM(must(aes.NewCipher(key)))) }

// keyed derives key and IV from the traffic secret (RFC 8446 7.3).
func (k *recordKeys) keyed(size int) *recordKeys {
	k.aead, k.iv = gcm(k.expand("key", size)), k.expand("iv", 12)
	return k
}

// updated returns the keys behind a KeyUpdate (RFC 8446 7.2).
func (k *recordKeys) updated() *recordKeys {
	size := 16
	if k.hash().Size() == sha512.Size384 {
		size = 32
	}
	return (&recordKeys{version: k.version, hash: k.hash, secret: k.expand("traffic upd", k.hash().Size())}).keyed(size)
}

// expand is HKDF-Expand-Label with an empty context (RFC 8446 7.1).
func (k *recordKeys) expand(label string, size int) []byte {
	label = "tls13 " + label
	info := string([]byte{byte(size >> 8), byte(size), byte(len(label))}) + label + "\x00"
	return must(hkdf.Expand(k.hash, k.secret, info, size))
}

// seal returns an encrypted record (RFC 8446 5.2, RFC 5246 6.2.3.3 and RFC 5288 3).
func (k *recordKeys) seal(kind byte, message string) []byte {
	sequence := binary.BigEndian.AppendUint64(nil, k.next)
	k.next++
	if k.version == tls.VersionTLS13 {
		inner := append([]byte(message), kind)
		head := []byte{recordApplicationData, 3, 3, 0, byte(len(inner) + k.aead.Overhead())}
		nonce := bytes.Clone(k.iv)
		for i, b := range sequence {
			nonce[4+i] ^= b
		}
		return k.aead.Seal(head, nonce, inner, head)
	}
	head := []byte{kind, 3, 3, 0, byte(len(sequence) + len(message) + k.aead.Overhead())}
	additional := append(bytes.Clone(sequence), kind, 3, 3, 0, byte(len(message)))
	nonce := append(bytes.Clone(k.iv), sequence...)
	return k.aead.Seal(append(head, sequence...), nonce, []byte(message), additional)
}

// prf12 is the PRF of TLS 1.2 with SHA-256 (RFC 5246 5).
func prf12(secret []byte, labelAndSeed string, size int) []byte {
	mac := func(parts ...[]byte) []byte {
		h := hmac.New(sha256.New, secret)
		for _, p := range parts {
			h.Write(p)
		}
		return h.Sum(nil)
	}
	seed := []byte(labelAndSeed)
	var out []byte
	for a := mac(seed); len(out) < size; a = mac(a) {
		out = append(out, mac(a, seed)...)
	}
	return out[:size]
}
