package runner

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"saltpeter/testdata/oldwrapper"
	"saltpeter/wrapper"
)

// TestMain lets the test binary stand in for the real one where the local
// transport starts a wrapper.
func TestMain(m *testing.M) {
	if os.Getenv(oldwrapper.Role) != "" {
		oldwrapper.Main()
	}
	if os.Getenv(serverRole) != "" {
		serverMain()
	}
	if len(os.Args) > 1 && os.Args[1] == "wrap" {
		os.Exit(wrapper.Main(os.Args[2:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
	}
	goleak.VerifyTestMain(m)
}
