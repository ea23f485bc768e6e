package cmd

import "testing"

func TestUnitOf(t *testing.T) {
	for cgroups, want := range map[string]string{
		"0::/system.slice/saltpeter.service\n":                           "saltpeter.service",
		"0::/system.slice/saltpeter.service/wrap-1\n":                    "saltpeter.service",
		"9:name=systemd:/\n0::/\n":                                       "",
		"0::/user.slice/user-0.slice/session-1.scope\n":                  "",
		"4:memory:/x\n0::/user.slice/user@1.service/app.slice/a.service": "a.service",
	} {
		if got := unitOf(cgroups); got != want {
			t.Errorf("unitOf(%q) = %q, want %q", cgroups, got, want)
		}
	}
}
