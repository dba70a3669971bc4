package export_test

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"software.sslmate.com/src/go-pkcs12"

	"certagent/agent/config"
	"certagent/store/export"
	"certagent/store/keys"
)

// blocks says what PEM holds: "key", and the names of certificates.
func blocks(t *testing.T, text string) (names []string) {
	t.Helper()
	for rest := []byte(text); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			if len(rest) > 0 {
				t.Errorf("after the last block stands %q", rest)
			}
			return names
		}
		switch b.Type {
		case "PRIVATE KEY":
			if _, err := x509.ParsePKCS8PrivateKey(b.Bytes); err != nil {
				t.Error(err)
			}
			names = append(names, "key")
		case "CERTIFICATE":
			c, err := x509.ParseCertificate(b.Bytes)
			must(t, err)
			names = append(names, c.Subject.CommonName)
		default:
			t.Errorf("a block of type %q", b.Type)
		}
	}
}

func TestWhatAFormatHolds(t *testing.T) {
	want := map[export.Format][]string{
		export.Cert:          {"gateway"},
		export.Chain:         {"Issuing"},
		export.Fullchain:     {"gateway", "Issuing"},
		export.FullchainRoot: {"gateway", "Issuing", "Root"},
		export.CA:            {"Root"},
		export.Key:           {"key"},
		export.Combined:      {"key", "gateway", "Issuing"},
	}
	dir := t.TempDir()
	_, pair := issuing(t)
	set := export.Set{Pair: pair, Outputs: outputs(dir, allFormats...)}
	if n := settled(t, writer(nil).Apply(set, nil)); n != len(allFormats) {
		t.Errorf("%d written", n)
	}
	files := contents(t, dir)
	for f, names := range want {
		if got := blocks(t, files[string(f)]); !slices.Equal(got, names) {
			t.Errorf("%s holds %q, want %q", f, got, names)
		}
	}
	if len(files) != len(want)+1 {
		t.Errorf("files %q", files)
	}
	key, leaf, chain, err := pkcs12.DecodeChain([]byte(files["pkcs12"]), "changeit")
	if err != nil || !leaf.Equal(pair.Leaf) || !slices.EqualFunc(chain, pair.Chain, (*x509.Certificate).Equal) ||
		!keys.Equal(key.(crypto.Signer).Public(), pair.Key.Public()) {
		t.Errorf("pkcs12 holds another pair: %v", err)
	}
	got, err := keys.ParsePEM([]byte(files["key"]))
	if err != nil || !keys.Equal(got.Public(), pair.Key.Public()) {
		t.Errorf("another key: %v", err)
	}
}

func TestWhatTheConfigurationKnows(t *testing.T) {
	for _, f := range allFormats {
		file := filepath.Join(t.TempDir(), "config.toml")
		must(t, os.WriteFile(file, fmt.Appendf(nil, `
[cert_issuance.est.urls]
default = "https://est.example"
[cert_issuance.certs.mqtt]
method = "est"
common_name = "gateway"
outputs = [{ format = %q, path = "/srv/out" }]
`, f), 0o600))
		c, err := config.Load(file, config.Defaults{})
		must(t, err)
		o := c.Certificates[0].Outputs[0]
		if o.Format != string(f) || holdsKey(f) != (o.Mode&0o077 == 0) {
			t.Errorf("the configuration makes %+v of format %s", o, f)
		}
	}
}

func TestTheWayUpToTheRoot(t *testing.T) {
	authorities := func(name string, issuer *authority) *authority {
		a, err := newAuthority(name, issuer)
		must(t, err)
		return a
	}
	root := authorities("Root", nil)
	sub := authorities("Issuing", root)
	newRoot := authorities("Root", nil) // another key, the same name
	cross, err := root.sign("Root", newRoot.key.Public(), true)
	must(t, err)
	ofSub, err := sub.pair()
	must(t, err)
	ofNew, err := newRoot.pair()
	must(t, err)
	type certs = []*x509.Certificate
	for _, c := range []struct {
		name       string
		leaf       *x509.Certificate
		chain, cas certs
		want       certs // after the leaf
		err        string
	}{
		{"from the root itself", ofNew.Leaf, nil, certs{newRoot.cert}, certs{newRoot.cert}, ""},
		{"over an intermediate", ofSub.Leaf, certs{sub.cert}, certs{newRoot.cert, root.cert}, certs{sub.cert, root.cert}, ""},
		{"root in the chain", ofSub.Leaf, certs{sub.cert, root.cert}, certs{root.cert}, certs{sub.cert, root.cert}, ""},
		{"intermediate among the anchors", ofSub.Leaf, nil, certs{root.cert, sub.cert}, certs{sub.cert, root.cert}, ""},
		{"intermediate as the only anchor", ofSub.Leaf, nil, certs{sub.cert}, certs{sub.cert}, ""},
		{"the same in chain and anchors", ofSub.Leaf, certs{sub.cert}, certs{sub.cert}, certs{sub.cert}, ""},
		{"while the CA changes its key", ofNew.Leaf, nil, certs{cross, root.cert, newRoot.cert}, certs{newRoot.cert}, ""},
		{"while only the cross certificate is there", ofNew.Leaf, nil, certs{cross, root.cert}, certs{cross, root.cert}, ""},
		{"another root of the same name", ofNew.Leaf, nil, certs{root.cert}, nil, "none of the CA certificates"},
		{"no CA certificate", ofNew.Leaf, nil, nil, nil, "no CA certificate is known"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			out := outputs(dir, export.FullchainRoot)
			set := export.Set{Pair: export.Pair{Leaf: c.leaf, Chain: c.chain, CAs: c.cas}, Outputs: out}
			r := writer(nil).Apply(set, nil)[0]
			if c.err != "" {
				refused(t, r.Err, c.err, "trusted_certs")
				return
			}
			must(t, r.Err)
			var want strings.Builder
			for _, cert := range append(certs{c.leaf}, c.want...) {
				must(t, pem.Encode(&want, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}))
			}
			if got := contents(t, dir)["fullchain+root"]; got != want.String() {
				t.Errorf("it holds %q, want %d certificates", blocks(t, got), 1+len(c.want))
			}
		})
	}
}

