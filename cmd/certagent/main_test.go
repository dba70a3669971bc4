package main

import (
	"os"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets this test binary be the program: "certagent" on the PATH of scripts and tests is the real main, run in a
// process of its own.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"certagent": main})
}

// TestScripts are the commands as a person types them; testdata/script/*.txtar read as their specification.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			// Whoever runs the tests may have these set for reasons of their own.
			for _, name := range []string{"STATE_DIRECTORY", "RUNTIME_DIRECTORY", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "HTTPS_PROXY"} {
				e.Setenv(name, "")
			}
			return os.MkdirAll(e.WorkDir+"/state", 0o755)
		},
	})
}
