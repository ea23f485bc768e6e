package api

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// begun makes a task as a dead server would have left it, output included.
func (r *rig) begun(name, bytes string, notes ...string) ledger.TaskID {
	r.t.Helper()
	id := ledger.TaskID{Run: name + "_1700000000", Machine: "m"}
	at := time.Unix(1700000000, 0)
	_, err := r.book.Apply(r.t.Context(), ledger.Begun{Run: ledger.Run{ID: id.Run, Job: name, Due: at, Fired: at, Trigger: ledger.TriggerManual,
		Tasks: []ledger.Task{{TaskID: id, Job: name, State: ledger.Queued, Transport: "local", Queued: at}}}},
		ledger.Launched{Task: id, At: at, Transport: "local", Cookie: "c", TokenHash: "h" + name})
	if err != nil {
		r.t.Fatal(err)
	}
	r.append(id, 0, bytes)
	for _, note := range notes {
		if _, err := r.book.Apply(r.t.Context(), ledger.NoteAdded{Task: id, Note: ledger.Note{At: at, Text: note}}); err != nil {
			r.t.Fatal(err)
		}
	}
	return id
}

func (r *rig) append(id ledger.TaskID, offset int64, bytes string) {
	r.t.Helper()
	out, err := r.book.Output(id)
	if err != nil {
		r.t.Fatal(err)
	}
	defer out.Close()
	if _, err := out.Append(time.Unix(1700000000, 0), offset, wire.Stdout, []byte(bytes)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) end(id ledger.TaskID) {
	r.t.Helper()
	if _, err := r.book.Apply(r.t.Context(), ledger.Ended{Task: id, At: time.Now(), State: ledger.Unknown, ExitCode: 253}); err != nil {
		r.t.Fatal(err)
	}
}

// However often it breaks off, and wherever, what a reader has and what it asks
// for from there on are the whole, the server's own lines included.
func TestOutputFromEveryOffset(t *testing.T) {
	r := newRig(t)
	id := r.begun("a", "ab\x00\xff\r\n", "[one]\n", "[two]\n")
	r.end(id)
	whole := "ab\x00\xff\r\n[one]\n[two]\n"
	for offset := range int64(len(whole) + 3) {
		for _, follow := range []bool{false, true} {
			want := whole[min(offset, int64(len(whole))):]
			if got := read(t, r.client, id, offset, follow); got != want {
				t.Errorf("from %d: %q, not %q", offset, got, want)
			}
		}
	}
	rows, err := r.client.Rows(t.Context(), id)
	if err != nil || len(rows) != 1 || rows[0].Stream != "stdout" || rows[0].Offset != 0 || !rows[0].At.Equal(time.Unix(1700000000, 0)) {
		t.Errorf("rows %+v, %v", rows, err)
	}
	silent := r.begun("silent", "")
	if got := read(t, r.client, silent, 0, false); got != "" {
		t.Errorf("%q of nothing", got)
	}
	if rows, err := r.client.Rows(t.Context(), silent); err != nil || len(rows) != 0 {
		t.Errorf("rows %+v, %v", rows, err)
	}
	if _, err := r.client.Output(t.Context(), ledger.TaskID{Run: id.Run, Machine: "other"}, 0, true); err == nil || !strings.Contains(err.Error(), "no task on that machine") {
		t.Error(err)
	}
}

// A job that runs is followed over its end.
func TestFollowToTheEnd(t *testing.T) {
	r := newRig(t)
	id := r.run("waiter", ledger.Running)
	out, err := r.client.Output(t.Context(), id, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	first := make([]byte, len("first\n"))
	if _, err := io.ReadFull(out, first); err != nil || string(first) != "first\n" {
		t.Fatalf("%q, %v", first, err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(out)
	if err != nil || string(rest) != "second\x00\xff\n" {
		t.Errorf("%q, %v", rest, err)
	}
	// The answer ended because the task had: nobody needs to ask again.
	if state := r.task(id).State; state != ledger.Failed {
		t.Errorf("it ended while the task is %s", state)
	}
}

// Many followers of a lot of output, that stop and go on at random places, each
// have every byte once.
func TestFollowersLoseNothing(t *testing.T) {
	r := newRig(t)
	id := r.run("flood", "")
	want := strings.Repeat("x", 1500000) + "\nend\n"
	const followers = 4
	results := make(chan error, followers)
	for range followers {
		go func() {
			var got strings.Builder
			for {
				out, err := r.client.Output(t.Context(), id, int64(got.Len()), true)
				if err != nil {
					results <- err
					return
				}
				var n int64
				if rand.IntN(3) == 0 {
					_, err = io.Copy(&got, out)
				} else {
					n, err = io.CopyN(&got, out, 100000+rand.Int64N(400000))
				}
				out.Close()
				switch {
				case errors.Is(err, io.EOF), err == nil && n == 0:
					if got.String() != want {
						results <- errors.New("another output: " + strconv.Itoa(got.Len()) + " bytes")
						return
					}
					results <- nil
					return
				case err != nil:
					results <- err
					return
				}
			}
		}()
	}
	for range followers {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// A task that nobody tells anything about is looked at all the same.
func TestFollowWithoutNews(t *testing.T) {
	r := newRig(t)
	id := r.begun("a", "one\n")
	out, err := r.client.Output(t.Context(), id, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	r.append(id, 4, "two\n")
	r.end(id)
	if got, err := io.ReadAll(out); err != nil || string(got) != "one\ntwo\n" {
		t.Errorf("%q, %v", got, err)
	}
}

// Leftovers do not hold the end up, and what they print later is there later.
func TestFollowEndsInSpiteOfLeftovers(t *testing.T) {
	r := newRig(t)
	r.configure(jobFiles + "leaver: {command: \"(sleep 300; echo late) & echo main\", schedule: '@yearly', targets: '*', drain: 0}\n")
	id := r.run("leaver", "")
	if got := read(t, r.client, id, 0, true); got != "main\n" {
		t.Errorf("%q", got)
	}
	task := r.task(id)
	if task.State != ledger.Succeeded {
		t.Errorf("it is %s", task.State)
	}
	r.await("its leftovers are counted", func() bool { return r.task(id).Leftover > 0 })
	if got := read(t, r.client, id, 0, true); got != "main\n" {
		t.Errorf("with leftovers: %q", got)
	}
}

// A follower whose server stops knows that the rest is missing.
func TestFollowAcrossTheServersStop(t *testing.T) {
	r := newRig(t)
	id := r.run("sleeper", ledger.Running)
	out, err := r.client.Output(t.Context(), id, 0, true)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := io.ReadFull(out, make([]byte, len("working\n"))); err != nil {
		t.Fatal(err)
	}
	if err := r.shutdown(); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(out); err != io.ErrUnexpectedEOF || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
}
