package agent

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"reflect"

	"certagent/agent/config"
	"certagent/store"
)

// login is a fingerprint of what a back-off belongs to: where the certificate comes from, who logs in, who is trusted, and how
// far a server is followed.
// When it changes, somebody repaired something and waiting longer would be wrong. It holds no secret and nothing that a
// secret could be guessed from: a password written into the configuration counts by the files' times.
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
	files := append([]string{c.Auth.PasswordFile}, c.Trust.Files...)
	for _, pair := range []*config.KeyPair{c.Auth.Identity, c.Auth.Bootstrap} {
		if pair != nil {
			files = append(files, pair.Cert, pair.Key)
		}
	}
	if c.Auth.HasPassword && c.Auth.PasswordFile == "" {
		fmt.Fprintln(h, stamp)
	}
	fmt.Fprintln(h, stampOf(files))
	if g, _ := a.estLogin(c); g != nil {
		fmt.Fprintln(h, g.Meta.SHA256)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
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
