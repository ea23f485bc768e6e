package cmd

import (
	"context"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"saltpeter/runner/api"
	"saltpeter/runner/ledger"
)

// A folder of job files in the form of the Python program, started as it is, and
// looked at through what people had before: its files, its flags, its API, its
// text logs. Only what belongs to this machine is put into the files: paths, and
// the name of a user.

// migration is a server on testdata/migrate.
type migration struct {
	*killRig
	logs  string // logdir
	store *oldStore
}

// newMigration starts it, with the files changed before.
func newMigration(t *testing.T, change ...func(*migration)) *migration {
	t.Helper()
	m := &migration{store: newOldStore(t), killRig: emptyRig(t, killBinary(t))}
	m.logs = filepath.Join(m.dir, "log")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../testdata/migrate/*")
	if err != nil || len(files) < 5 {
		t.Fatal("no job files: ", err)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.NewReplacer("/var/log/saltpeter", m.logs, "JOBUSER", me.Username, "LOCKFILE", filepath.Join(m.dir, "lock"),
			"http://elastic:9200", m.store.URL, "http://opensearch:9200", m.store.URL, "RIGDIR", m.dir).Replace(string(data))
		if err := os.WriteFile(filepath.Join(m.dir, "jobs", filepath.Base(path)), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range change {
		f(m)
	}
	m.flags = []string{"-a", "-p", "0"}
	m.serve()
	t.Cleanup(m.quiet)
	return m
}

// quiet lets nothing more fire, so that what is left at the end is a fault.
func (m *migration) quiet() {
	path := filepath.Join(m.dir, "jobs", "quiet.yaml")
	if err := os.WriteFile(path, []byte("saltpeter_maintenance: {global: true}\n"), 0o644); err != nil {
		m.t.Error(err)
		return
	}
	for end := time.Now().Add(killPatience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if s, err := m.client.Status(context.Background()); err != nil || s.Maintenance.Global {
			return
		}
	}
	m.t.Error("maintenance did not come into force")
}

// edit changes a job file in place, as people do.
func (m *migration) edit(name, old, now string) {
	m.t.Helper()
	path := filepath.Join(m.dir, "jobs", name)
	data, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(data), old) {
		m.t.Fatalf("%s has no %q: %v", name, old, err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(data), old, now, 1)), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// asked starts a job as people do: maintenance and overlap are respected.
func (m *migration) asked(job string) string {
	m.t.Helper()
	run, err := m.client.RunJob(context.Background(), job, api.RunRequest{})
	if err != nil {
		m.t.Fatal(err)
	}
	return run.ID
}

func (m *migration) ended(run string) *ledger.Run {
	m.t.Helper()
	var r *ledger.Run
	m.await(run+" has ended", func() bool {
		r = m.run(run)
		return !slices.ContainsFunc(r.Tasks, func(t ledger.Task) bool { return !t.State.Done() })
	})
	return r
}

func (m *migration) status() *api.Status {
	m.t.Helper()
	s, err := m.client.Status(context.Background())
	if err != nil {
		m.t.Fatal(err)
	}
	return s
}

func machinesOf(r *ledger.Run) (names []string) {
	for _, t := range r.Tasks {
		if t.State != ledger.Skipped {
			names = append(names, t.Machine)
		}
	}
	slices.Sort(names)
	return names
}

// Every file means what it meant, and a broken one takes nothing else with it.
func TestMigrationOfFiles(t *testing.T) {
	m := newMigration(t)
	out, errs, code := m.cli(nil, "check", "-c", filepath.Join(m.dir, "jobs"))
	for _, want := range []string{"switched-off.yaml: the file is empty", "unquoted.yaml:3:8: ", "quote it: min: '*/5'", "17 jobs in 7 files, 2 errors"} {
		if !strings.Contains(out, want) {
			t.Errorf("check does not say %q:\n%s%s", want, out, errs)
		}
	}
	if code != exitFailed {
		t.Errorf("check ended with %d", code)
	}
	if jobs := m.status().Jobs; len(jobs) != 17 {
		t.Errorf("%d jobs are in force", len(jobs))
	}

	for job, want := range map[string][]string{
		"rotate": {"web1", "web2"}, "fails": {"db1"}, "environment": {"db1"}, "progress": {"db1"},
	} {
		run := m.ended(m.start(job))
		if got := machinesOf(run); !slices.Equal(got, want) {
			t.Errorf("%s ran on %v, should be on %v", job, got, want)
		}
		if job == "rotate" && run.Tasks[1].Started.Before(run.Tasks[0].Ended) {
			t.Error("batch_size: 1 ran both at once")
		}
		if job == "fails" && (run.Tasks[0].ExitCode == nil || *run.Tasks[0].ExitCode != 3) {
			t.Errorf("fails ended with %+v", run.Tasks[0])
		}
	}
	if out, _, _ := m.cli(nil, "logs", "environment"); out != "[yes] [True] [8] [1.1] [None]\n" {
		t.Errorf("the environment was %q", out)
	}
	for range 4 { // its choice is by chance: the machine in maintenance is never chosen
		run := m.ended(m.asked("disk-report"))
		if got := machinesOf(run); len(got) != 1 || got[0] == "old3" {
			t.Errorf("number_of_targets: 1 ran on %v", got)
		}
	}
	if run := m.run(m.start("nowhere")); run.Reason != ledger.ReasonNoMachines || len(run.Tasks) != 0 {
		t.Errorf("a target that matches nothing gives %+v", run)
	}
	m.cliSays("next -c JOBS --from 2026-03-01T00:00:00Z -n 1 last-friday", "Fri 2026-03-27 18:00:00 UTC")
	m.cliSays("next -c JOBS --from 2026-03-01T00:00:00Z -n 1 month-end", "Thu 2026-04-30 23:30:00 UTC")
	m.cliSays("next -c JOBS --from 2026-03-01T00:00:00Z -n 1 friday-13", "Fri 2026-03-13 00:00:30 UTC")
	m.cliSays("next -c JOBS --from 2026-03-01T00:00:00Z -n 1 rotate", "Sun 2026-03-01 03:08:00 UTC")
}

