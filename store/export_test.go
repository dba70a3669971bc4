package store

// For tests in package store_test.
var (
	ParseCertificates  = parseCertificates
	EncodeCertificates = encodeCertificates
	ParseRetry         = parseRetry
	ParseDelivery      = parseDelivery
	ParsePending       = parsePending
	ParseMeta          = parseMeta
	EncodeJSON         = encodeJSON
)
