package launch

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain is also the wrapper of these tests: the transport starts this program
// with `wrap --foreground`, as it would start the real one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "wrap":
			fakeWrapper()
			return
		case "reap":
			reap(os.Args[2:])
			return
		case "branded":
			branded(os.Args[2], os.Args[3])
			return
		}
	}
	goleak.VerifyTestMain(m)
}
