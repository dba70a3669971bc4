package config

import "strings"

// unbuilt is one thing that a configuration may ask for before this program can do it. It is a problem of the
// certificate concerned and a warning, and stops nothing. A row goes when its part is built.
type unbuilt struct {
	problem Problem
	at      string // the key that asks
	asked   func(c Certificate) bool
}

func unbuiltParts() []unbuilt {
	return []unbuilt{
		{
			Problem{"not-built", "this version does not make keys on a PKCS#11 token",
				`write key = "ec-p256" or another key in a file`},
			"key",
			func(c Certificate) bool { return strings.HasPrefix(c.Key, "pkcs11:") },
		},
		{
			Problem{"not-built", "this version does not log in with keys on a PKCS#11 token",
				"name a key file in identity_pk and bootstrap_identity_pk"},
			"",
			func(c Certificate) bool { return onToken(c.Auth.Identity) || onToken(c.Auth.Bootstrap) },
		},
	}
}

func onToken(k *KeyPair) bool { return k != nil && k.KeyURI != "" }
