package est

import (
	"errors"
	"fmt"
)

// element is one value in BER (X.690 8).
type element struct {
	tag      byte   // the first identifier octet: class, whether it is constructed, and the number
	contents []byte // without the end mark of an indefinite length
	raw      []byte // all of it
}

// Identifier octets (X.690 8.1.2) of what is looked for in an answer.
const (
	tagInteger      = 0x02
	tagOctetString  = 0x04
	tagOID          = 0x06
	tagSequence     = 0x30
	tagSet          = 0x31
	tagContext0     = 0x80 // [0], primitive
	tagContext0Cons = 0xa0 // [0], constructed
)

const constructed = 0x20

// Bounds on a value in BER that somebody else sent.
const (
	depthLimit   = 32      // nesting
	elementLimit = 1 << 16 // values in all
)

// readElement returns the value at the head of b and what stands behind it. What b is part of has been through
// checkNesting: that is what bounds the work.
func readElement(b []byte) (e element, rest []byte, err error) {
	left := elementLimit
	n, err := skipElement(b, 1, &left)
	if err != nil {
		return element{}, nil, err
	}
	head, length, err := readHeader(b)
	if err != nil {
		return element{}, nil, err
	}
	end := n
	if length < 0 {
		end -= 2
	}
	return element{tag: b[0], contents: b[head:end], raw: b[:n]}, b[n:], nil
}

// children returns the values that e is made of.
func (e element) children() ([]element, error) {
	if e.tag&constructed == 0 {
		return nil, fmt.Errorf("ASN.1: value with tag %#x, which has no values inside", e.tag)
	}
	var list []element
	for rest := e.contents; len(rest) > 0; {
		child, after, err := readElement(rest)
		if err != nil {
			return nil, err
		}
		list, rest = append(list, child), after
	}
	return list, nil
}

// octets returns the bytes of an OCTET STRING, under whichever tag, which BER may send in pieces (X.690 8.7).
func (e element) octets() ([]byte, error) {
	if e.tag&constructed == 0 {
		return e.contents, nil
	}
	pieces, err := e.children()
	if err != nil {
		return nil, err
	}
	var whole []byte
	for _, piece := range pieces {
		if piece.tag&^constructed != tagOctetString {
			return nil, fmt.Errorf("ASN.1: piece of an OCTET STRING with tag %#x", piece.tag)
		}
		octets, err := piece.octets()
		if err != nil {
			return nil, err
		}
		whole = append(whole, octets...)
	}
	return whole, nil
}

// checkNesting walks the BER encoding at the head of b and fails on one that is cut short, nested too deep, or of too
// many elements. What follows the first value is not looked at.
func checkNesting(b []byte) error {
	left := elementLimit
	_, err := skipElement(b, 1, &left)
	return err
}

var errCutShort = errors.New("ASN.1: cut short")

// skipElement returns how many bytes the value at the head of b takes. depth is that of the value itself, left the
// number of elements that may still come.
func skipElement(b []byte, depth int, left *int) (int, error) {
	if depth > depthLimit {
		return 0, fmt.Errorf("ASN.1: nested deeper than %d", depthLimit)
	}
	if *left--; *left < 0 {
		return 0, fmt.Errorf("ASN.1: more than %d values", elementLimit)
	}
	head, length, err := readHeader(b)
	if err != nil {
		return 0, err
	}
	indefinite := length < 0
	if b[0]&constructed == 0 {
		if indefinite {
			return 0, errors.New("ASN.1: primitive value of indefinite length")
		}
		return head + length, nil
	}
	at, end := head, len(b)
	if !indefinite {
		end = head + length
	}
	for at < end {
		if indefinite && end-at >= 2 && b[at] == 0 && b[at+1] == 0 {
			return at + 2, nil
		}
		n, err := skipElement(b[at:end], depth+1, left)
		if err != nil {
			return 0, err
		}
		at += n
	}
	if indefinite {
		return 0, errCutShort
	}
	return end, nil
}

// readHeader returns the size of the tag and length at the head of b, and the length they give: -1 for an indefinite
// one, else one that b can hold.
func readHeader(b []byte) (head, length int, err error) {
	if len(b) < 2 {
		return 0, 0, errCutShort
	}
	head = 1
	const highTag = 0x1f
	if b[0]&highTag == highTag {
		for head < len(b) && b[head]&0x80 != 0 {
			head++
		}
		head++
	}
	if head >= len(b) {
		return 0, 0, errCutShort
	}
	first := b[head]
	head++
	switch {
	case first < 0x80:
		length = int(first)
	case first == 0x80:
		return head, -1, nil
	default:
		n := int(first & 0x7f)
		if len(b)-head < n {
			return 0, 0, errCutShort
		}
		for range n { // BER may begin with zeros
			if length > answerLimit>>8 {
				return 0, 0, errors.New("ASN.1: length of more than three bytes")
			}
			length = length<<8 | int(b[head])
			head++
		}
	}
	if length > len(b)-head {
		return 0, 0, errCutShort
	}
	return head, length, nil
}
