package ledger

import (
	"errors"
	"testing"
)

// A run that another server began grows machine by machine; ours never do.
func TestJoined(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir)
	foreign := runOf("job", at(1), "a")
	foreign.ID, foreign.Trigger = "job_1", TriggerForeign
	ours := runOf("job", at(2), "a")
	apply(t, l, Begun{foreign}, Begun{ours})
	join := func(run, machine string) error {
		_, err := l.Apply(t.Context(), Joined{Task{TaskID: TaskID{Run: run, Machine: machine}, Transport: "foreign", Queued: at(3)}})
		return err
	}
	if err := join("job_1", "b"); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct{ got, want error }{
		"again":   {join("job_1", "b"), ErrExists},
		"of ours": {join(ours.ID, "b"), ErrUnlawful},
		"of none": {join("job_2", "b"), ErrNoRun},
		"as one ended": {func() error {
			_, err := l.Apply(t.Context(), Joined{Task{TaskID: TaskID{Run: "job_1", Machine: "c"}, State: Succeeded}})
			return err
		}(), ErrUnlawful},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v", what, c.got)
		}
	}
	apply(t, l, Launched{Task: TaskID{"job_1", "b"}, At: at(3), Transport: "foreign"}, Ended{Task: TaskID{"job_1", "b"}, At: at(4), State: Failed, ExitCode: 2})
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openTest(t, dir)
	run, err := l.Run(t.Context(), "job_1")
	if err != nil || len(run.Tasks) != 2 || run.Tasks[1].Machine != "b" || run.Tasks[1].State != Failed || run.Tasks[1].Job != "job" {
		t.Errorf("%+v, %v", run, err)
	}
}

// Frames below the first were stored elsewhere; once anything is stored here, nothing
// moves any more.
func TestOutputBeginsAt(t *testing.T) {
	dir := t.TempDir()
	l := openTest(t, dir)
	r := runOf("job", at(1), "a")
	apply(t, l, Begun{r})
	id := TaskID{r.ID, "a"}
	o, err := l.Output(id)
	if err != nil {
		t.Fatal(err)
	}
	for _, seq := range []int64{7, 9} { // the second changes nothing
		if err := o.BeginAt(at(2), seq, "[elsewhere]\n"); err != nil || o.LastSeq() != 6 || stored(t, l, id) != "[elsewhere]\n" {
			t.Errorf("from %d on: %v, seq %d, %q", seq, err, o.LastSeq(), stored(t, l, id))
		}
	}
	if err := o.AppendSeq(at(2), 8, 1, []byte("x")); !errors.Is(err, ErrGap) {
		t.Errorf("%v", err)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openTest(t, dir)
	if o, err = l.Output(id); err != nil || o.LastSeq() != 6 {
		t.Fatalf("%v, seq %d", err, o.LastSeq())
	}
	defer o.Close()
	if err := o.AppendSeq(at(3), 7, 1, []byte("x")); err != nil || stored(t, l, id) != "[elsewhere]\nx" {
		t.Errorf("%v, %q", err, stored(t, l, id))
	}
}
