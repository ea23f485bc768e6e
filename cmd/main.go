// Package cmd is where people stand: flags, wiring and printing, and the
// daemon's start and stop. It holds no rule that another program would need.
package cmd

import "os"

// Main is the program. It returns the exit code.
func Main() int {
	_ = os.Args
	return 0
}
