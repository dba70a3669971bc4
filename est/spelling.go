package est

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// shortestSpelling is how many bytes an encoding of a secret must have to be looked for: less would be found anywhere.
const shortestSpelling = 6

// spellings are the ways in which an answer could quote a secret: as it is, as it stands in a URL, in JSON, in a program's
// string or in a page, in hexadecimal, and in base64, also in the midst of something longer. The longest comes first, so that
// nothing is left of it.
func spellings(secret string) []string {
	all := []string{secret}
	also := func(s string) {
		if len(s) >= shortestSpelling && !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	also(url.QueryEscape(secret))
	also(url.PathEscape(secret))
	if quoted, err := json.Marshal(secret); err == nil {
		also(unquoted(string(quoted)))
	}
	also(unquoted(strconv.Quote(secret)))
	also(unquoted(strconv.QuoteToASCII(secret)))
	also(strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(secret))
	also(strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&#34;", "'", "&#39;").Replace(secret))
	also(strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;").Replace(secret))
	also(hex.EncodeToString([]byte(secret)))
	also(strings.ToUpper(hex.EncodeToString([]byte(secret))))
	for shift := range min(3, len(secret)) {
		// In base64, three bytes are four characters, wherever they stand.
		inside := secret[shift:]
		inside = inside[:len(inside)/3*3]
		also(base64.StdEncoding.EncodeToString([]byte(inside)))
		also(base64.URLEncoding.EncodeToString([]byte(inside)))
	}
	slices.SortStableFunc(all, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return all
}

func unquoted(s string) string { return s[1 : len(s)-1] }
