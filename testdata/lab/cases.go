package lab

import (
	"os"
	"testing"
)

// Case says which case of the catalogue a test is, and in which mode it runs; the
// table of `make kill-lab` is made of these. A case that several tests stand for
// has passed when all of them have.
func Case(t testing.TB, id, mode string) {
	t.Helper()
	t.Attr("case", id)
	t.Attr("mode", mode)
}

// Honest says that the case ends with a report of who lives, which an oracle has
// confirmed: not a kill that worked, but one that told the truth.
func Honest(t testing.TB, why string) {
	t.Helper()
	t.Attr("honest", why)
}

// Measured adds a number to the case's line of the table.
func Measured(t testing.TB, what string) {
	t.Helper()
	t.Attr("measured", what)
}

// KillLab says whether the whole catalogue is wanted, with its full sizes and its
// exact bounds (`make kill-lab`). Elsewhere order, truth and generous bounds count.
func KillLab() bool { return os.Getenv("SALTPETER_KILL_LAB") != "" }
