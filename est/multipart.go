package est

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"strings"
)

// partHeaderLimit bounds the header of a part, in bytes.
const partHeaderLimit = 4 << 10

// part is one part of a multipart body.
type part struct {
	mediaType   string // in lower case, without parameters
	contentType string // as it stands in the part's header
	body        []byte
}

// boundaryOf returns the boundary parameter of a Content-Type header, "" if there is none. A boundary has neither quote
// nor semicolon in it (RFC 2046 5.1.1). With "=", ":" or "/" it needs quotes around it, which servers forget, and
// mime.ParseMediaType does not.
func boundaryOf(contentType string) string {
	for _, parameter := range strings.Split(contentType, ";")[1:] {
		name, value, _ := strings.Cut(parameter, "=")
		if strings.EqualFold(strings.TrimSpace(name), "boundary") {
			return strings.Trim(strings.TrimSpace(value), `"`)
		}
	}
	return ""
}

// splitMultipart returns the two parts of a multipart/mixed body (RFC 2046 5.1.3), which must not be larger than
// answerLimit. Content-Transfer-Encoding is not looked at, as RFC 8951 3 has it. One of the parts is a key, so no error
// quotes the body.
func splitMultipart(contentType string, body []byte) (two [2]part, err error) {
	if mediaTypeOf(contentType) != "multipart/mixed" {
		return two, fmt.Errorf("it is of type %s, not multipart/mixed", quoteType(contentType))
	}
	boundary := boundaryOf(contentType)
	if boundary == "" {
		return two, errors.New("it is of type multipart/mixed without a boundary")
	}
	reader := multipart.NewReader(bytes.NewReader(body), boundary)
	for n := 0; ; n++ {
		p, err := reader.NextRawPart()
		switch {
		case errors.Is(err, io.EOF) && n == len(two):
			return two, nil
		case errors.Is(err, io.EOF):
			return two, fmt.Errorf("%d parts in place of a key and a certificate", n)
		case err != nil:
			return two, fmt.Errorf("part %d has no header and no end that can be read", n+1) // err quotes what was read
		case n == len(two):
			return two, errors.New("more parts than a key and a certificate")
		}
		size := 0
		for name, values := range p.Header {
			size += len(name) + len(strings.Join(values, ""))
		}
		if size > partHeaderLimit {
			return two, fmt.Errorf("part %d has a header of more than %d bytes", n+1, partHeaderLimit)
		}
		two[n].contentType = p.Header.Get("Content-Type")
		two[n].mediaType = mediaTypeOf(two[n].contentType)
		if two[n].body, err = io.ReadAll(p); err != nil {
			return two, fmt.Errorf("part %d is cut short", n+1)
		}
	}
}
