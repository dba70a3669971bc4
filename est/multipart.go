package est

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime"
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

// splitMultipart returns the two parts of a multipart/mixed body (RFC 2046 5.1.3), which must not be larger than
// answerLimit. Content-Transfer-Encoding is not looked at, as RFC 8951 3 has it. One of the parts is a key, so no error
// quotes the body.
func splitMultipart(contentType string, body []byte) (two [2]part, err error) {
	mediaType, parameters, err := mime.ParseMediaType(contentType)
	if err != nil || mediaType != "multipart/mixed" || parameters["boundary"] == "" {
		return two, fmt.Errorf("it is of type %s, not multipart/mixed with a boundary", quoteType(contentType))
	}
	reader := multipart.NewReader(bytes.NewReader(body), parameters["boundary"])
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
