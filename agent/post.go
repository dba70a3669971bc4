package agent

import (
	"context"
	"sync/atomic"
	"time"
)

// post is how the clock task and others reach a goroutine that owns something: mailboxes of one letter each, so that a
// sender never waits and letters that say the same are one.
type post struct {
	owner string // whom it reaches, for the log
	kick  chan struct{}
	// made is when the post was, and busy for how long it had been when the owner began what it does now, in nanoseconds; 0
	// while it waits for letters. The watchdog asks that: to have a thousand owners answer would wake them all.
	made time.Time
	busy *atomic.Int64
	// wake is when the clock task is to kick the owner, in Unix milliseconds; 0 means no time but only an event.
	wake *atomic.Int64
}

func newPost(owner string) post {
	return post{owner: owner, kick: make(chan struct{}, 1), made: time.Now(), busy: new(atomic.Int64), wake: new(atomic.Int64)}
}

// works says that the owner has something to do from now on, and waits that it waits for letters.
func (p post) works() { p.busy.Store(max(1, int64(time.Since(p.made)))) }
func (p post) waits() { p.busy.Store(0) }

// busyFor is how long the owner has been busy with one thing; 0 while it waits for letters.
func (p post) busyFor() time.Duration {
	since := p.busy.Load()
	if since == 0 {
		return 0
	}
	return time.Since(p.made) - time.Duration(since)
}

// wakeAt sets when the clock task is to kick the owner; the zero time means never.
func (p post) wakeAt(at time.Time) {
	next := int64(0)
	if !at.IsZero() {
		next = at.Add(time.Millisecond - 1).UnixMilli() // not nanoseconds: they end in the year 2262
	}
	p.wake.Store(next)
}

// rest waits for d, or for the end of ctx, and counts as waiting for letters: one owner that crashed is no reason to restart
// the daemon.
func (p post) rest(ctx context.Context, d time.Duration) {
	p.waits()
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// send puts a letter into a mailbox unless one is there already.
func send[T any](box chan T, letter T) {
	select {
	case box <- letter:
	default:
	}
}
