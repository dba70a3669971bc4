package dps

import (
	"encoding/json"
	"slices"
	"strings"

	"certagent/agent/onboard"
)

// quote is what of text may be kept: one printable line, bounded, and nothing of secrets in it.
func quote(text string, secrets []string) string {
	return onboard.Line(blot(onboard.Printable(blot(text, secrets)), secrets))
}

func blot(text string, secrets []string) string {
	for _, s := range secrets {
		text = strings.ReplaceAll(text, s, "[payload]")
	}
	return text
}

// leastSecret is from which length on a value of a payload is kept out of errors: anything shorter could be a part of
// any word.
const leastSecret = 4

// secretsOf are the values in a payload, whose text may come back in what a service or its webhook says about it:
// whole, as they are, and as JSON spells them.
func secretsOf(payload json.RawMessage) (secrets []string) {
	if payload == nil {
		return nil
	}
	add := func(s string) {
		if len(s) >= leastSecret {
			secrets = append(secrets, s)
		}
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			add(v)
			spelt, _ := json.Marshal(v)
			if inner := string(spelt[1 : len(spelt)-1]); inner != v {
				add(inner)
			}
		case json.Number:
			add(v.String())
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			for _, e := range v {
				walk(e)
			}
		}
	}
	add(string(payload))
	var v any
	d := json.NewDecoder(strings.NewReader(string(payload)))
	d.UseNumber()
	if d.Decode(&v) == nil {
		walk(v)
	}
	// The longest first: a short value may be a part of a long one.
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	return secrets
}
