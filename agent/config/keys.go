package config

import "strings"

// use says what certagent makes of a key.
type use uint8

const (
	used       use = iota
	passedOver     // aziot's, and not certagent's business: named in a warning, whatever stands in it
	refused        // would be read otherwise than it is meant: an error that says what to write
)

// key is one row of the table of all keys that may stand in a configuration. docs/from-aziot.md and
// docs/configuration.md list the same rows, and tests hold the three together.
type key struct {
	name    string // "<…>" stands for any name
	types   kind
	use     use
	ours    bool   // certagent's own; aziot does not know it
	example string // a good value, for messages about a wrong type
	advice  string // what to do instead: of a refused key, or of a value of a wrong type
	under   []key  // of a table, and of the tables in a list
	shared  string // the name under which the documentation describes tables with the same keys
}

func (k key) wild() bool { return strings.HasPrefix(k.name, "<") }

func text(name, example string) key {
	return key{name: name, types: kindString, example: quoted(example)}
}
func list(name, example string) key { return key{name: name, types: kindArray, example: example} }
func boolean(name string) key       { return key{name: name, types: kindBoolean, example: "true"} }
func number(name, example string) key {
	return key{name: name, types: kindInteger, example: example}
}

func table(name string, under ...key) key {
	return key{name: name, types: kindTable, under: under}
}

func rows(name string, under ...key) key {
	return key{name: name, types: kindArray, under: under}
}

// as names the description that tables with the same keys share.
func (k key) as(shared string) key { k.shared = shared; return k }

// own marks a key, and all below it, as certagent's.
func own(k key) key {
	k.ours = true
	under := make([]key, len(k.under))
	for i, u := range k.under {
		under[i] = own(u)
	}
	if k.under != nil {
		k.under = under
	}
	return k
}

func others(names ...string) []key {
	ks := make([]key, len(names))
	for i, name := range names {
		ks[i] = key{name: name, use: passedOver}
	}
	return ks
}

func wrong(advice string, names ...string) []key {
	ks := make([]key, len(names))
	for i, name := range names {
		ks[i] = key{name: name, use: refused, advice: advice}
	}
	return ks
}

// misplaced are the keys of a login directly in [cert_issuance.est], where aziot-certd's own file has them.
func misplaced(login []key) []key {
	ks := make([]key, len(login))
	for i, k := range login {
		ks[i] = key{name: k.name, use: refused, ours: k.ours, advice: "write it in [cert_issuance.est.auth]"}
	}
	return ks
}

