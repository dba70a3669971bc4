package onboard

// Class is a class of errors: what a caller acts on, and one of the causes that an error of a protocol wraps. Each protocol has
// variables of its own for its classes, to be tested with errors.Is; whoever wants the name of any has errors.AsType.
type Class struct {
	Name string // as logs have it
	Text string
}

// Error is the text of c.
func (c *Class) Error() string { return c.Text }