func TestNoCAIsNoEmptyBundle(t *testing.T) {
	dir := t.TempDir()
	_, pair := issuing(t)
	set := export.Set{Pair: pair, Outputs: outputs(dir, export.CA, export.Chain)}
	settled(t, writer(nil).Apply(set, nil))
	before := contents(t, dir)["ca"]
	set.Pair.CAs, set.Pair.Chain = nil, nil
	results := writer(nil).Apply(set, nil)
	refused(t, results[0].Err, "no CA certificate is known", "trusted_certs")
	if after := contents(t, dir); after["ca"] != before || after["chain"] != "" || !results[1].Settled() {
		t.Errorf("bundle %q, chain %q", after["ca"], after["chain"])
	}
}

// token is a key that lives elsewhere.
type token struct{ keys.Key }

func TestAKeyThatCannotBeExported(t *testing.T) {
	dir := t.TempDir()
	_, pair := issuing(t)
	pair.Key = token{pair.Key}
	for i, r := range writer(nil).Apply(export.Set{Pair: pair, Outputs: outputs(dir, allFormats...)}, nil) {
		if holdsKey(allFormats[i]) {
			refused(t, r.Err, "cannot leave", "without the key")
		} else if !r.Settled() {
			t.Errorf("%s: %v", r.Path, r.Err)
		}
	}
}

// salts are the salts and initialization vectors in a PKCS#12 file: all of them are octet strings of 16 bytes.
func salts(p12 string) map[string]bool {
	found := map[string]bool{}
	for _, after := range strings.Split(p12, "\x04\x10")[1:] {
		if len(after) >= 16 {
			found[after[:16]] = true
		}
	}
	return found
}

func TestPKCS12(t *testing.T) {
	sub, _ := issuing(t)
	for _, kind := range []keys.Algorithm{keys.ECP256, keys.ECP384, keys.ECP521, keys.RSA2048, keys.Ed25519} {
		dir := t.TempDir()
		pair, err := sub.pairOf(kind)
		must(t, err)
		set := export.Set{Pair: pair, Outputs: outputs(dir, export.PKCS12)}
		apply := func(want bool, why string) string {
			t.Helper()
			r := writer(nil).Apply(set, nil)[0]
			if r.Written != want || !r.Settled() {
				t.Errorf("%s: %s: written %v, drift %q, %v", kind, why, r.Written, r.Drift, r.Err)
			}
			return contents(t, dir)["pkcs12"]
		}
		first := apply(true, "nothing there")
		apply(false, "the same pair and password")
		set.Outputs[0].Password = secret("pässword €")
		second := apply(true, "another password")
		if _, _, _, err := pkcs12.DecodeChain([]byte(second), "pässword €"); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		if _, _, _, err := pkcs12.DecodeChain([]byte(second), "changeit"); !errors.Is(err, pkcs12.ErrIncorrectPassword) {
			t.Errorf("%s: the old password opens it: %v", kind, err)
		}
		for s := range salts(first) {
			if salts(second)[s] {
				t.Errorf("%s: two passwords with one salt", kind)
			}
		}
		if len(salts(first)) < 4 {
			t.Errorf("%s: only %d salts found", kind, len(salts(first)))
		}
		set.Outputs[0].Password = nil
		third := apply(true, "no password")
		if _, _, _, err := pkcs12.DecodeChain([]byte(third), ""); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		set.Outputs[0].Password = secret("changeit")
		if again := apply(true, "the first password"); again != first {
			t.Errorf("%s: the same pair and password give other bytes", kind)
		}
	}
}

func TestAPasswordThatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	_, pair := issuing(t)
	unreadable := func() (string, error) { return "", errors.New("open it: no") }
	for name, c := range map[string]struct {
		password  func() (string, error)
		why, hint string
	}{
		"unreadable":        {unreadable, "open it: no", "password_file"},
		"cannot be encoded": {secret("smile \U0001F600"), "UCS-2", "password"},
	} {
		set := export.Set{Pair: pair, Outputs: outputs(dir, export.PKCS12, export.Key)}
		set.Outputs[0].Password = c.password
		results := writer(nil).Apply(set, nil)
		refused(t, results[0].Err, c.why, c.hint)
		if strings.Contains(results[0].Err.Error(), "smile") || !results[1].Settled() {
			t.Errorf("%s: %v, %v", name, results[0].Err, results[1].Err)
		}
	}
}
