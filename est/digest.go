package est

import (
	"crypto/md5" // RFC 7616 has it still, and libest knows no other
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
	"strings"
)

// digestHash is a hash of RFC 7616 3.3. The strongest has the highest rank.
type digestHash struct {
	rank int
	new  func() hash.Hash
}

// digestAlgorithm returns what a Digest challenge's algorithm parameter means; session says that the nonces go into the
// hash of the password.
func digestAlgorithm(name string) (h digestHash, session, known bool) {
	name = strings.ToUpper(name)
	name, session = strings.CutSuffix(name, "-SESS")
	switch name {
	case "", "MD5":
		return digestHash{1, md5.New}, session, !session || name != ""
	case "SHA-256":
		return digestHash{2, sha256.New}, session, true
	case "SHA-512-256":
		return digestHash{3, sha512.New512_256}, session, true
	}
	return digestHash{}, false, false
}

// digestQuality chooses among the qualities of protection that a challenge offers: "auth", else "auth-int", else, where
// none is offered, "" as in RFC 2069.
func digestQuality(offered string) (qop string, known bool) {
	if strings.TrimSpace(offered) == "" {
		return "", true
	}
	all := strings.FieldsFunc(strings.ToLower(offered), func(r rune) bool { return r == ',' || r == ' ' || r == '\t' })
	for _, qop := range []string{"auth", "auth-int"} {
		if slices.Contains(all, qop) {
			return qop, true
		}
	}
	return "", false
}

// digestRank is how good an answer to a Digest challenge would be; 0 means that there is none.
func digestRank(c challenge) int {
	algorithm, session, known := digestAlgorithm(c.parameters["algorithm"])
	qop, protects := digestQuality(c.parameters["qop"])
	if !known || !protects || session && qop == "" { // then there is no cnonce
		return 0
	}
	for _, name := range []string{"realm", "nonce", "opaque"} { // they are sent back
		if strings.ContainsFunc(c.parameters[name], isControl) {
			return 0
		}
	}
	if c.parameters["nonce"] == "" {
		return 0
	}
	return algorithm.rank
}

// digest returns the Authorization header that answers a Digest challenge of some rank (RFC 7616 3.4). cnonce is to be
// fresh.
func (l Login) digest(c challenge, m loginFor, cnonce string) string {
	p := c.parameters
	algorithm, session, _ := digestAlgorithm(p["algorithm"])
	qop, _ := digestQuality(p["qop"])
	sum := func(parts ...string) string {
		h := algorithm.new()
		h.Write([]byte(strings.Join(parts, ":")))
		return hex.EncodeToString(h.Sum(nil))
	}
	a1 := sum(l.Username, p["realm"], l.Password)
	if session {
		a1 = sum(a1, p["nonce"], cnonce)
	}
	a2 := sum(m.method, m.uri)
	if qop == "auth-int" {
		a2 = sum(m.method, m.uri, sum(string(m.body)))
	}
	const count = "00000001" // each nonce is used once

	fields := []string{digestUser(l.Username, sum(l.Username, p["realm"]), strings.EqualFold(p["userhash"], "true")),
		"realm=" + quotedString(p["realm"]), "uri=" + quotedString(m.uri), "nonce=" + quotedString(p["nonce"])}
	if qop == "" {
		fields = append(fields, `response="`+sum(a1, p["nonce"], a2)+`"`)
	} else {
		fields = append(fields, "nc="+count, "cnonce="+quotedString(cnonce), "qop="+qop,
			`response="`+sum(a1, p["nonce"], count, cnonce, qop, a2)+`"`)
	}
	// Only what was there is sent back: libest knows neither.
	if opaque, found := p["opaque"]; found {
		fields = append(fields, "opaque="+quotedString(opaque))
	}
	if name := p["algorithm"]; name != "" {
		fields = append(fields, "algorithm="+name)
	}
	return "Digest " + strings.Join(fields, ", ")
}

// digestUser returns the user name as a parameter: hashed where the server wants that (RFC 7616 3.4.4), in the notation
// of RFC 8187 where a quoted string cannot hold it.
func digestUser(name, hashed string, hash bool) string {
	if hash {
		return `username="` + hashed + `", userhash=true`
	}
	if !strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "username=" + quotedString(name)
	}
	var b strings.Builder
	b.WriteString("username*=UTF-8''")
	for i := range len(name) {
		if c := name[i]; 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
			strings.IndexByte("!#$&+-.^_`|~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// quotedString is that of RFC 9110 5.6.4.
func quotedString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }
