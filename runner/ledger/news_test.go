package ledger

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"saltpeter/wsx/wire"
)

// told is all news behind a place, a line each, and the last place.
func told(t *testing.T, l *Ledger, after int64) ([]string, int64) {
	t.Helper()
	var lines []string
	for {
		page, err := l.News(t.Context(), after, 3)
		if err != nil {
			t.Fatal(err)
		}
		if len(page.List) == 0 {
			return lines, after
		}
		if page.Lost > 0 {
			lines = append(lines, fmt.Sprintf("%d lost", page.Lost))
		}
		after += page.Lost
		for _, n := range page.List {
			if after++; n.Seq != after {
				t.Fatalf("place %d came after %d", n.Seq, after-1)
			}
			lines = append(lines, n.line())
		}
	}
}

func (n News) line() string {
	line := n.Kind + " " + n.Run
	for _, part := range []string{n.Machine, n.Reason} {
		if part != "" {
			line += " " + part
		}
	}
	if n.Code != nil {
		line += fmt.Sprint(" ", *n.Code)
	}
	if n.Count > 0 {
		line += fmt.Sprint(" x", n.Count)
	}
	return line
}

func reporters(t testing.TB, l *Ledger, names ...string) {
	t.Helper()
	if err := l.SetReporters(t.Context(), names); err != nil {
		t.Fatal(err)
	}
}

func position(t *testing.T, l *Ledger, name string, at int64) {
	t.Helper()
	if err := l.SetPosition(t.Context(), Reporter{Name: name, Position: at, State: "at " + fmt.Sprint(at)}); err != nil {
		t.Fatal(err)
	}
}

func wantLines(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("told:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func endOf(run, machine string, state State, code int) Ended {
	return Ended{Task: TaskID{run, machine}, At: noon.Add(time.Minute), State: state, ExitCode: code,
		End: wire.End{Cause: wire.CauseExit, RealCode: wire.Ptr(code)}}
}

func TestNewsOfARun(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir)
	silent := runOf("silent", noon, "a")
	apply(t, l, Begun{silent}) // nobody reports yet: begins and is never told, ends and is
	reporters(t, l, "text")
	r := runOf("job", noon, "a", "b", "c", "d")
	r.Tasks[3].State, r.Tasks[3].Reason = Skipped, ReasonMaintenance
	apply(t, l, Begun{r})
	refused(t, l, ErrExists, Begun{r})
	refused(t, l, ErrUnlawful, Started{Task: TaskID{r.ID, "b"}, At: noon, PID: 7})
	refused(t, l, ErrExists, SkippedDue{Skip{Job: "other", From: noon, Reason: ReasonOverlap}}, Begun{r}) // all or none
	for _, m := range []string{"a", "b"} {
		apply(t, l, Launched{Task: TaskID{r.ID, m}, At: noon}, Started{Task: TaskID{r.ID, m}, At: noon, PID: 1})
	}
	apply(t, l, endOf(r.ID, "a", Failed, 3))
	apply(t, l, LostAt{Task: TaskID{r.ID, "b"}, At: noon}) // provisional: no end
	l.Close()

	l = openTest(t, dir) // what a new server has to know, it reads
	apply(t, l, KillAsked{Task: TaskID{r.ID, "c"}, Kill: Kill{ID: "k", Asked: noon, Cause: wire.CauseKill}})
	apply(t, l, endOf(r.ID, "b", Unknown, wire.ExitLost))
	apply(t, l, Amended{Task: TaskID{r.ID, "b"}, ExitCode: wire.Ptr(0), End: wire.End{Cause: wire.CauseExit}})
	apply(t, l, endOf(silent.ID, "a", Succeeded, 0))
	lines, last := told(t, l, 0)
	wantLines(t, lines,
		"start job_1777896000", "machine_skipped job_1777896000 d maintenance",
		"machine_start job_1777896000 a", "machine_start job_1777896000 b",
		"machine_result job_1777896000 a 3",
		"machine_result job_1777896000 c 143",
		"machine_result job_1777896000 b 253", "end job_1777896000",
		"machine_amended job_1777896000 b 0",
		"machine_result silent_1777896000 a 0", "end silent_1777896000",
	)
	page, err := l.News(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range page.List {
		if n.Group != "g" || n.Job == "" || n.At.IsZero() {
			t.Errorf("incomplete: %+v", n)
		}
	}
	position(t, l, "text", last)
	if lines, _ := told(t, l, 0); len(lines) != 0 {
		t.Error("kept although everybody has told it:", lines)
	}
}

func TestNewsWithoutARun(t *testing.T) {
	l := openTest(t, t.TempDir())
	reporters(t, l, "text")
	apply(t, l, SkippedDue{Skip{Job: "job", Group: "g", From: noon, Reason: ReasonOverlap, Detail: "x"}})
	apply(t, l, SkippedDue{Skip{Job: "job", Group: "g", From: noon.Add(time.Second), To: noon.Add(9 * time.Second), Count: 9, Reason: ReasonMaintenance}})
	none := runOf("job", noon.Add(time.Minute))
	none.Reason = ReasonNoMachines
	apply(t, l, Begun{none})
	lines, _ := told(t, l, 0)
	wantLines(t, lines,
		"skipped job_1777896000 overlap", "skipped job_1777896001 maintenance x9",
		"start job_1777896060", "no_machines job_1777896060", "end job_1777896060",
	)
}

func TestReporters(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir)
	skip := func(n int) {
		t.Helper()
		apply(t, l, SkippedDue{Skip{Job: "job", From: noon.Add(time.Duration(n) * time.Second), Reason: ReasonOverlap, Detail: fmt.Sprint(n)}})
	}
	skip(1) // for nobody
	reporters(t, l, "a")
	skip(2)
	reporters(t, l, "a", "b")
	skip(3)
	position(t, l, "a", 2) // b has not told the second
	position(t, l, "stranger", 2)
	l.Close()

	l = openTest(t, dir)
	lines, last := told(t, l, 1)
	wantLines(t, lines, "skipped job_1777896003 overlap")
	list, end, err := l.Reporters(t.Context())
	if err != nil || end != 2 || last != 2 || fmt.Sprint(list) != "[{a 2 at 2} {b 1 }]" {
		t.Error(list, end, err)
	}
	position(t, l, "b", 2)
	l.Close()

	l = openTest(t, dir) // the places go on where nothing is kept any more
	skip(4)
	lines, last = told(t, l, 2)
	wantLines(t, lines, "skipped job_1777896004 overlap")
	if last != 3 {
		t.Error(last)
	}
	reporters(t, l)
	skip(5)
	if lines, _ := told(t, l, 0); len(lines) != 0 {
		t.Error("kept for nobody:", lines)
	}
}

