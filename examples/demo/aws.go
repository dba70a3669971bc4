package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"certagent/agent/onboard/awsiot/awstest"
)

// thing is the device's name at AWS; the policy of examples/aws-jitp wants it as client id, too.
const thing = "gateway-42"

// playAWS plays how AWS IoT makes a thing of a device that connects for the first time, and what a renewal is to it: a
// certificate that it never saw.
func playAWS(ctx context.Context, s *stage) (err error) {
	cloud, err := awstest.Open(awstest.Options{})
	if err != nil {
		return err
	}
	defer cloud.Close()
	s.say("starting an endpoint of AWS IoT Core, with an account behind it, both of them local: %s", cloud.Endpoint())
	if err := s.registerCA(ctx, cloud); err != nil {
		return err
	}
	ca, err := s.startServer(ctx, "127.0.0.1:0", 40*time.Second)
	if err != nil {
		return err
	}
	defer ca.kill()
	s.say("starting the EST server of that CA; it listens on %s", ca.url)
	if err := os.WriteFile(filepath.Join(s.dir, "cloud.pem"), cloud.RootPEM(), 0o644); err != nil {
		return err
	}
	app := &application{cloud: cloud, name: thing, certificate: filepath.Join(s.dir, "app", "device.pem"),
		key: filepath.Join(s.dir, "app", "device.key")}
	if err := os.Mkdir(filepath.Dir(app.key), 0o700); err != nil {
		return err
	}
	// Provisioning goes on when the audience has seen how it waits.
	cloud.Throttle(true)
	// No resolver knows the endpoint, but this proxy does.
	a, err := s.start(configuration(ca.url,
		fmt.Sprintf("subject = [\n  [\"C\", \"JP\"], [\"O\", \"Example\"], [\"CN\", %q], [\"serialNumber\", \"0001\"]\n]", thing),
		fmt.Sprintf(`
[provisioning]
source = "aws"
endpoint = "%s"
trusted_certs = ["file://DIR/cloud.pem"]
`, cloud.Endpoint()))+`
[[provisioning.attestation.identity_cert.outputs]]
format = "fullchain+root"
path = "DIR/app/device.pem"

[[provisioning.attestation.identity_cert.outputs]]
format = "key"
path = "DIR/app/device.key"
`, "HTTPS_PROXY="+cloud.Proxy().String(), "NO_PROXY=", "no_proxy=")
	if err != nil {
		return err
	}
	defer a.kill()
	defer a.explain(&err)

	first, err := a.enrols(ctx, ca)
	if err != nil {
		return fmt.Errorf("enrol with the bootstrap certificate: %w", err)
	}
	s.say("ENROLLED:  %s", words(first))
	pending, err := a.pending(ctx, cloud, first)
	if err != nil {
		return err
	}
	s.say("DROPPED:   AWS registered it, PENDING_ACTIVATION, and dropped the connection, as it does with each first one:\n\n%s",
		pending)
	cloud.Throttle(false)
	tries, err := a.connected(ctx, cloud, first)
	if err != nil {
		return err
	}
	s.say("CONNECTED: AWS took connection %d (CONNACK): the certificate is ACTIVE, and attached to a new thing, %q,", tries, thing)
	attributes := map[string]string{"country": "JP", "organization": "Example", "serialNumber": "0001"}
	if got := cloud.Thing(thing).Attributes; !maps.Equal(got, attributes) {
		return fmt.Errorf("the thing's attributes are %q, want %q", got, attributes)
	}
	s.say("           whose attributes (country JP, organization Example, serialNumber 0001) are from its subject")
	old, err := app.holds(ctx, first)
	if err != nil {
		return err
	}
	if err := app.publish(ctx, old); err != nil {
		return fmt.Errorf("send a message with the first certificate: %w", err)
	}
	s.say("           an application has the files of its outputs, and AWS takes a message from it (CONNACK, PUBACK)")

	s.say("waiting for the renewal, at half of the certificate's life")
	cloud.Throttle(true)
	second, err := a.renews(ctx, ca, first)
	if err != nil {
		return fmt.Errorf("renew by threshold: %w", err)
	}
	s.say("RENEWED:   %s", words(second))
	if _, err := a.pending(ctx, cloud, second); err != nil {
		return err
	}
	pair, err := a.pair()
	if err != nil {
		return err
	}
	if err := app.publish(ctx, pair); !errors.Is(err, errDropped) {
		return fmt.Errorf("an application sent a message with a certificate that AWS has not provisioned, and got: %v", err)
	}
	if err := app.publish(ctx, old); err != nil {
		return fmt.Errorf("send a message with the certificate before the renewal: %w", err)
	}
	s.say("DROPPED:   AWS never saw it, drops whoever comes with it, and goes on taking messages with the old one")
	cloud.Throttle(false)
	if tries, err = a.connected(ctx, cloud, second); err != nil {
		return err
	}
	if pair, err = app.holds(ctx, second); err != nil {
		return err
	}
	if err := app.publish(ctx, pair); err != nil {
		return fmt.Errorf("send a message with the renewed certificate: %w", err)
	}
	s.say("CONNECTED: AWS took connection %d, having provisioned once more, for the same thing, and takes messages with it:\n\n%s",
		tries, a.table())
	if ids := cloud.Thing(thing).Principals; !slices.Equal(ids, []string{thumbprint(first), thumbprint(second)}) ||
		cloud.Certificate(ids[0]).Status != awstest.Active {
		return fmt.Errorf("the thing has the certificates %q, want the old one, ACTIVE, and the new one", ids)
	}
	s.say("           the old certificate is ACTIVE, too, until it expires or somebody removes it there")

	if err := a.stop(); err != nil {
		return err
	}
	s.say("the agent stopped at SIGTERM. Nothing of this was AWS itself: the endpoint was made after its developer guide.")
	return nil
}

