package config

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
)

// The users of IoT Edge's services that read certificates and private keys.
const (
	aziotCertificates = "aziotcs"
	aziotKeys         = "aziotks"
)

// Aziot writes the part of IoT Edge's own /etc/aziot/config.toml that has it use what certagent keeps: [provisioning] by the
// device certificate, for source = "dps" or "manual", and [edge_ca], each as files that IoT Edge itself leaves alone (its
// "preloaded" certificates), at the places of outputs; trust_bundle_cert where the CA's have one. What it lacks for that is
// an error, every lack at once; advice is what may keep IoT Edge from reading the files.
func (c *Config) Aziot() (fragment []byte, advice []string, err error) {
	root := newTable(Place{})
	var lacks []error
	pair := func(t *node, cert Certificate, certKey, keyKey string) {
		chain, key := cert.output(aziotCertificates, "fullchain", "fullchain+root"), cert.output(aziotKeys, "key")
		for _, o := range []struct {
			output *Output
			format string
		}{{chain, "fullchain"}, {key, "key"}} {
			if o.output == nil {
				lacks = append(lacks, fmt.Errorf("certificate %s has no output of format %q: IoT Edge reads files of its own", cert.ID, o.format))
			}
		}
		if chain == nil || key == nil {
			return
		}
		t.put(certKey, fileURI(chain.Path))
		t.put(keyKey, fileURI(key.Path))
		advice = append(advice, chain.unreadable(aziotCertificates)...)
		advice = append(advice, key.unreadable(aziotKeys)...)
	}
	found := false
	for _, cert := range c.Certificates {
		switch cert.Role {
		case RoleEdgeCA:
			found = true
			if cas := cert.output(aziotCertificates, "ca"); cas != nil {
				root.put("trust_bundle_cert", fileURI(cas.Path))
				advice = append(advice, cas.unreadable(aziotCertificates)...)
			}
			pair(root.in("edge_ca"), cert, "cert", "pk")
		case RoleDevice:
			login, missing := c.aziotProvisioning(root, cert)
			lacks = append(lacks, missing...)
			if login != nil {
				found = true
				pair(login, cert, "identity_cert", "identity_pk")
			}
		}
	}
	if !found && len(lacks) == 0 {
		lacks = append(lacks, errors.New(`there is nothing that IoT Edge could use: neither a device certificate with [provisioning] source = "dps" `+
			`or "manual", nor [edge_ca] with method = "est"`))
	}
	if len(lacks) > 0 {
		return nil, nil, errors.Join(lacks...)
	}
	return writeTOML(root), advice, nil
}

// aziotProvisioning writes [provisioning] and gives the table in which the certificate goes, nil where the cloud is not IoT
// Edge's business; and what is missing.
func (c *Config) aziotProvisioning(root *node, cert Certificate) (login *node, missing []error) {
	v := c.Provisioning
	switch v.Source {
	case SourceDPS:
		if v.Blank() {
			missing = append(missing, fmt.Errorf("id_scope %s is still the blank of the tutorial", quoted(v.IDScope)))
		}
		p := root.in("provisioning")
		p.put("source", v.Source)
		p.put("global_endpoint", v.GlobalEndpoint)
		p.put("id_scope", v.IDScope)
		if v.Payload != "" {
			p.in("payload").put("uri", fileURI(v.Payload))
		}
		attestation := p.in("attestation")
		attestation.put("method", "x509")
		if id := v.RegistrationID; id != "" {
			attestation.put("registration_id", id)
		} else if id := cert.commonName(); id != "" { // else IoT Edge takes it from the certificate
			attestation.put("registration_id", id)
		}
		return attestation, missing
	case "manual":
		written, _, _ := parseTOML("", c.Merged) // it was parsed before
		of := written.get("provisioning")
		p := root.in("provisioning")
		p.put("source", v.Source)
		for _, name := range []string{"iothub_hostname", "device_id"} {
			value := of.get(name)
			if value == nil || value.kind != kindString || value.text == "" {
				missing = append(missing, fmt.Errorf("provisioning.%s is missing, which IoT Edge needs for source = \"manual\" "+
					"with a certificate: a connection_string has none", name))
				continue
			}
			p.put(name, value.text)
		}
		login = p.in("authentication")
		login.put("method", "x509")
		return login, missing
	}
	return nil, nil
}

// output is an output for a user in one of formats, which are in order of preference: the first that he may read, since others
// may be for other programs, else the first; nil if there is none.
func (c *Certificate) output(user string, formats ...string) (found *Output) {
	for _, format := range formats {
		for i := range c.Outputs {
			o := &c.Outputs[i]
			switch {
			case o.Format != format:
			case o.unreadable(user) == nil:
				return o
			case found == nil:
				found = o
			}
		}
	}
	return found
}

// commonName is the one that is asked for; "" where it is found out at each attempt.
func (c *Certificate) commonName() string {
	for _, rdn := range c.Subject {
		for _, name := range rdn {
			if text, ok := name.Value.(string); ok && name.Type.String() == commonName {
				return text
			}
		}
	}
	return ""
}

// unreadable says what of an output's owner and mode keeps a user from reading it, who is in the group of his own name. It
// takes a number for his: who has it is known to the device alone. Advice is an owner and not a group: IoT Edge's other
// services are in these groups, for the sake of its sockets, and no key is for them.
func (o *Output) unreadable(user string) []string {
	may := func(account string, bit fs.FileMode) bool {
		_, err := strconv.ParseUint(account, 10, 32)
		return (account == user || err == nil) && o.Mode&bit != 0
	}
	if may(o.Owner, 0o400) || may(o.Group, 0o040) || o.Mode&0o004 != 0 {
		return nil
	}
	fix := fmt.Sprintf("owner = %s", quoted(user))
	if !holdsKey(o.Format) {
		fix = `mode = "0644"`
	}
	return []string{fmt.Sprintf("%s: user %s of IoT Edge may not read it; give that output %s", o.Path, user, fix)}
}
