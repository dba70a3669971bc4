package agent

import (
	"errors"
	"testing"

	"github.com/rs/zerolog"

	"certagent/est"
)

// A person is called for what does not mend itself, and for what has gone on until the certificate expired over it.
func TestAttemptLevel(t *testing.T) {
	class := func(class error) error { return &est.Error{Op: opEnroll, Class: class} }
	for _, tc := range []struct {
		name           string
		err            error
		valid, expired zerolog.Level
	}{
		{"no answer", class(est.ErrUnavailable), zerolog.WarnLevel, zerolog.ErrorLevel},
		{"202", class(est.ErrPending), zerolog.WarnLevel, zerolog.WarnLevel},
		{"refused", class(est.ErrUnauthorized), zerolog.ErrorLevel, zerolog.ErrorLevel},
		{"rejected", class(est.ErrRejected), zerolog.ErrorLevel, zerolog.ErrorLevel},
		{"not trusted", class(est.ErrUntrusted), zerolog.ErrorLevel, zerolog.ErrorLevel},
		{"not acceptable", class(est.ErrBadResponse), zerolog.ErrorLevel, zerolog.ErrorLevel},
		{"nobody can log in", noIdentity(nil), zerolog.ErrorLevel, zerolog.ErrorLevel},
		{"the disk", storeFailure("write", errors.New("no space")), zerolog.ErrorLevel, zerolog.ErrorLevel},
		{"a mistake of ours", errors.New("panic: 1"), zerolog.ErrorLevel, zerolog.ErrorLevel},
	} {
		v := judge(tc.err)
		if valid, expired := attemptLevel(v, false), attemptLevel(v, true); valid != tc.valid || expired != tc.expired {
			t.Errorf("%s: %v, %v when expired; want %v, %v", tc.name, valid, expired, tc.valid, tc.expired)
		}
	}
}
