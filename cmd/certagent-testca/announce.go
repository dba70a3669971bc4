package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"path/filepath"
	"strings"

	"certagent/est/esttest"
)

// announce prints what to put into a config.toml for this server, as TOML from the first byte to the last.
func announce(w io.Writer, s *esttest.Server, o esttest.Options) {
	dir := filepath.Dir(s.CAFile())
	// A password of the user's own is not repeated.
	password := "password = " + quoted(o.Password)
	if o.Password != esttest.DefaultPassword {
		password = "# password = what --password says"
	}
	login := []string{"username = " + quoted(o.User), password}
	if o.Bootstrap != "" {
		if !o.AskPassword {
			for i, line := range login {
				login[i] = "# " + strings.TrimPrefix(line, "# ")
			}
			login = append([]string{"# or, in place of the bootstrap certificate:"}, login...)
		}
		login = append([]string{
			"bootstrap_identity_cert = " + quoted(fileURI(filepath.Join(dir, "bootstrap.pem"))),
			"bootstrap_identity_pk = " + quoted(fileURI(filepath.Join(dir, "bootstrap.key.pem"))),
		}, login...)
	}
	fmt.Fprintf(w, `# FOR TESTS ONLY: a throw-away CA and EST server. Its keys lie unprotected in %s,
# and it issues what anybody who can log in asks for. This belongs in config.toml:

[cert_issuance.est]
trusted_certs = [%s]

[cert_issuance.est.auth]
%s

[cert_issuance.est.urls]
default = %s

`, oneLine(dir), quoted(fileURI(s.CAFile())), strings.Join(login, "\n"), quoted(s.URL()))
}

// quoted is a basic string of TOML; one of JSON is that as well.
func quoted(s string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.Encode(s) // a string always can be
	return strings.TrimSuffix(b.String(), "\n")
}

// oneLine keeps a path with a line break in it from ending a comment.
func oneLine(s string) string {
	q := quoted(s)
	return q[1 : len(q)-1]
}

func fileURI(path string) string { return (&url.URL{Scheme: "file", Path: path}).String() }