func join(lists ...[]key) []key {
	var all []key
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// allKeys is the table of all keys.
func allKeys() key {
	return table("", join(
		[]key{
			own(text("state_dir", "/var/lib/certagent")),
			own(text("run_dir", "/run/certagent")),
			own(table("log", text("level", "info"), text("format", "auto"))),
			own(table("metrics", text("textfile", "/var/lib/node_exporter/certagent.prom"),
				text("listen", "127.0.0.1:9470"))),
			own(table("control", text("socket", "/run/certagent/control.sock"))),
			own(table("clock", boolean("check"))),
			provisioningKeys(),
			table("edge_ca", join(certificateKeys(),
				others("cert", "pk", "auto_generated_edge_ca_expiry_days"))...).as("certificate"),
			table("cert_issuance", append([]key{estKeys(),
				own(certsKey()),
			}, append(others("local_ca"), wrong("this is the shape of aziot-certd's own file; "+
				"write [cert_issuance.certs.<id>]", "<id>")...)...)...),
		},
		others(
			"hostname", "local_gateway_hostname", "parent_hostname", "cloud_timeout_sec", "cloud_retries",
			"prefer_module_identity_cache", "aziot_max_requests", "dps_trust_bundle", "localid", "aziot_keys",
			"preloaded_keys", "preloaded_certs", "tpm", "endpoints",
			"trust_bundle_cert", "manifest_trust_bundle_cert", "auto_reprovisioning_mode",
			"imported_master_encryption_key", "allow_elevated_docker_permissions", "additional_info",
			"iotedge_max_requests", "agent", "connect", "listen", "watchdog", "moby_runtime",
			"image_garbage_collection",
		),
		wrong("this is a key of aziot-certd's or another daemon's own file; certagent reads the shape of "+
			"/etc/aziot/config.toml", "homedir_path", "max_requests", "principal"),
	)...)
}

// certsKey is the table of all other certificates, by id.
func certsKey() key {
	certs := table("certs", table("<id>", certificateKeys()...).as("certificate"))
	certs.advice = "write [cert_issuance.certs.<id>] for each certificate"
	certs.under[0].advice = certs.advice
	return certs
}

func provisioningKeys() key {
	return table("provisioning",
		text("source", "dps"),
		text("global_endpoint", "https://global.azure-devices-provisioning.net"),
		text("id_scope", "0ne00000000"),
		table("payload", text("uri", "file:///etc/certagent/payload.json")),
		own(text("endpoint", "example-ats.iot.eu-central-1.amazonaws.com")),
		own(text("client_id", "gateway-7")),
		own(number("port", "8883")),
		own(list("trusted_certs", `["file:///etc/certagent/trust/cloud.pem"]`)),
		key{name: "connection_string", use: passedOver},
		key{name: "iothub_hostname", use: passedOver},
		key{name: "device_id", use: passedOver},
		table("attestation", append([]key{text("method", "x509"), text("registration_id", "gateway-7"),
			identityCertKey(), identityPKKey()}, others("symmetric_key")...)...),
		table("authentication", append([]key{text("method", "x509"), identityCertKey(), identityPKKey()},
			others("device_id_pk")...)...),
	)
}

// identityCertKey is the certificate device-id: a table, or the place of a certificate that certagent leaves alone.
func identityCertKey() key {
	k := table("identity_cert", certificateKeys()...).as("certificate")
	k.types |= kindString
	k.example = `{ method = "est", common_name = "gateway-7" }`
	return k
}

func identityPKKey() key { return key{name: "identity_pk", use: passedOver} }

func estKeys() key {
	return table("est", append([]key{
		list("trusted_certs", `["file:///etc/certagent/trust/est-ca.pem"]`),
		own(boolean("system_roots")),
		own(text("bootstrap_fingerprint", "9f86d081884c7d65…")),
		own(text("timeout", "60s")),
		own(boolean("csrattrs")),
		own(boolean("link_identity")),
		own(list("redirect_hosts", `["est2.example"]`)),
		table("auth", authKeys()...).as("auth"),
		table("identity_auto_renew", renewKeys()...).as("auto_renew"),
		table("urls", text("<id>", "https://est.example/.well-known/est")),
	}, misplaced(authKeys())...)...)
}

func authKeys() []key {
	const dir = "file:///etc/certagent/bootstrap/"
	return []key{
		text("username", "estuser"), text("password", "…"), own(text("password_file", "credential:est-password")),
		text("identity_cert", dir+"est-id.pem"), text("identity_pk", dir+"est-id.key.pem"),
		text("bootstrap_identity_cert", dir+"device.pem"), text("bootstrap_identity_pk", dir+"device.key.pem"),
	}
}

func renewKeys() []key {
	return []key{
		boolean("rotate_key"), text("threshold", "80%"), text("retry", "4%"),
		own(text("jitter", "2%")), own(boolean("enabled")), own(text("first_renewal", "threshold")),
	}
}

func certificateKeys() []key {
	attribute := text("<attribute>", "Example Ltd")
	attribute.advice = `write a string; for two of one kind write subject = [["OU", "one"], ["OU", "two"]]`
	subject := table("subject", attribute)
	subject.types |= kindArray
	subject.example = `{ CN = "gateway-7", O = "Example Ltd" }`
	outputs := rows("outputs", text("format", "fullchain"), text("path", "/etc/mosquitto/certs/gateway.pem"),
		text("owner", "mosquitto"), text("group", "mosquitto"), text("mode", "0640"),
		text("password_file", "/etc/certagent/p12-password"))
	renewal := table("auto_renew", renewKeys()...).as("auto_renew")
	renewal.advice = "write auto_renew = { enabled = false } to have it never renewed by threshold"
	return join([]key{
		text("method", "est"),
		text("common_name", "gateway-7"), subject,
		own(text("common_name_from", "hostname")),
		own(list("san", `["dns:gateway-7.example"]`)),
		own(list("usage", `["client"]`)),
		own(text("key", "ec-p256")),
		own(boolean("server_key")),
		text("url", "https://est.example/.well-known/est"),
		own(text("renew_url", "https://est.example/.well-known/est")),
		own(text("renew_with", "self")),
		own(text("timeout", "60s")),
	}, authKeys(), []key{
		{name: "expiry_days", use: passedOver},
		renewal,
		own(text("group", "mosquitto")),
		own(text("key_mode", "0640")),
		own(outputs),
		own(table("on_renew",
			list("exec", `[["/usr/bin/logger", "renewed"]]`),
			list("reload", `["mosquitto.service"]`),
			list("restart", `["mosquitto.service"]`),
			text("timeout", "60s"),
		)),
	})
}
