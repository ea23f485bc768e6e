package ledger

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"saltpeter/wsx/wire"
)

func TestMain(m *testing.M) {
	runChild() // does not return in a child that a test has started
	goleak.VerifyTestMain(m)
}

// noon is a due time to count from.
var noon = time.Date(2026, 5, 4, 12, 0, 0, 0, time.UTC)

func openTest(t testing.TB, dir string) *Ledger {
	t.Helper()
	l, err := Open(t.Context(), Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return l
}

func runOf(job string, due time.Time, machines ...string) Run {
	r := Run{
		ID: fmt.Sprintf("%s_%d", job, due.Unix()), Job: job, Group: "g", Due: due, Fired: due.Add(3 * time.Millisecond),
		Trigger: TriggerSchedule, Definition: []byte(`{"version":1,"command":"true"}`),
	}
	for _, m := range machines {
		r.Tasks = append(r.Tasks, Task{TaskID: TaskID{Machine: m}})
	}
	return r
}

func apply(t testing.TB, l *Ledger, events ...Event) []Task {
	t.Helper()
	tasks, err := l.Apply(t.Context(), events...)
	if err != nil {
		t.Fatalf("apply %T: %v", events[0], err)
	}
	return tasks
}

func refused(t testing.TB, l *Ledger, want error, events ...Event) {
	t.Helper()
	if _, err := l.Apply(t.Context(), events...); !errors.Is(err, want) {
		t.Fatalf("apply %T: got %v, want %v", events[0], err, want)
	}
}

func TestLifeOfATask(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir)
	id := TaskID{"backup_1", "web1"}
	run := runOf("backup", noon, "web1", "web2")
	run.ID = "backup_1"
	tasks := apply(t, l, Begun{run})
	if len(tasks) != 2 || tasks[0].TaskID != id || tasks[0].State != Queued || tasks[1].Machine != "web2" {
		t.Fatalf("begun: %+v", tasks)
	}
	identity := wire.Identity{BootID: "b", PID: 4711, StartTicks: 1 << 60, Brand: "9223372036854775807"}
	apply(t, l, Launched{Task: id, At: noon.Add(time.Second), Transport: "ssh", Cookie: "c00kie", TokenHash: "hash1"})
	apply(t, l,
		Identified{Task: id, Identity: identity, Version: "1.2", Features: []string{"bytes"}},
		Started{Task: id, At: noon.Add(2 * time.Second), PID: 4711},
		NonceBound{Task: id, Nonce: "n1"})
	out, err := l.Output(id)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if n, err := out.Append(noon, 0, wire.Stdout, []byte("hello\n")); err != nil || n != 6 {
		t.Fatal(n, err)
	}
	apply(t, l,
		NoteAdded{Task: id, Note: Note{At: noon, Text: "note"}},
		Ended{Task: id, At: noon.Add(9 * time.Second), State: Failed, ExitCode: 3, Reason: "exit 3",
			End: wire.End{Cause: wire.CauseExit, RealCode: wire.Ptr(3), ElapsedMS: 7000.5}})
	check := func(l *Ledger) {
		t.Helper()
		got, err := l.Task(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if got.State != Failed || *got.ExitCode != 3 || got.Length != 6 || got.Identity.Brand != identity.Brand ||
			got.Cookie != "c00kie" || got.Version != "1.2" || len(got.Notes) != 1 || got.End.ElapsedMS != 7000.5 ||
			!got.Ended.Equal(noon.Add(9*time.Second)) || got.Job != "backup" || got.Transport != "ssh" {
			t.Fatalf("%+v", got)
		}
		if who, err := l.TaskByToken("hash1"); l.write != nil && (err != nil || who != id) {
			t.Fatal(who, err)
		}
		if n, err := l.Nonce(t.Context(), id); err != nil || n != "n1" {
			t.Fatal(n, err)
		}
		r, err := l.Run(t.Context(), "backup_1")
		if err != nil || len(r.Tasks) != 2 || string(r.Definition) != string(run.Definition) || !r.Due.Equal(noon) {
			t.Fatalf("%+v %v", r, err)
		}
		un, err := l.Unfinished(t.Context())
		if err != nil || len(un) != 1 || un[0].Machine != "web2" {
			t.Fatalf("%+v %v", un, err)
		}
	}
	check(l)
	refused(t, l, ErrUnlawful, Ended{Task: id, At: noon, State: Succeeded})
	check(l)
	server := l.ServerID()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	refused(t, l, ErrClosed, Watermark{})
	l = openTest(t, dir)
	check(l)
	if l.ServerID() != server || len(server) != 32 {
		t.Fatal(l.ServerID(), server)
	}
	l.Close()
	ro, err := OpenReadOnly(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer ro.Close()
	check(ro)
	if _, err := ro.Apply(t.Context(), Watermark{}); !errors.Is(err, ErrReadOnly) {
		t.Fatal(err)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
