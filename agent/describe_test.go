package agent

import (
	"slices"
	"testing"

	"certagent/agent/config"
	"certagent/agent/status"
)

func TestOrderOfCertificates(t *testing.T) {
	identity, other := string(config.RoleESTIdentity), string(config.RoleDevice)
	all := []status.Certificate{
		{ID: "b-gone", Role: identity, State: status.Unmanaged},
		{ID: "c-gone", State: status.Unmanaged},
		{ID: "a-gone", State: status.Unmanaged},
		{ID: "mqtt", State: status.Valid},
		{ID: "device-id", Role: other, State: status.Missing},
		{ID: "est-id", Role: identity, State: status.Valid},
	}
	want := []string{"est-id", "device-id", "mqtt", "b-gone", "a-gone", "c-gone"}
	for range len(all) { // whatever comes first
		all = append(all[1:], all[0])
		sorted := slices.Clone(all)
		sortCertificates(sorted)
		var got []string
		for _, c := range sorted {
			got = append(got, c.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
