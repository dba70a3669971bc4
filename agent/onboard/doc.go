// Package onboard is what the protocols have in common by which a cloud gets to know a device certificate: how they reach
// it, the files in which they keep what came of it, and what of a stranger's text may stand in an error or pass for a name.
// Each protocol is a package below this one; none of them knows the others.
package onboard
