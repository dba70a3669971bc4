package agent

import "context"

// slots bounds how many of something run at once. Attempts wait in a queue, for they are not all the same.
type slots chan struct{}

// acquire waits for a free slot, or for the end of ctx, whose error it returns.
func (s slots) acquire(ctx context.Context) error {
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s slots) release() { <-s }