// cliSays runs the program and looks for a text in what it prints.
func (m *migration) cliSays(args, want string) {
	m.t.Helper()
	out, errs, code := m.cli(nil, strings.Fields(strings.ReplaceAll(args, "JOBS", filepath.Join(m.dir, "jobs")))...)
	if code != 0 || !strings.Contains(out, want) {
		m.t.Errorf("%s ended with %d and does not say %q:\n%s%s", args, code, want, out, errs)
	}
}

// Overlap, locks and maintenance, as the old keys say them.
func TestMigrationOfRules(t *testing.T) {
	m := newMigration(t)
	first := m.awaitState(m.start("again"), ledger.Running)
	m.awaitState(m.asked("again"), ledger.Running) // the exact words allow overlap
	m.awaitState(m.start("once"), ledger.Running)
	if _, err := m.client.RunJob(context.Background(), "once", api.RunRequest{}); err == nil {
		t.Error("other words allow overlap")
	}
	m.awaitState(m.start("locked"), ledger.Running)
	if task := m.awaitState(m.start("locked"), ledger.LaunchFailed); !strings.Contains(task.Reason, "lock") {
		t.Errorf("the lock was held, and the task says %q", task.Reason)
	}

	// A file of the old form is edited in place: new runs are held back at once,
	// what runs goes on.
	m.await("tick fires", func() bool { return m.count("tick") > 1 })
	m.edit("maintenance.yaml", "global: False", "global: True")
	m.await("maintenance is in force", func() bool { return m.status().Maintenance.Global })
	before := m.count("tick")
	m.await("due times are held back", func() bool {
		skips, err := m.client.Skips(context.Background(), "tick", time.Time{}, time.Time{}, 10)
		return err == nil && slices.ContainsFunc(skips, func(s ledger.Skip) bool { return s.Reason == ledger.ReasonMaintenance && s.Count > 1 })
	})
	if now := m.count("tick"); now > before+1 { // one may have been on its way
		t.Errorf("%d runs began in maintenance", now-before)
	}
	if m.task(first.Run).State != ledger.Running {
		t.Error("maintenance ended what ran")
	}
	m.edit("maintenance.yaml", "global: True", "global: False")
	m.await("tick fires again", func() bool { return m.count("tick") > before+1 })

	// The same state and files once more, as after an upgrade: nothing was touched.
	m.end(syscall.SIGTERM)
	m.serve()
	if m.task(first.Run).State != ledger.Running {
		t.Error("a restart of the server ended what ran")
	}
}

func (m *migration) count(job string) int {
	m.t.Helper()
	page, err := m.client.Runs(context.Background(), ledger.RunFilter{Job: job, Limit: 1000})
	if err != nil {
		m.t.Fatal(err)
	}
	return len(page.Runs)
}
