package launch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"saltpeter/testdata/lab"
)

// A pause with an end is ended on the machine by a process that belongs to nobody;
// one that was resumed before does not end the next.
func TestKillPauseEndsByItself(t *testing.T) {
	shells(t, func(t *testing.T, sh shell) {
		lab.Case(t, "pause --ttl", sh.name)
		k := startTask(t, "setsid sleep 300 & sleep 300", taskOptions{})
		k.awaitMembers(3)
		k.loseWrapper()
		stopped := func() bool {
			for _, p := range k.members() {
				if p.state != "T" {
					return false
				}
			}
			return true
		}
		short, long := k.request(OpPause), k.request(OpPause)
		short.TTL, long.TTL = time.Second, time.Hour
		if res := sh.ask(t, short); res.Acted != 3 || !stopped() {
			t.Fatalf("pause: %s", res.Text)
		}
		if n := len(timers(k)); n == 0 {
			t.Error("nobody counts")
		}
		eventually(t, "it goes on", func() bool {
			for _, p := range k.members() {
				if p.state == "T" {
					return false
				}
			}
			return len(k.members()) == 3
		})
		eventually(t, "the timer ends", func() bool { return len(timers(k)) == 0 })

		sh.ask(t, long)
		if n := len(timers(k)); n == 0 || !stopped() {
			t.Errorf("%d timers", n)
		}
		sh.ask(t, k.request(OpResume))
		eventually(t, "the timer is told", func() bool { return len(timers(k)) == 0 })
		sh.ask(t, long)
		if res := sh.ask(t, k.request(OpPause)); !stopped() {
			t.Errorf("pause: %s", res.Text)
		}
		eventually(t, "only the last pause counts", func() bool { return len(timers(k)) == 0 })
		if !stopped() {
			t.Error("the first pause's timer ended the second")
		}
		k.assertGone(sh.ask(t, k.request(OpKill)))
	})
}

// timers are the processes that count for a task.
func timers(k *task) (pids []string) {
	all, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range all {
		env, err := os.ReadFile(path)
		if err == nil && strings.Contains("\x00"+string(env), "\x00SP_THAW="+k.id.Task+"\x00") {
			pids = append(pids, filepath.Base(filepath.Dir(path)))
		}
	}
	return pids
}
