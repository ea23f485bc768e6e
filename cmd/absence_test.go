package cmd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"saltpeter/runner/ledger"
)

// A server that is killed while jobs print, and is away for a minute, loses and
// doubles nothing: of a job that prints all the while, and of one that prints much
// and ends while nobody listens. Without SALTPETER_SOAK=1 it is away for 2 s.
func TestAwayForAMinute(t *testing.T) {
	away := 2 * time.Second
	if os.Getenv("SALTPETER_SOAK") == "1" {
		away = time.Minute
	}
	const much = 1_000_000 // lines
	counts := yearly("counts", `echo started >> RIGDIR/counts.began
i=0
until [ -e RIGDIR/enough ]; do
  seq $((i+1)) $((i+500)); i=$((i+500))
  echo $i > RIGDIR/counts.new; mv RIGDIR/counts.new RIGDIR/counts.last
  sleep .05
done
exit 5`, anywhere)
	bursts := yearly("bursts", fmt.Sprintf(`echo started >> RIGDIR/bursts.began
seq 1000
until [ -e RIGDIR/away ]; do sleep .05; done
seq 1001 %d
echo over > RIGDIR/bursts.over
exit 3`, much), anywhere)
	r := newKillRig(t, killBinary(t), counts+bursts)
	put := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(r.dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	printed := func() int {
		n, _ := strconv.Atoi(strings.TrimSpace(r.said("counts.last")))
		return n
	}
	a, b := r.up("counts").ID, r.up("bursts").ID
	r.end(syscall.SIGKILL)
	gone, before := time.Now(), printed()
	put("away")
	r.await("a job ends while no server is there", func() bool { return r.said("bursts.over") != "" })
	time.Sleep(time.Until(gone.Add(away))) // the absence is what is tested
	if n := printed(); n <= before {
		t.Errorf("while no server was there it printed nothing: %d lines before, %d after", before, n)
	}
	r.serve()
	back := printed()
	r.await("it prints on", func() bool { return printed() > back })
	put("enough")
	for _, want := range []struct {
		job, run string
		state    ledger.State
		code     int
	}{{"counts", a, ledger.Failed, 5}, {"bursts", b, ledger.Failed, 3}} {
		task := r.awaitState(want.run, want.state)
		if task.ExitCode == nil || *task.ExitCode != want.code {
			t.Errorf("%s ended with %+v", want.job, task)
		}
		if began := r.said(want.job + ".began"); began != "started\n" {
			t.Errorf("%s began: %q", want.job, began)
		}
		page, err := r.client.Runs(context.Background(), ledger.RunFilter{Job: want.job, Limit: 10})
		if err != nil || len(page.Runs) != 1 {
			t.Errorf("%s has the runs %+v: %v", want.job, page, err)
		}
		lines := much
		if want.job == "counts" {
			lines = printed()
		}
		out, errs, code := r.cli(nil, "logs", want.run)
		if code != 0 {
			t.Errorf("its output: %d %s", code, errs)
		}
		inOrder(t, want.job, out, lines)
	}
}

// inOrder looks that a text is the numbers from 1 on, one a line, each once.
func inOrder(t *testing.T, job, text string, last int) {
	t.Helper()
	n := 0
	for line := range strings.Lines(text) {
		if n++; line != strconv.Itoa(n)+"\n" {
			t.Errorf("%s: line %d is %q", job, n, line)
			return
		}
	}
	if n != last {
		t.Errorf("%s: %d lines of %d", job, n, last)
	}
}
