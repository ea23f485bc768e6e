package wrapper

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"saltpeter/testdata/lab"
	"saltpeter/wsx/wire"
)

// K27: an unprivileged wrapper whose job has become root by a real sudo. What runs
// as root may not be signalled, but sudo itself takes the signal and passes it on.
func TestKillSudo(t *testing.T) {
	lab.Case(t, "K27 sudo", "user")
	w := lab.NewWorld(t, lab.WorldOptions{
		Packages: []string{"sudo", "libapparmor1"},
		Etc: map[string]string{
			"sudoers":    "root ALL=(ALL:ALL) ALL\nspuser ALL=(ALL:ALL) NOPASSWD: ALL\n",
			"pam.d/sudo": "auth sufficient pam_permit.so\naccount sufficient pam_permit.so\nsession required pam_permit.so\n",
		},
	})
	user := w.Users["spuser"]
	as := []string{"--reuid", fmt.Sprint(user.UID), "--regid", fmt.Sprint(user.GID), "--clear-groups", "--"}
	if out, err := w.Command("", "setpriv", append(as, "sudo", "-n", "id", "-u")...).CombinedOutput(); err != nil || strings.TrimSpace(string(out)) != "0" {
		t.Skipf("no sudo that works here: %v: %s", err, out)
	}
	l := buildLab(t)
	l.via = func(name string) *exec.Cmd { return w.Command("", "setpriv", append(as, name)...) }
	m := mode{name: "user", uid: user.UID}
	bystander(t, m)
	r := l.newRig(t, m, order("echo up; sudo -n sleep 300; true")).open()
	r.printed("up")
	r.population(3)
	asRoot := false
	for _, p := range r.referee.living(r.cmd.Process.Pid) {
		pid, name, _ := strings.Cut(strings.TrimSuffix(p, ")"), "(")
		status, _ := os.ReadFile("/proc/" + pid + "/status")
		asRoot = asRoot || name == "sleep" && strings.Contains(string(status), "\nUid:\t0\t0\t0\t0\n")
	}
	if r.referee != nil && !asRoot {
		t.Errorf("the job is not root: %v", r.referee.living(r.cmd.Process.Pid))
	}
	r.send(rigCommand{Op: "kill", ID: "k", Cause: wire.CauseKill})
	rep := r.wait("report").Report
	if !rep.OK || rep.Outcome != wire.OutcomeGone || rep.Phase != wire.PhaseTerm || rep.Proof != wire.ProofECHILD || rep.ProcessesBefore < 3 {
		t.Errorf("report %+v", rep)
	}
	if _, gone := r.finish(); gone.Cause != wire.CauseKill {
		t.Errorf("end %+v", gone)
	}
}
