package config

import (
	"slices"
	"strings"
	"testing"
)

// outputsOf are outputs of a certificate's table, as "format owner:group mode".
func outputsOf(table string, outputs ...string) string {
	var b strings.Builder
	for _, o := range outputs {
		words := strings.Fields(o)
		b.WriteString("[[" + table + ".outputs]]\nformat = \"" + words[0] + "\"\npath = \"/var/aziot/" + table + "." + words[0] + "\"\n")
		if len(words) > 1 {
			owner, group, _ := strings.Cut(words[1], ":")
			b.WriteString("owner = \"" + owner + "\"\ngroup = \"" + group + "\"\n")
		}
		if len(words) > 2 {
			b.WriteString("mode = \"" + words[2] + "\"\n")
		}
	}
	return b.String()
}

func TestAziot(t *testing.T) {
	t.Parallel()
	const id = "provisioning.attestation.identity_cert"
	dps := "[provisioning]\nsource = \"dps\"\nid_scope = \"0ne00000000\"\n"
	dev := "[" + id + "]\nmethod = \"est\"\ncommon_name = \"gw-1\"\n"
	edge := "[edge_ca]\nmethod = \"est\"\ncommon_name = \"gw-1-ca\"\n"
	manual := "[provisioning]\nsource = \"manual\"\niothub_hostname = \"hub.azure-devices.net\"\ndevice_id = \"gw-1\"\n"
	manualDev := "[provisioning.authentication.identity_cert]\nmethod = \"est\"\ncommon_name = \"gw-1\"\n"
	both := outputsOf(id, "fullchain root:aziotcs 0644", "key root:aziotks 0640")
	for _, c := range []struct {
		name, doc string
		want      string // the fragment
		advice    []string
		err       string
	}{
		{
			name: "dps", doc: dps + dev + both + urls,
			want: "[provisioning]\nsource = \"dps\"\nglobal_endpoint = \"https://global.azure-devices-provisioning.net\"\nid_scope = \"0ne00000000\"\n\n" +
				"[provisioning.attestation]\nmethod = \"x509\"\nregistration_id = \"gw-1\"\n" +
				"identity_cert = \"file:///var/aziot/" + id + ".fullchain\"\nidentity_pk = \"file:///var/aziot/" + id + ".key\"\n",
		},
		{
			name: "manual", doc: manual + manualDev + outputsOf("provisioning.authentication.identity_cert", "fullchain", "key aziotks:aziotks 0600") + urls,
			want: "[provisioning]\nsource = \"manual\"\niothub_hostname = \"hub.azure-devices.net\"\ndevice_id = \"gw-1\"\n\n" +
				"[provisioning.authentication]\nmethod = \"x509\"\nidentity_cert = \"file:///var/aziot/provisioning.authentication.identity_cert.fullchain\"\n" +
				"identity_pk = \"file:///var/aziot/provisioning.authentication.identity_cert.key\"\n",
		},
		{
			name: "edge CA alone, with the roots that modules trust, whose key IoT Edge may not read",
			doc:  edge + outputsOf("edge_ca", "ca", "fullchain", "key") + urls,
			want: "trust_bundle_cert = \"file:///var/aziot/edge_ca.ca\"\n\n[edge_ca]\ncert = \"file:///var/aziot/edge_ca.fullchain\"\n" +
				"pk = \"file:///var/aziot/edge_ca.key\"\n",
			advice: []string{"/var/aziot/edge_ca.key: user aziotks of IoT Edge may not read it; give that output owner = \"aziotks\""},
		},
		{
			name: "who may read: a number may be anybody's, and everybody may read a certificate but where a mode says else",
			doc:  edge + outputsOf("edge_ca", "ca root:root 0640", "fullchain+root", "key 998:998 0600") + urls,
			want: "trust_bundle_cert = \"file:///var/aziot/edge_ca.ca\"\n\n[edge_ca]\ncert = \"file:///var/aziot/edge_ca.fullchain+root\"\n" +
				"pk = \"file:///var/aziot/edge_ca.key\"\n",
			advice: []string{"/var/aziot/edge_ca.ca: user aziotcs of IoT Edge may not read it; give that output mode = \"0644\""},
		},
		{
			name: "files for another program come first",
			doc: edge + strings.ReplaceAll(outputsOf("edge_ca", "fullchain root:mosquitto 0640", "key root:mosquitto 0640"), "/var/aziot/", "/etc/mosquitto/") +
				outputsOf("edge_ca", "key aziotks:aziotks 0600", "fullchain") + urls,
			want: "[edge_ca]\ncert = \"file:///var/aziot/edge_ca.fullchain\"\npk = \"file:///var/aziot/edge_ca.key\"\n",
		},
		{
			name: "a certificate without its chain is no login", doc: edge + outputsOf("edge_ca", "cert", "key aziotks:aziotks 0600") + urls,
			err: `certificate aziot-edged-ca has no output of format "fullchain": IoT Edge reads files of its own`,
		},
		{name: "no outputs", doc: dps + dev + edge + urls, err: `certificate aziot-edged-ca has no output of format "fullchain": IoT Edge reads files of its own
certificate aziot-edged-ca has no output of format "key": IoT Edge reads files of its own
certificate device-id has no output of format "fullchain": IoT Edge reads files of its own
certificate device-id has no output of format "key": IoT Edge reads files of its own`},
		{name: "a blank and no chain", doc: strings.Replace(dps, "0ne00000000", "<SCOPE>", 1) + dev + outputsOf(id, "key") + urls,
			err: `id_scope "<SCOPE>" is still the blank of the tutorial
certificate device-id has no output of format "fullchain"`},
		{name: "a connection string", doc: "[provisioning]\nsource = \"manual\"\nconnection_string = \"HostName=hub;DeviceId=gw-1\"\n" + manualDev +
			outputsOf("provisioning.authentication.identity_cert", "fullchain", "key") + urls,
			err: `provisioning.iothub_hostname is missing, which IoT Edge needs for source = "manual" with a certificate: a connection_string has none
provisioning.device_id is missing`},
		{name: "nothing of it", doc: urls + mqtt, err: "there is nothing that IoT Edge could use"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fragment, advice, err := parse(t, c.doc).Aziot()
			if c.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), c.err) || fragment != nil {
					t.Errorf("got %q, %v, want %q", fragment, err, c.err)
				}
				return
			}
			if err != nil || string(fragment) != c.want || !slices.Equal(advice, c.advice) {
				t.Errorf("%v, %q\n%s\nwant %q\n%s", err, advice, fragment, c.advice, c.want)
			}
		})
	}
}
