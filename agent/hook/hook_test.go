package hook_test

import (
	"slices"
	"testing"
	"time"

	"certagent/agent/hook"
)

func TestList(t *testing.T) {
	tests := []struct {
		name            string
		programs        [][]string
		reload, restart []string
		want            []string
	}{
		{name: "nothing"},
		{
			"programs as listed, then reloads, then restarts",
			[][]string{{"/bin/b", "x y", ""}, {"/bin/a"}, {"/bin/b", "x y", ""}}, []string{"z.service", "nginx.service"}, []string{"a.service"},
			[]string{`exec "/bin/b" "x y" ""`, `exec "/bin/a"`, `exec "/bin/b" "x y" ""`, "reload z.service", "reload nginx.service", "restart a.service"},
		},
		{
			"a unit once", nil, []string{"a.service", "b.service", "a.service"}, []string{"c.service", "c.service"},
			[]string{"reload a.service", "reload b.service", "restart c.service"},
		},
		{
			"what is restarted is not reloaded", nil, []string{"a.service", "b.service"}, []string{"a.service"},
			[]string{"reload b.service", "restart a.service"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, h := range hook.List(tt.programs, tt.reload, tt.restart, time.Minute) {
				got = append(got, h.String())
				if h.Timeout != time.Minute {
					t.Errorf("%v: timeout %v", h, h.Timeout)
				}
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
