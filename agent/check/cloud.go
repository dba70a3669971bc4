package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"certagent/agent"
	"certagent/agent/status"
	"certagent/est"
)

// The checks of a cloud, as they follow each other.
const (
	idCloudResolve = "onboard-resolve"
	idCloudTCP     = "onboard-tcp"
	idCloudTLS     = "onboard-tls"
	idCloudTrust   = "onboard-trust"
	idCloudKnows   = "onboard-state"
)

// cloud connects to the endpoint of the cloud, and shows it no certificate: to some clouds a device that shows its certificate
// is one that registers.
func (p *probes) cloud(ctx context.Context, look *agent.CloudLook) []*Result {
	skip := func(why string) []*Result {
		var all []*Result
		for _, id := range []string{idCloudResolve, idCloudTCP, idCloudTLS, idCloudTrust} {
			all = append(all, skipped(id, look.Endpoint, why))
		}
		return all
	}
	switch {
	case look.Blank:
		return skip("id_scope is still the blank of the tutorial, and nobody is asked")
	case p.Offline:
		return skip("--offline asks no server")
	case look.Err != nil:
		if r, is := unseen(idCloudTrust, look.Endpoint, look.Err); is {
			return []*Result{r}
		}
		return []*Result{failed(idCloudTrust, look.Endpoint, look.Err.Error(),
			"make the file readable for the agent, or take it out of trusted_certs")}
	}
	ctx, cancel := context.WithTimeout(ctx, p.each(30*time.Second))
	defer cancel()
	return judgeCloud(look, dialCloud(ctx, look), p.clock.Doubted != "")
}

// cloudContact is how far a connection to a cloud came.
type cloudContact struct {
	dialled error               // of the name or of TCP
	peer    string              // once there is a connection
	shown   []*x509.Certificate // what the endpoint presented
	trusted bool                // that verified
	version uint16              // of TLS, once it was spoken
	err     error               // of TLS; once the endpoint is trusted it may be that it wants a certificate
}

func dialCloud(ctx context.Context, look *agent.CloudLook) (k cloudContact) {
	var d est.Dialer
	tcp, err := d.DialContext(ctx, "tcp", look.Address)
	if err != nil {
		k.dialled = err
		return k
	}
	defer tcp.Close()
	k.peer = tcp.RemoteAddr().String()
	settings := d.TLSConfig(look.Roots, nil)
	settings.ServerName, _, _ = net.SplitHostPort(look.Address)
	settings.NextProtos = look.Protocols
	settings.VerifyConnection = func(s tls.ConnectionState) error { // called when the chain has verified
		k.shown, k.trusted, k.version = s.PeerCertificates, true, s.Version
		return nil
	}
	c := tls.Client(tcp, settings)
	k.err = c.HandshakeContext(ctx)
	if e, is := errors.AsType[*tls.CertificateVerificationError](k.err); is {
		k.shown, k.version = e.UnverifiedCertificates, tls.VersionTLS12
	}
	return k
}

// judgeCloud judges how far a connection came, one check for each step.
func judgeCloud(look *agent.CloudLook, k cloudContact, doubted bool) []*Result {
	const network = "check the network, DNS, HTTPS_PROXY, and the endpoint in [provisioning]"
	subject := look.Endpoint
	_, unresolved := errors.AsType[*net.DNSError](k.dialled)
	if unresolved {
		return []*Result{failed(idCloudResolve, subject, k.dialled.Error(), network), skipped(idCloudTCP, subject, "its address is not known"),
			skipped(idCloudTLS, subject, "it was not reached"), skipped(idCloudTrust, subject, "it was not reached")}
	}
	all := []*Result{ok(idCloudResolve, subject, "the name was found")}
	if k.dialled != nil {
		if _, is := errors.AsType[*est.ProxyError](k.dialled); is {
			all[0] = skipped(idCloudResolve, subject, "the proxy looks the name up")
		}
		return append(all, failed(idCloudTCP, subject, k.dialled.Error(), network),
			skipped(idCloudTLS, subject, "it was not reached"), skipped(idCloudTrust, subject, "it was not reached"))
	}
	all = append(all, ok(idCloudTCP, subject, "connected to "+k.peer))
	if len(k.shown) == 0 {
		return append(all, failed(idCloudTLS, subject, fmt.Sprintf("TLS: %v", k.err),
			"see what answers there: a captive portal or a proxy, perhaps"), skipped(idCloudTrust, subject, "it presented no certificate"))
	}
	switch {
	case k.trusted && k.err != nil:
		all = append(all, ok(idCloudTLS, subject, tls.VersionName(k.version)+"; it ended the connection, having been shown no certificate"))
	case k.trusted:
		all = append(all, ok(idCloudTLS, subject, tls.VersionName(k.version)))
	default:
		all = append(all, ok(idCloudTLS, subject, "it speaks TLS"))
	}
	switch {
	case k.trusted:
		by := "by the system's roots"
		if look.Roots != nil {
			by = "by trusted_certs of [provisioning]"
		}
		return append(all, ok(idCloudTrust, subject, "its certificate, "+nameOf(k.shown[0])+", verifies "+by))
	case doubted:
		return append(all, skipped(idCloudTrust, subject, "the clock is not credible, and certificates are judged by it"))
	}
	return append(all, failed(idCloudTrust, subject, k.err.Error(), "install the system's CA certificates (package "+
		"ca-certificates), or name the CA behind the endpoint in trusted_certs of [provisioning]; those of EST do not count here"))
}

// known judges what the agent has told the cloud of a certificate.
func (p *probes) known(c *status.Certificate) *Result {
	o := c.Onboarding
	if problem := c.CloudProblem(); problem != nil {
		return problemOf(idCloudKnows, o.Endpoint, problem)
	}
	switch {
	case o.State == status.Registered:
		text := c.ID + " is registered"
		if o.DeviceID != "" {
			text += " as " + o.DeviceID
		}
		if o.Hub != "" {
			text += " at " + o.Hub
		}
		return ok(idCloudKnows, o.Endpoint, text)
	case o.Why == "":
		return skipped(idCloudKnows, o.Endpoint, "there is no valid certificate "+c.ID+" to register")
	case o.State == status.Pending:
		return skipped(idCloudKnows, o.Endpoint, c.ID+" is not registered yet; the agent sees to it")
	}
	return warning(idCloudKnows, o.Endpoint, c.ID+" is not registered", "certagent onboard tries at once")
}
