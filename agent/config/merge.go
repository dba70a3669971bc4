package config

import "slices"

// merge lays over onto base: tables merge, lists of tables are joined, everything else is replaced. It reports a
// table that would replace a value, or be replaced by one.
func merge(base, over *node, path []string) (errs Errors) {
	for _, name := range over.names {
		from, to := over.table[name], base.table[name]
		at := append(slices.Clone(path), name)
		switch {
		case to == nil:
			base.set(name, from)
		case to.kind == kindTable && from.kind == kindTable:
			errs = append(errs, merge(to, from, at)...)
		case to.kind == kindTable || from.kind == kindTable:
			errs = append(errs, Error{
				Place: from.key, Key: dotted(at),
				Text: "is " + from.kind.String() + " here and " + to.kind.String() + " at " + to.key.String(),
				Hint: "write it the same way in both files",
			})
		case to.isRows() && from.isRows():
			to.list = append(to.list, from.list...)
		default:
			base.set(name, from)
		}
	}
	return errs
}
