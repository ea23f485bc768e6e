package wrapper

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain lets the test binary stand in for the real one: a test that needs a
// wrapper (or another program) starts itself again in a role.
func TestMain(m *testing.M) {
	switch os.Getenv("SALTPETER_TEST_ROLE") {
	case "":
		goleak.VerifyTestMain(m)
	case "wrapper":
		os.Exit(Main(os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
	}
}
