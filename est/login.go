package est

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/icholy/digest"
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

// answer returns the Authorization header that answers the challenges of a 401 for one request, and the forms in which
// the password stands in it. Digest is preferred to Basic, as the stronger of the two.
func (l Login) answer(h http.Header, method, uri string, body []byte) (header string, secrets []string, err error) {
	var schemes []string
	basic := false
	for _, challenge := range challenges(h.Values("WWW-Authenticate")) {
		scheme, _, _ := strings.Cut(challenge, " ")
		schemes = append(schemes, scheme)
		switch {
		case strings.EqualFold(scheme, "Basic"):
			basic = true
		case strings.EqualFold(scheme, "Digest"):
			header, err := l.digest(challenge, method, uri, body)
			if err == nil {
				return header, []string{l.Password}, nil
			}
		}
	}
	switch {
	case basic && strings.Contains(l.Username, ":"):
		return "", nil, errors.New("the user name has a colon, which HTTP Basic authentication cannot send")
	case basic:
		token := base64.StdEncoding.EncodeToString([]byte(l.Username + ":" + l.Password))
		return "Basic " + token, []string{token, l.Password}, nil
	case len(schemes) == 0:
		return "", nil, errors.New("it asks for a login but not for which kind (no WWW-Authenticate header)")
	}
	return "", nil, fmt.Errorf("it asks for a login of kind %q, of which none is Basic, or Digest of a sort we know",
		shorten(printable(strings.Join(schemes, ", ")), 100))
}

func (l Login) digest(challenge, method, uri string, body []byte) (string, error) {
	parsed, err := digest.ParseChallenge(challenge)
	if err != nil {
		return "", err
	}
	for i, qop := range parsed.QOP {
		parsed.QOP[i] = strings.TrimSpace(qop)
	}
	if !digest.CanDigest(parsed) {
		return "", errors.New("unknown algorithm or quality of protection")
	}
	credentials, err := digest.Digest(parsed, digest.Options{
		Method:   method,
		URI:      uri,
		Username: l.Username,
		Password: l.Password,
		GetBody:  func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil },
	})
	if err != nil {
		return "", err
	}
	return credentials.String(), nil
}

// challenges splits WWW-Authenticate headers into one string a challenge: "Basic realm=…". Challenges and their
// parameters are both separated by commas (RFC 9110 11.6.1); a new challenge begins where a name is not followed by
// an equals sign.
func challenges(headers []string) []string {
	var list []string
	for _, header := range headers {
		var own []string // of this header
		for _, item := range splitUnquoted(header) {
			name, rest, spaced := strings.Cut(item, " ")
			parameter := strings.Contains(name, "=") || (spaced && strings.HasPrefix(strings.TrimSpace(rest), "="))
			if parameter && len(own) > 0 {
				own[len(own)-1] += ", " + item
			} else {
				own = append(own, item)
			}
		}
		list = slices.Concat(list, own)
	}
	return list
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
