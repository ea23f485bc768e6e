package launch

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"saltpeter/testdata/lab"
	"saltpeter/wsx/wire"
)

const killRounds = 15

// killTimes are what a kill took until the process was gone, and until the answer
// with its proof was there.
type killTimes struct{ gone, proof []float64 }

// round kills one job whose wrapper is dead.
func (x *killTimes) round(b *testing.B, kill func(*task) error) {
	b.Helper()
	k := startTask(b, "exec sleep 300", taskOptions{})
	k.awaitMembers(1)
	k.loseWrapper()
	began := time.Now()
	gone := make(chan float64, 1)
	go func() {
		for time.Since(began) < patient {
			if p, ok := lookAt(k.id.PID); !ok || !p.alive() || p.start != k.id.StartTicks {
				break
			}
			time.Sleep(200 * time.Microsecond)
		}
		gone <- milliseconds(began)
	}()
	if err := kill(k); err != nil {
		b.Fatal(err)
	}
	x.proof = append(x.proof, milliseconds(began))
	x.gone = append(x.gone, <-gone)
}

func milliseconds(since time.Time) float64 { return float64(time.Since(since).Microseconds()) / 1000 }

func percentile(of []float64, p int) float64 {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[min(len(sorted)-1, len(sorted)*p/100)]
}

// scripted kills over a transport, and wants the proof.
func scripted(tr Transport, m Machine) func(*task) error {
	return func(k *task) error {
		res, err := tr.Script(context.Background(), m, k.request(OpKill))
		if err == nil && res.Outcome != wire.OutcomeGone {
			err = fmt.Errorf("the answer is %s", res.Text)
		}
		return err
	}
}

// BenchmarkKillOverSSH ends jobs over a connection that is there and over one that is
// not, beside OpenSSH's own multiplexing, which is asked for one bare kill.
func BenchmarkKillOverSSH(b *testing.B) {
	ssh, env, err := lab.Foreign("ssh", "openssh-client", "usr/bin/ssh")
	if err != nil {
		b.Skipf("no ssh here: %v", err)
	}
	d := lab.SSHD(b, lab.SSHDOptions{Config: []string{"MaxStartups 100"}})
	m := Machine{Name: "there", Transport: "ssh", SSH: login(d)}
	open := func() Transport { return NewSSH(SSHOptions{Client: sshClient(b, d), Executable: self(b)}) }

	dir, err := os.MkdirTemp("", "sp") // a control socket's path must be short
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(dir)
	multiplexed := func(args ...string) *exec.Cmd {
		user := "root"
		if d.World == nil {
			user = d.User
		}
		all := []string{"-F", "none", "-i", d.Key, "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=" + d.KnownHosts, "-o", "BatchMode=yes",
			"-o", "ControlPath=" + filepath.Join(dir, "c"), "-p", strconv.Itoa(d.Port), "-l", user}
		cmd := exec.Command(ssh, append(all, args...)...)
		cmd.Env = append(os.Environ(), env...)
		return cmd
	}
	if out, err := multiplexed("-M", "-f", "-N", "127.0.0.1").CombinedOutput(); err != nil {
		b.Fatalf("ssh -M: %v: %s", err, out)
	}
	defer multiplexed("-O", "exit", "127.0.0.1").Run()

	warm := open()
	defer warm.Close()
	if _, err := warm.Script(context.Background(), m, ScriptRequest{Op: OpCheck, Task: "nobody"}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		var ours, theirs, cold killTimes
		for range killRounds {
			ours.round(b, scripted(warm, m))
			theirs.round(b, func(k *task) error { return multiplexed("127.0.0.1", "kill", strconv.Itoa(k.id.PID)).Run() })
			fresh := open()
			cold.round(b, scripted(fresh, m))
			fresh.Close()
		}
		b.ReportMetric(percentile(ours.gone, 50), "gone:ours-ms")
		b.ReportMetric(percentile(theirs.gone, 50), "gone:baseline-ms")
		b.ReportMetric(1.5, "gone:reach")
		for name, f := range map[string]struct {
			times []float64
			reach float64
		}{"warm-gone-p95-ms": {ours.gone, 100}, "warm-proof-p95-ms": {ours.proof, 500}, "cold-gone-p95-ms": {cold.gone, 600}, "cold-proof-p95-ms": {cold.proof, 0}} {
			b.ReportMetric(percentile(f.times, 95), name)
			if f.reach > 0 {
				b.ReportMetric(f.reach, name+":reach")
			}
		}
	}
}
