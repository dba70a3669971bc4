package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"

	"certagent/agent/config"
	"certagent/store"
)

// login is a fingerprint of what a back-off belongs to: where the certificate comes from, who logs in, who is trusted, and how
// far a server is followed.
// When it changes, somebody repaired something and waiting longer would be wrong. It holds no secret and nothing that a
// secret could be guessed from: a password counts by the times of the files that it stands in. Certificates and keys,
// which nobody guesses, count by what they are: to write the same once more, as tools and systemd's credentials do, is no
// repair.
//
// stamp is that of the configuration which c stands in: the files may be newer than what was read of them.
func (a *Agent) login(c *config.Certificate, stamp string) string {
	h := sha256.New()
	renewURL := c.URL
	if c.RenewURL != nil {
		renewURL = c.RenewURL
	}
	fmt.Fprintln(h, c.URL, renewURL, c.RenewWith, c.ESTIdentity, c.Auth.HasPassword, c.Auth.Username, c.Trust.SystemRoots)
	fmt.Fprintln(h, c.Trust.Fingerprint, c.RedirectHosts, c.LinkIdentity, c.Attributes)
	files := slices.Clone(c.Trust.Files)
	for _, pair := range []*config.KeyPair{c.Auth.Identity, c.Auth.Bootstrap} {
		if pair != nil {
			files = append(files, pair.Cert, pair.Key)
		}
	}
	if c.Auth.HasPassword && c.Auth.PasswordFile == "" {
		fmt.Fprintln(h, stamp)
	}
	for _, f := range files {
		fmt.Fprintln(h, contentOf(f))
	}
	fmt.Fprintln(h, stampOf([]string{c.Auth.PasswordFile}))
	if g, _ := a.estLogin(c); g != nil {
		fmt.Fprintln(h, g.Meta.SHA256)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// contentOf changes when what a file holds does.
func contentOf(file string) string {
	data, err := readCredential(file)
	if err != nil {
		return "-"
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// stampOf changes when one of the files does.
func stampOf(files []string) string {
	h := sha256.New()
	for _, f := range files {
		path, err := credentialPath(f)
		if err != nil {
			fmt.Fprintln(h, f, "-")
			continue
		}
		if info, err := os.Stat(path); err == nil {
			fmt.Fprintln(h, f, info.Size(), info.ModTime().UnixNano())
		} else {
			fmt.Fprintln(h, f, "-")
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// sameCertificate tells whether a reload changed nothing for a certificate.
func sameCertificate(a, b config.Certificate) bool { return reflect.DeepEqual(a, b) }

// fingerprintOf names a request, to notice that the configuration asks for something else again.
func fingerprintOf(r store.Request) string {
	r.URL = "" // a changed URL waits for the next renewal
	data, err := json.Marshal(r)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}
