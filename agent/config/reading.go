package config

import (
	"slices"
	"strings"
)

// reading is one pass over the merged document. It collects every mistake and every warning, and never stops at one.
type reading struct {
	errs   Errors
	warns  []Warning
	passed []passed
	meant  map[string]bool     // keys that a misspelt one seems to mean: not reported as missing
	keys   key                 // all of them
	homes  map[string][]string // by name, the tables that have such a key; made when it is asked for
}

func newReading() *reading { return &reading{meant: map[string]bool{}, keys: allKeys()} }

// passed is a key that is not certagent's business.
type passed struct {
	key string
	at  Place
}

// check holds a table of the document against the table of keys.
func (r *reading) check(n *node, k key, path []string) {
	for _, name := range n.names {
		v, at := n.table[name], append(slices.Clone(path), name)
		row, known := find(k.under, name)
		if row.wild() && row.use == refused && Nearest(name, namesOf(k.under)) != "" {
			known = false
		}
		switch {
		case !known:
			r.unknown(v, at, k)
		case row.use == passedOver:
			r.passed = append(r.passed, passed{dotted(at), v.key})
		case row.use == refused:
			r.errs = append(r.errs, Error{Place: v.key, Key: dotted(at),
				Text: "certagent does not take this key here", Hint: row.advice})
		case v.kind&row.types == 0:
			r.wrongType(v, at, row)
		case v.kind == kindTable:
			r.check(v, row, at)
		case v.kind == kindArray && row.under != nil && row.types&kindTable == 0:
			for _, e := range v.list {
				if e.kind != kindTable {
					r.wrongType(e, at, row)
					continue
				}
				r.check(e, row, at)
			}
		}
	}
}

// find looks a name up among the keys of a table; a name of its own goes before "<any>".
func find(keys []key, name string) (key, bool) {
	i := slices.IndexFunc(keys, func(k key) bool { return k.name == name })
	if i < 0 {
		i = slices.IndexFunc(keys, key.wild)
	}
	if i < 0 {
		return key{}, false
	}
	return keys[i], true
}

func (r *reading) wrongType(v *node, path []string, row key) {
	e := Error{Place: v.at, Key: dotted(path), Text: "is " + v.kind.String() + ", and must be " + row.types.String()}
	if v.kind&(kindInteger|kindBoolean|kindOther) != 0 && !isSecret(path[len(path)-1]) {
		e.Value = shown(v)
	}
	switch {
	case row.advice != "":
		e.Hint = row.advice
	case row.types == kindArray && row.under != nil:
		e.Hint = "write [[" + dotted(path) + "]] above the keys of each"
	case row.example != "":
		e.Hint = "write " + dotted(path[len(path)-1:]) + " = " + row.example
	case row.types == kindTable:
		e.Hint = "write [" + dotted(path) + "] above its keys"
	}
	r.errs = append(r.errs, e)
}

// unknown reports a key that no row of the table names. Its value is not repeated: it may be a misspelt password.
func (r *reading) unknown(v *node, path []string, in key) {
	name := path[len(path)-1]
	e := Error{Place: v.key, Key: dotted(path), Text: "unknown key"}
	if near := Nearest(name, namesOf(in.under)); near != "" {
		e.Hint = "did you mean " + near + "?"
		r.meant[dotted(append(slices.Clone(path[:len(path)-1]), near))] = true
	} else if homes := r.homesOf(name); len(homes) > 0 {
		e.Hint = "it belongs " + strings.Join(homes, ", or ")
	}
	r.errs = append(r.errs, e)
}

func namesOf(keys []key) []string {
	var names []string
	for _, k := range keys {
		if !k.wild() && k.use != refused {
			names = append(names, k.name)
		}
	}
	return names
}

// homesOf are the tables that have a key of this name, with those that share a description named once.
func (r *reading) homesOf(name string) []string {
	if r.homes == nil {
		r.homes = map[string][]string{}
		r.findHomes(r.keys, nil)
	}
	homes := r.homes[name]
	slices.Sort(homes)
	return slices.Compact(homes)
}

func (r *reading) findHomes(in key, path []string) {
	for _, k := range in.under {
		if k.use == refused {
			continue
		}
		at := append(slices.Clone(path), k.name)
		switch k.shared {
		case "":
		case "certificate":
			at = []string{"cert_issuance.certs.<id>"}
		case "auth":
			at = []string{"cert_issuance.est.auth"}
		default:
			at = []string{"…." + k.shared}
		}
		home := "in [" + strings.Join(path, ".") + "]"
		if len(path) == 0 {
			home = "at the top of the file, before the first table"
		}
		r.homes[k.name] = append(r.homes[k.name], home)
		r.findHomes(k, at)
	}
}
