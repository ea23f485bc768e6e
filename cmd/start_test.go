package cmd

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// What a package of ours does before main, every wrapper pays for, used there or
// not: tables and patterns are laid out by the compiler, or made when they are first
// asked for. The ledger's table of changes and two tables of bytes are left.
func TestStartIsCheap(t *testing.T) {
	const most = 20 // allocations; the race detector adds some
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self, "wrap", "--version")
	c.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	var trace strings.Builder
	c.Stderr = &trace
	if err := c.Run(); err != nil {
		t.Fatal(err, trace.String())
	}
	line := regexp.MustCompile(`(?m)^init (\S+) .* (\d+) allocs$`)
	found := line.FindAllStringSubmatch(trace.String(), -1)
	if len(found) == 0 {
		t.Fatalf("no package says what it did: %s", trace.String())
	}
	for _, m := range found {
		name := m[1]
		if !strings.HasPrefix(name, "saltpeter/") || name == "saltpeter/cmd" || strings.HasPrefix(name, "saltpeter/testdata/") {
			continue // of the last two, tests have more than the program
		}
		if n, _ := strconv.Atoi(m[2]); n > most {
			t.Errorf("%s makes %d allocations before main, at most %d are allowed; see config/lazy.go", name, n, most)
		}
	}
}