// registerCA does what examples/aws-jitp has a person do at AWS: the CA signs for the account's code, is registered, and gets
// the template by which its devices are provisioned.
func (s *stage) registerCA(ctx context.Context, cloud *awstest.Server) error {
	dir := filepath.Join(s.dir, "ca")
	sign := exec.CommandContext(ctx, s.testcaPath, "--dir", dir, "--verification", cloud.RegistrationCode())
	sign.Stderr = os.Stderr
	if err := sign.Run(); err != nil {
		return fmt.Errorf("sign for the registration code: %w", err)
	}
	var files [3][]byte
	for i, name := range []string{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "verification.pem"), s.templatePath} {
		var err error
		if files[i], err = os.ReadFile(name); err != nil {
			return err
		}
	}
	id, err := cloud.RegisterCA(files[0], files[1])
	if err != nil {
		return err
	}
	s.say("making a CA, which signs for the account's registration code; AWS registers it")
	enable := true
	if err := cloud.UpdateCA(id, awstest.Active, &enable, &awstest.RegistrationConfig{
		TemplateBody: string(files[2]), RoleARN: "arn:aws:iam::123456789012:role/certagent-jitp",
	}); err != nil {
		return err
	}
	s.say("it is ACTIVE, with auto-registration by %s", s.templatePath)
	return nil
}

// pending waits until AWS has dropped a connection with the certificate, and status says so. It returns what that prints.
func (a *agent) pending(ctx context.Context, cloud *awstest.Server, c *x509.Certificate) (table string, err error) {
	err = until(ctx, func() error {
		state, err := a.status()
		if err != nil {
			return err
		}
		known := cloud.Certificate(thumbprint(c))
		if known.Status != awstest.PendingActivation || state.Onboarding.State != "pending" || len(state.Problems) != 1 ||
			state.Problems[0].Code != "aws-provisioning" {
			return fmt.Errorf("AWS has %+v, status says %+v: want it pending with both", known, state)
		}
		return nil
	})
	return a.table(), err
}

// connected waits until AWS has taken the certificate and the agent has written that down. It returns how many connections it
// took.
func (a *agent) connected(ctx context.Context, cloud *awstest.Server, c *x509.Certificate) (tries int, err error) {
	err = until(ctx, func() error {
		var result struct {
			SHA256 string `json:"sha256"`
			Tries  int    `json:"tries"`
		}
		data, err := os.ReadFile(a.result("aws"))
		if err == nil {
			err = json.Unmarshal(data, &result)
		}
		known := cloud.Certificate(thumbprint(c))
		if err != nil || result.SHA256 != thumbprint(c) || known.Status != awstest.Active || known.Thing != thing || known.Registered != 1 {
			return fmt.Errorf("AWS has %+v; what the agent has written (%v):\n%s", known, err, data)
		}
		tries = result.Tries
		return nil
	})
	return tries, err
}

// holds waits until the application's files have that certificate, and returns them.
func (a *application) holds(ctx context.Context, c *x509.Certificate) (pair tls.Certificate, err error) {
	err = until(ctx, func() error {
		var err error
		switch pair, err = a.pair(); {
		case err != nil:
			return fmt.Errorf("read the application's files: %w", err)
		case !pair.Leaf.Equal(c):
			return fmt.Errorf("%s is not the certificate that was issued", a.certificate)
		case len(pair.Certificate) != 2:
			return fmt.Errorf("%s has %d certificates, want the device's and its CA's", a.certificate, len(pair.Certificate))
		}
		return nil
	})
	return pair, err
}
