package config

import "strings"

// unbuilt is one thing that a configuration may ask for before this program can do it. It is a problem of the
// certificate concerned and a warning, and stops nothing. A row goes when its part is built.
type unbuilt struct {
	problem Problem
	at      string // the key that asks
	asked   func(p Provisioning, c Certificate) bool
}

func unbuiltParts() []unbuilt {
	const later = "a later version does; until then it is left undone"
	device := func(c Certificate) bool { return c.Role == RoleDevice }
	return []unbuilt{
		{
			Problem{"not-built", "this version does not tell the cloud about the certificate", later},
			"provisioning.source",
			func(p Provisioning, c Certificate) bool {
				return device(c) && (p.Source == sourceDPS || p.Source == sourceAWS)
			},
		},
		{
			Problem{"not-built", "this version does not make keys on a PKCS#11 token",
				`write key = "ec-p256" or another key in a file`},
			"key",
			func(_ Provisioning, c Certificate) bool { return strings.HasPrefix(c.Key, "pkcs11:") },
		},
		{
			Problem{"not-built", "this version does not log in with keys on a PKCS#11 token",
				"name a key file in identity_pk and bootstrap_identity_pk"},
			"",
			func(_ Provisioning, c Certificate) bool { return onToken(c.Auth.Identity) || onToken(c.Auth.Bootstrap) },
		},
	}
}

func onToken(k *KeyPair) bool { return k != nil && k.KeyURI != "" }

// isPlaceholder reports whether an ID scope is the blank of a tutorial, to be filled in. It is never dialled.
func isPlaceholder(s string) bool { return strings.HasPrefix(s, "<") && strings.HasSuffix(s, ">") }
