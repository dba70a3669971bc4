package est

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Login is a user name and password for HTTP Basic or Digest authentication (RFC 7617, RFC 7616). The user name may
// be empty (RFC 7030 3.2.3). However it is printed or encoded, it shows as [redacted].
type Login struct {
	Username, Password string
}

const redacted = "[redacted]"

// Format prints [redacted] for every verb.
func (Login) Format(s fmt.State, _ rune) { io.WriteString(s, redacted) }

// MarshalText returns [redacted]; it serves JSON and structured logs.
func (Login) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// loginFor is the request that a login is for.
type loginFor struct {
	method, uri string
	body        []byte
}

// answer returns the Authorization header that answers the challenges of a 401, and the forms in which the password
// stands in it. The strongest Digest is preferred to Basic; what we do not know is passed over. cnonce is to be fresh.
func (l Login) answer(all []challenge, m loginFor, cnonce string) (header string, secrets []string, err error) {
	if len(all) == 0 {
		return "", nil, errors.New("it asks for a login but not for which kind (no WWW-Authenticate header)")
	}
	best, rank, basic := challenge{}, 0, false
	var schemes []string
	for _, c := range all {
		schemes = append(schemes, c.scheme)
		switch strings.ToLower(c.scheme) {
		case "basic":
			basic = true
		case "digest":
			if r := digestRank(c); r > rank {
				best, rank = c, r
			}
		}
	}
	switch {
	case rank > 0:
		return l.digest(best, m, cnonce), []string{l.Password}, nil
	case basic:
		token, err := l.basicToken()
		if err != nil {
			return "", nil, err
		}
		return "Basic " + token, []string{token, l.Password}, nil
	}
	return "", nil, fmt.Errorf("it asks for a login of kind %q, of which none is Basic, or Digest of a sort we know",
		shorten(printable(strings.Join(schemes, ", ")), 100))
}

// basicToken is what HTTP Basic sends (RFC 7617), always in UTF-8.
func (l Login) basicToken() (string, error) {
	switch {
	case strings.Contains(l.Username, ":"):
		return "", errors.New("the user name has a colon, which HTTP Basic authentication cannot send")
	case strings.ContainsFunc(l.Username+l.Password, isControl):
		return "", errors.New("user name or password has a control character, which HTTP Basic authentication cannot send")
	}
	return base64.StdEncoding.EncodeToString([]byte(l.Username + ":" + l.Password)), nil
}

// challenge is one of the ways to log in that a server offers (RFC 9110 11.3). Names of parameters are in lower case.
type challenge struct {
	scheme     string
	parameters map[string]string
}

// stale reports whether a Digest was refused for its nonce alone (RFC 7616 3.3), which says nothing about the password.
func stale(all []challenge) bool {
	return slices.ContainsFunc(all, func(c challenge) bool {
		return strings.EqualFold(c.scheme, "Digest") && strings.EqualFold(c.parameters["stale"], "true")
	})
}

// challenges reads WWW-Authenticate headers. Challenges and their parameters are both separated by commas (RFC 9110
// 11.6.1); a new challenge begins where a name is not followed by an equals sign. Of a parameter that is repeated the
// first counts.
func challenges(headers []string) []challenge {
	var all []challenge
	for _, header := range headers {
		began := len(all)
		for _, item := range splitUnquoted(header) {
			name, value, found := parameter(item)
			if !found || len(all) == began {
				scheme, rest, _ := strings.Cut(item, " ")
				all = append(all, challenge{scheme, map[string]string{}})
				if name, value, found = parameter(strings.TrimSpace(rest)); !found {
					continue
				}
			}
			if own := all[len(all)-1].parameters; own[name] == "" {
				own[name] = value
			}
		}
	}
	return all
}

// parameter reads name=value or name="value".
func parameter(item string) (name, value string, found bool) {
	name, value, found = strings.Cut(item, "=")
	name = strings.TrimRight(name, " \t")
	if !found || strings.ContainsAny(name, " \t\"") {
		return "", "", false
	}
	value = strings.TrimLeft(value, " \t")
	if quoted, is := strings.CutPrefix(value, `"`); is {
		var b strings.Builder
		for i := 0; i < len(quoted) && quoted[i] != '"'; i++ {
			if quoted[i] == '\\' && i+1 < len(quoted) {
				i++
			}
			b.WriteByte(quoted[i])
		}
		value = b.String()
	}
	return strings.ToLower(name), value, true
}

// splitUnquoted splits at the commas that stand outside of quoted strings, and drops empty items.
func splitUnquoted(s string) []string {
	var items []string
	quoted, escaped, start := false, false, 0
	for i := 0; i <= len(s); i++ {
		switch {
		case i == len(s) || (s[i] == ',' && !quoted):
			if item := strings.TrimSpace(s[start:i]); item != "" {
				items = append(items, item)
			}
			start = i + 1
		case escaped:
			escaped = false
		case quoted && s[i] == '\\':
			escaped = true
		case s[i] == '"':
			quoted = !quoted
		}
	}
	return items
}
