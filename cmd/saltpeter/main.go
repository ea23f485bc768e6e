// Command saltpeter is the one binary: server, wrapper and command line.
package main

import (
	"os"

	"saltpeter/cmd"
)

func main() { os.Exit(cmd.Main()) }
