package dpstest

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"strconv"
)

type deviceKey struct{ hub, id string }

// device is what a hub knows of one.
type device struct {
	leaf     *x509.Certificate
	messages int
}

// HubURL is where a hub is served: under its own name, which no resolver knows, at the port of Addr. Who connects dials
// Addr, and has TLS verify the name.
func (s *Server) HubURL(hub string) string {
	_, port, _ := net.SplitHostPort(s.Addr()) // it was taken from a listener
	return "https://" + net.JoinHostPort(hub, port)
}

// Thumbprint is the SHA-256, in lower-case hexadecimal, of the certificate by which a hub knows a device; "" if it does
// not.
func (s *Server) Thumbprint(hub, deviceID string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.decideAll()
	d := s.devices[deviceKey{hub, deviceID}]
	if d == nil {
		return ""
	}
	sum := sha256.Sum256(d.leaf.Raw)
	return hex.EncodeToString(sum[:])
}

// Messages is how many messages a hub has taken from a device.
func (s *Server) Messages(hub, deviceID string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.devices[deviceKey{hub, deviceID}]; d != nil {
		return d.messages
	}
	return 0
}

// decideAll ends every registration whose time has come: hubs know devices whether they poll or not. s.mu is held.
func (s *Server) decideAll() {
	for _, v := range s.records {
		s.decide(v, s.options.Now())
	}
}

// send takes a message from a device. The hub is that of the TLS handshake's server name, as behind the hubs' shared
// addresses; a client that came by address alone talks to the first.
func (s *Server) send(w http.ResponseWriter, r *http.Request, id string) {
	s.decideAll()
	hub := r.TLS.ServerName
	if !slices.Contains(s.options.Hubs, hub) {
		hub = s.options.Hubs[0]
	}
	d := s.devices[deviceKey{hub, id}]
	switch {
	case d == nil:
		hubError(w, 404001, "DeviceNotFound")
	case !d.leaf.Equal(r.TLS.PeerCertificates[0]):
		hubError(w, 401002, "IotHubUnauthorizedAccess")
	default:
		d.messages++
		w.Header().Del("Content-Type")
		w.WriteHeader(http.StatusNoContent)
	}
}

// hubError answers an error as a hub does, which is not how DPS does.
func hubError(w http.ResponseWriter, code int, name string) {
	w.Header().Set("iothub-errorcode", name)
	w.WriteHeader(code / 1000)
	json.NewEncoder(w).Encode(map[string]string{"Message": "ErrorCode:" + name + ";" + strconv.Itoa(code)})
}
