// Command bare is the least that a Go program can do: it opens the file that it
// is given and writes one byte. The benchmarks measure ours against its start.
package main

import "os"

func main() {
	f, err := os.OpenFile(os.Args[1], os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString("x")
	}
	if err != nil {
		os.Exit(1)
	}
}
