// Package cmd is where people stand: flags, wiring and printing, and the
// daemon's start and stop. It holds no rule that another program would need.
package cmd

import (
	"os"
	"strings"

	"saltpeter/wrapper"
)

// Main is the program. It returns the exit code.
//
// wrap is looked for before anything else is set up: it starts once for every
// task of every run. Called with no arguments and a server to dial, the binary
// is a wrapper too, so that an older server can use it as its wrapper_path.
func Main() int {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "wrap" {
		return wrapper.Main(args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr)
	}
	if len(args) == 0 && hasEnv("SP_WEBSOCKET_URL") {
		return wrapper.Main(nil, os.Environ(), os.Stdin, os.Stdout, os.Stderr)
	}
	return execute(args, os.Stdin, os.Stdout, os.Stderr)
}

func hasEnv(name string) bool {
	for _, kv := range os.Environ() {
		if k, v, _ := strings.Cut(kv, "="); k == name && v != "" {
			return true
		}
	}
	return false
}
