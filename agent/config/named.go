package config

import "slices"

// NamedFile is a file that the configuration names, for whoever looks at it as another user would.
type NamedFile struct {
	Place Place  // where it is named
	Key   string // dotted
	Path  string
	// Secret is set for a private key or a password; Config for a file of the configuration that has a password in it.
	Secret, Config bool
}

// NamedFiles are the files that the configuration names, in the order of the files, each path once: those that serve all, and those
// of its Certificates. Outputs, and credentials that systemd hands over to the service alone, are left out.
func (c *Config) NamedFiles() (all []NamedFile) {
	seen := map[string]int{}
	for _, f := range c.files {
		if f.certificate != "" && !slices.ContainsFunc(c.Certificates, func(k Certificate) bool { return k.ID == f.certificate }) {
			continue
		}
		if i, found := seen[f.path]; found {
			all[i].Secret, all[i].Config = all[i].Secret || f.secret, all[i].Config || f.config
			continue
		}
		seen[f.path] = len(all)
		all = append(all, NamedFile{Place: f.at, Key: f.key, Path: f.path, Secret: f.secret, Config: f.config})
	}
	return all
}