// What nobody fetches for days is given up from the oldest on, and counted.
func TestNewsIsBounded(t *testing.T) {
	l := openTest(t, t.TempDir())
	reporters(t, l, "text")
	if err := l.ask(t.Context(), &request{work: func(w *writer) error { w.feed.most = 10; return nil }}); err != nil {
		t.Fatal(err)
	}
	for i := range 25 {
		apply(t, l, SkippedDue{Skip{Job: "job", From: noon.Add(time.Duration(i) * time.Second), Reason: ReasonOverlap, Detail: fmt.Sprint(i)}})
	}
	lines, last := told(t, l, 0)
	if len(lines) != 11 || lines[0] != "15 lost" || last != 25 {
		t.Error(lines, last)
	}
	came := l.NewsCame()
	apply(t, l, SkippedDue{Skip{Job: "job", From: noon.Add(time.Hour), Reason: ReasonOverlap}})
	select {
	case <-came:
	default:
		t.Error("nobody was woken")
	}
}

// However events of many runs are grouped into commits, each run is told whole and
// in order, and each reader's pages join without a hole.
func TestNewsOfManyAtOnce(t *testing.T) {
	l := openTest(t, t.TempDir())
	reporters(t, l, "text")
	const runs = 200
	var wg sync.WaitGroup
	for i := range runs {
		wg.Go(func() {
			r := runOf(fmt.Sprintf("job%d", i), noon, "a", "b")
			apply(t, l, Begun{r})
			for _, m := range []string{"a", "b"} {
				wg.Go(func() {
					apply(t, l, Launched{Task: TaskID{r.ID, m}, At: noon}, Started{Task: TaskID{r.ID, m}, At: noon, PID: 1})
					apply(t, l, endOf(r.ID, m, Succeeded, 0))
					if _, err := l.Apply(t.Context(), endOf(r.ID, m, Failed, 1)); err == nil {
						t.Error("ended twice")
					}
				})
			}
		})
	}
	wg.Wait()
	lines, last := told(t, l, 0)
	if last != 6*runs {
		t.Errorf("%d told, want %d", last, 6*runs)
	}
	stage := map[string]int{}
	for _, line := range lines {
		kind, run, _ := strings.Cut(line, " ")
		run, _, _ = strings.Cut(run, " ")
		stage[run]++
		if (kind == NewsStart) != (stage[run] == 1) || (kind == NewsEnd) != (stage[run] == 6) {
			t.Errorf("%s is number %d of its run", line, stage[run])
		}
	}
}

func TestNewsInABookOfBefore(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir)
	r := runOf("job", noon, "a")
	apply(t, l, Begun{r})
	l.Close()
	execAll(t, dir, `DROP TABLE news`, `DROP TABLE reporters`, `DROP TABLE holds`, `UPDATE book SET value = '1' WHERE name = 'version'`)
	l = openTest(t, dir)
	reporters(t, l, "text")
	apply(t, l, endOf(r.ID, "a", Succeeded, 0))
	lines, _ := told(t, l, 0)
	wantLines(t, lines, "machine_result job_1777896000 a 0", "end job_1777896000")
}
