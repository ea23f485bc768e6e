package wrapper

import (
	"testing"

	"saltpeter/testdata/lab"
)

// TestKillCases runs the catalogue's cases in every mode that this machine allows.
// SALTPETER_KILL_LAB=1 (make kill-lab) adds the long ones and holds the exact
// bounds.
func TestKillCases(t *testing.T) {
	l := buildLab(t)
	for _, m := range modes(t) {
		t.Run(m.name, func(t *testing.T) {
			bystander(t, m)
			t.Run("shapes", func(t *testing.T) { testShapes(t, l, m) })
			if m.name == "root" && !killLab() {
				return // another user and a cgroup are what makes a difference there
			}
			t.Run("times", func(t *testing.T) { testTimes(t, l, m) })
			t.Run("starts", func(t *testing.T) { testStarts(t, l, m) })
		})
	}
}

// killLab says whether the long cases are wanted.
func killLab() bool { return lab.KillLab() }
