package hook

import (
	"strconv"
	"time"
)

// searchPath is what programs get as PATH.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Event is what a hook is run for: a certificate that is now live. No field is a secret. Paths are absolute; those of
// the generation's own directory never change their contents, whatever is renewed meanwhile.
type Event struct {
	ID         string // of the certificate
	Generation int
	Directory  string // of the generation
	// Files of the generation, in PEM.
	Cert, Chain, FullChain, CA string
	Key                        string // "" where the key is in no file
	Serial                     string // hex
	Fingerprint                string // SHA-256 of the certificate, hex
	NotAfter                   time.Time
	Reason                     string // why it was issued, as in the log: threshold, forced, missing and so on
}

// environment is all that a program gets: nothing is passed on, neither the service manager's socket (sd_notify(3)) nor
// its credentials (systemd.exec(5)), neither a proxy nor a locale. The values are unquoted; docs/operations.md lists
// the names.
func (e Event) environment() []string {
	return []string{
		"PATH=" + searchPath,
		"HOME=/",
		"LANG=C.UTF-8",
		"CERTAGENT_ID=" + e.ID,
		"CERTAGENT_GENERATION=" + strconv.Itoa(e.Generation),
		"CERTAGENT_DIRECTORY=" + e.Directory,
		"CERTAGENT_CERT=" + e.Cert,
		"CERTAGENT_CHAIN=" + e.Chain,
		"CERTAGENT_FULLCHAIN=" + e.FullChain,
		"CERTAGENT_CA=" + e.CA,
		"CERTAGENT_KEY=" + e.Key,
		"CERTAGENT_SERIAL=" + e.Serial,
		"CERTAGENT_FINGERPRINT=" + e.Fingerprint,
		"CERTAGENT_NOT_AFTER=" + e.NotAfter.UTC().Format(time.RFC3339),
		"CERTAGENT_REASON=" + e.Reason,
	}
}
