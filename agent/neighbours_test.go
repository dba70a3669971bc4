package agent

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"certagent/agent/config"
)

// TestNeighboursOfTheConfiguration: files beside the configuration that are never quiet neither reload it nor keep a saved one
// from being read, and cost the server nothing.
func TestNeighboursOfTheConfiguration(t *testing.T) {
	t.Parallel()
	d := newDevice(t, day, oneCertificate)
	file := filepath.Join(d.dir, "config.toml")
	loads := make(chan struct{}, 1000)
	d.change = func(o *Options) {
		o.Config.File = file
		load := o.Load
		o.Load = func() (*config.Config, error) {
			loads <- struct{}{}
			return load()
		}
	}
	a, stop := d.boot()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	watching := make(chan error, 1)
	go func() { watching <- a.Watch(ctx) }() // ends with ctx
	churned := make(chan int)
	go func() { // ends with ctx
		n := 0
		for ; ctx.Err() == nil; n++ {
			neighbour := filepath.Join(d.dir, "neighbour")
			if err := os.WriteFile(neighbour+".new", []byte{byte(n)}, 0o644); err != nil {
				t.Error(err)
			}
			if err := os.Rename(neighbour+".new", neighbour); err != nil {
				t.Error(err)
			}
			time.Sleep(time.Millisecond) // nothing waits for this; it only leaves the others a processor
		}
		churned <- n
	}()
	saves := 0
	for read := false; !read; saves++ {
		if saves == 10 {
			t.Fatal("saved ten times, and never read")
		}
		writeFile(t, file, []byte(d.text))
		select {
		case <-loads:
			read = true
		case <-time.After(5 * time.Second): // it may have been saved before anybody watched
		}
	}
	cancel()
	if err := <-watching; err != nil {
		t.Error(err)
	}
	n := <-churned
	stop()
	if more := len(loads); more > saves {
		t.Errorf("%d neighbours were written and %d configurations saved: it was read %d times more", n, saves, more)
	}
	if calls := len(d.ca.seen()); calls != 1 {
		t.Errorf("%d requests, want 1", calls)
	}
}
