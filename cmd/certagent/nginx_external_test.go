//go:build external

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// TestNginx: the example, as it stands, with systemd played by the test. The agent is an unprivileged user. While nginx
// is reloaded, again and again, nobody who connects is turned away, and a request that is under way ends well.
func TestNginx(t *testing.T) {
	onMachine(t, "nginx", func(t *testing.T, m *machine) {
		m.dropIn()
		web := m.service("nginx.service", webAddress)
		m.systemd(web)
		m.start()
		now := map[string]string{"web": m.served("web", "").Serial, "device": m.served("device", "").Serial}
		const size = 64 << 20 // much more than the sockets on the way hold
		must(t, os.WriteFile("/var/www/html/big", nil, 0o644), os.Truncate("/var/www/html/big", size))
		web.start()
		pid := web.main()
		workers, group := m.id("passwd", "www-data"), m.id("group", "www-data")
		m.mayRead(workers, group, "/etc/nginx/certs/web.key", false)
		m.mayRead(clientID, clientID, clientKey, true)
		m.whoami(now["device"])
		stranger := m.login()
		stranger.Certificates = nil
		m.turnedAway(stranger)
		files := m.stranger()
		pair, err := tls.LoadX509KeyPair(files[3], files[5])
		must(t, err)
		stranger.Certificates = []tls.Certificate{pair}
		m.turnedAway(stranger)

		under := m.get(m.login(), "/big")
		defer under.Body.Close()
		visits := m.visit()
		visits.see(now["web"], now["web"])
		for n := 1; n <= 3; n++ {
			before := now["web"]
			now = m.renew(now)
			if web.reloaded() != n {
				t.Errorf("reloaded %d times, want %d", web.reloaded(), n)
			}
			m.shows(webAddress, now["web"])
			visits.see(before, now["web"])
			m.whoami(now["device"])
			if _, err := io.CopyN(io.Discard, under.Body, size/8); err != nil { // nginx gives up who reads nothing for a minute
				t.Fatal(err)
			}
		}
		visits.end()
		if got := fmt.Sprintf("%x", under.TLS.PeerCertificates[0].SerialNumber.Bytes()); got == now["web"] {
			t.Error("the long request was not begun with the first certificate")
		}
		if n, err := io.Copy(io.Discard, under.Body); n != size-3*(size/8) || err != nil {
			t.Errorf("of the end of the request under way %d bytes came, then %v", n, err)
		}
		if web.main() != pid {
			t.Error("nginx was started anew")
		}
		m.stop()
	})
}

// TestNginxWithoutSystemd: the agent is root and sends the signal itself; while nginx is down the hook fails and says
// why.
func TestNginxWithoutSystemd(t *testing.T) {
	onMachine(t, "nginx", func(t *testing.T, m *machine) {
		m.container()
		m.start()
		device := m.served("device", "").Serial
		c := m.untold("web", "")
		if text := c.Problems[0].Text; !strings.Contains(text, "/run/nginx.pid") {
			t.Errorf("it does not say what nginx wrote: %s", text)
		}
		web := m.service("nginx.service", webAddress)
		web.start()
		m.shows(webAddress, c.Serial)
		now := m.renew(map[string]string{"web": c.Serial, "device": device})
		m.shows(webAddress, now["web"])
		m.whoami(now["device"])
		m.stop()
	})
}

// whoami runs the client's command in the README, as the client's user: the server must know the client by its
// certificate.
func (m *machine) whoami(serial string) {
	m.t.Helper()
	cmd := as(clientID, clientID, "sh", "-euc", m.block("sh", 2))
	var says strings.Builder
	cmd.Stderr = &says
	out, err := cmd.Output()
	if want := "CN=gateway-7 " + serial + "\n"; err != nil || !strings.EqualFold(string(out), want) {
		m.t.Errorf("the server says %q, want %q: %v\n%s", out, want, err, &says)
	}
}

// get is a request over a connection of its own.
func (m *machine) get(login *tls.Config, path string) *http.Response {
	m.t.Helper()
	r, err := request(login, path)
	must(m.t, err)
	return r
}

func request(login *tls.Config, path string) (*http.Response, error) {
	c := http.Client{Transport: &http.Transport{TLSClientConfig: login, DisableKeepAlives: true}, Timeout: 4 * patience}
	return c.Get("https://" + webAddress + path)
}

// turnedAway checks that the server answers nothing: nginx takes every client through the handshake, and then says 400.
func (m *machine) turnedAway(login *tls.Config) {
	m.t.Helper()
	r := m.get(login, "/whoami")
	defer r.Body.Close()
	if r.StatusCode != http.StatusBadRequest {
		m.t.Errorf("a stranger gets %s", r.Status)
	}
}

// visitors connect to the server one after the other, all the time.
type visitors struct {
	m     *machine
	stop  context.CancelFunc
	all   sync.WaitGroup
	fails atomic.Int64

	mu   sync.Mutex     // guards seen
	seen map[string]int // answers by the serial that the server showed
}

// visit sends two at a time, until end. They log in with what the client's files held at the beginning.
func (m *machine) visit() *visitors {
	m.t.Helper()
	ctx, stop := context.WithCancel(m.t.Context())
	v := &visitors{m: m, stop: stop, seen: map[string]int{}}
	login := m.login()
	for range 2 {
		v.all.Go(func() { // ends with ctx
			for ctx.Err() == nil {
				v.once(login)
			}
		})
	}
	m.t.Cleanup(v.all.Wait)
	return v
}

func (v *visitors) once(login *tls.Config) {
	r, err := request(login, "/whoami")
	if err == nil {
		_, err = io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("the server says %s", r.Status)
	}
	if err != nil {
		if v.fails.Add(1) < 10 {
			v.m.t.Errorf("a visitor was turned away: %v", err)
		}
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seen[fmt.Sprintf("%x", r.TLS.PeerCertificates[0].SerialNumber.Bytes())]++
}

// see waits until many visitors have been shown the second of these certificates; some must have seen the first.
func (v *visitors) see(before, now string) {
	v.m.t.Helper()
	const many = 30
	v.m.until("visitors see the new certificate", func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.seen[now] >= many
	})
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.seen[before] == 0 {
		v.m.t.Error("nobody came while the certificate before was shown")
	}
}

func (v *visitors) end() {
	v.m.t.Helper()
	v.stop()
	v.all.Wait()
	v.m.t.Logf("%v visitors by certificate, %d turned away", v.seen, v.fails.Load())
}
