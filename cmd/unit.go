package cmd

import (
	"context"
	"math"
	"os"
	"os/exec"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// warnOfUnit says so when the unit that this server runs under would end every
// local job together with it: systemd's default does.
func (d *daemon) warnOfUnit(ctx context.Context) {
	if os.Getenv("INVOCATION_ID") == "" {
		return
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return
	}
	unit := unitOf(string(data))
	if unit == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--property", "KillMode", "--value", unit).Output()
	if mode := strings.TrimSpace(string(out)); err == nil && mode != "process" && mode != "none" {
		d.log.Warn("a restart of this unit would end every job on this machine; add KillMode=process to it, as packaging/saltpeter.service has it", "unit", unit, "kill_mode", mode)
	}
}

// unitOf finds the service in the lines of /proc/self/cgroup.
func unitOf(cgroups string) string {
	for line := range strings.Lines(cgroups) {
		_, where, _ := strings.Cut(strings.TrimSpace(line), "::")
		for ; where != "" && where != "/" && where != "."; where = path.Dir(where) {
			if unit := path.Base(where); strings.HasSuffix(unit, ".service") {
				return unit
			}
		}
	}
	return ""
}

// keepDescriptors keeps what the server was started with from wrappers and jobs: a lock
// of the script that started it would be held for as long as they live, and a file
// that another user must not read could be read by his job. Kernels before 5.11 do not
// know the call, and leave it as it is.
func keepDescriptors() {
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
}
