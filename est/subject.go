package est

import (
	"crypto/x509"
	"fmt"
	"slices"
)

// compareSubject decides on the subject of an issued certificate. A CA may leave attributes out and add some (many keep
// the common name alone): a warning. It may not put another value in place of one that was asked for, nor a common
// name beside it, since consumers tell devices apart by these. Where no common name was asked for, the CA's choice
// stands.
func compareSubject(wanted []attribute, leaf *x509.Certificate) (warnings []string, err error) {
	got, err := parseName(leaf.RawSubject)
	if err != nil {
		return nil, notAcceptablef("", "issued certificate: %v", err)
	}
	var missing, added, chosen []string
	for _, oid := range typesOf(wanted, got) {
		w, g := ofType(wanted, oid), ofType(got, oid)
		lost, extra := lessSame(w, g), lessSame(g, w)
		replaced := len(w) > 0 && len(extra) > 0 && len(extra) == len(g)
		if oid == oidCommonName.String() {
			replaced = len(w) > 0 && len(extra) > 0
			if len(w) == 0 {
				chosen, extra = texts(extra), nil
			}
		}
		if replaced {
			return nil, notAcceptablef("have the CA issue the subject that is asked for, or ask for what it issues",
				"issued certificate has %s, asked was %s", quoteList(texts(extra)), quoteList(texts(w)))
		}
		missing = append(missing, texts(lost)...)
		added = append(added, texts(extra)...)
	}
	if len(chosen) > 0 {
		warnings = append(warnings, "the CA chose the common name: "+quoteList(chosen))
	}
	if len(missing) > 0 {
		warnings = append(warnings, "the CA left out of the subject: "+quoteList(missing))
	}
	if len(added) > 0 {
		warnings = append(warnings, "the CA added to the subject: "+quoteList(added))
	}
	for _, w := range wanted {
		i := slices.IndexFunc(got, w.same)
		if i >= 0 && !slices.Contains(got, w) {
			warnings = append(warnings, fmt.Sprintf("the CA rewrote %v as %v", w, got[i]))
		}
	}
	return warnings, nil
}

// typesOf returns the attribute types in names, each once, in order of appearance.
func typesOf(names ...[]attribute) []string {
	var oids []string
	for _, a := range slices.Concat(names...) {
		if !slices.Contains(oids, a.oid) {
			oids = append(oids, a.oid)
		}
	}
	return oids
}

func ofType(name []attribute, oid string) []attribute {
	var list []attribute
	for _, a := range name {
		if a.oid == oid {
			list = append(list, a)
		}
	}
	return list
}

// lessSame returns the attributes of a that match none of b.
func lessSame(a, b []attribute) []attribute {
	var rest []attribute
	for _, x := range a {
		if !slices.ContainsFunc(b, x.same) {
			rest = append(rest, x)
		}
	}
	return rest
}

func texts(attributes []attribute) []string {
	list := make([]string, len(attributes))
	for i, a := range attributes {
		list[i] = a.String()
	}
	return list
}
