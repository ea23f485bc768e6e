package ledger

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"saltpeter/wsx/wire"
)

// Tests that need a process of their own (to be killed, to be somebody else, to
// have a disk of its own) start this very binary again with LEDGER_CHILD set.

func runChild() {
	dir := os.Getenv("LEDGER_DIR")
	switch os.Getenv("LEDGER_CHILD") {
	case "":
		return
	case "crash":
		base, _ := strconv.Atoi(os.Getenv("LEDGER_BASE"))
		childCrash(dir, base)
	case "read":
		childDropRights()
		childRead(dir)
	case "open":
		childDropRights()
		_, err := Open(context.Background(), Options{Dir: dir})
		fmt.Println(errors.Is(err, fs.ErrPermission), err)
	case "full":
		childFull(dir)
	}
	os.Exit(0)
}

func childFail(args ...any) {
	fmt.Println(append([]any{"FAILED"}, args...)...)
	os.Exit(1)
}

func child(t *testing.T, mode, dir string, more ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), append(more, "LEDGER_CHILD="+mode, "LEDGER_DIR="+dir)...)
	cmd.Stderr = os.Stderr
	return cmd
}

// What the crashing child writes for a task is known beforehand, so that the
// test can tell every byte that is missing or doubled.
func childOutput(run string) []byte {
	return bytes.Repeat([]byte(run+" says this\n"), 200)
}

const childPiece = 700

func childRun(job string, due int) Run { return runOf(job, at(due), "m") }

// childCrash works until it is killed and tells every acknowledgement.
func childCrash(dir string, base int) {
	ctx := context.Background()
	l, err := Open(ctx, Options{Dir: dir})
	if err != nil {
		childFail(err)
	}
	var mu sync.Mutex
	ack := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	must := func(_ []Task, err error) {
		if err != nil {
			childFail(err)
		}
	}
	var wg sync.WaitGroup
	for g := range 4 {
		job := fmt.Sprintf("job%d", g)
		wg.Go(func() {
			for due := base; ; due++ {
				if due%3 == 2 {
					must(l.Apply(ctx, SkippedDue{Skip{Job: job, Group: "g", From: at(due), Reason: ReasonOverlap}}, Watermark{Job: job, At: at(due)}))
					ack("skip %s %d", job, due)
					continue
				}
				r := childRun(job, due)
				id := TaskID{r.ID, "m"}
				must(l.Apply(ctx, Begun{r}, Watermark{Job: job, At: at(due)}))
				ack("begun %s %d", job, due)
				must(l.Apply(ctx, Launched{Task: id, At: at(due), TokenHash: r.ID}))
				must(l.Apply(ctx, Started{Task: id, At: at(due), PID: due + 1}))
				ack("started %s %d", job, due)
				if err := childWrite(l, id, g, func(n int64) { ack("output %s %d %d", job, due, n) }); err != nil {
					childFail(err)
				}
				must(l.Apply(ctx, Ended{Task: id, At: at(due), State: Failed, ExitCode: due % 100}))
				ack("ended %s %d", job, due)
			}
		})
	}
	wg.Wait()
}

// childWrite writes what is still missing of a task's output: by seq for odd jobs,
// by offset for even ones.
func childWrite(l *Ledger, id TaskID, g int, ack func(n int64)) error {
	o, err := l.Output(id)
	if err != nil {
		return err
	}
	defer o.Close()
	text := childOutput(id.Run)
	for seq := int64(0); seq*childPiece < int64(len(text)); seq++ {
		piece := text[seq*childPiece : min(len(text), int(seq+1)*childPiece)]
		if g%2 == 1 {
			err = o.AppendSeq(noon, seq, wire.Stdout, piece)
		} else {
			_, err = o.Append(noon, seq*childPiece, wire.Stdout, piece)
		}
		if err != nil {
			return err
		}
		ack(min(int64(len(text)), (seq+1)*childPiece))
	}
	return o.Sync()
}

// acked is what the child has acknowledged.
type acked struct {
	kind, job string
	due       int
	length    int64
}

func parseAcks(t *testing.T, text []byte) []acked {
	t.Helper()
	var all []acked
	for line := range strings.Lines(string(text)) {
		if !strings.HasSuffix(line, "\n") {
			break // it was killed while it told us: then it had acknowledged, but we cannot say what
		}
		var a acked
		if _, err := fmt.Sscan(line, &a.kind, &a.job, &a.due); err != nil {
			t.Fatalf("the child says %q", line)
		}
		if a.kind == "output" {
			if _, err := fmt.Sscan(line, &a.kind, &a.job, &a.due, &a.length); err != nil {
				t.Fatalf("the child says %q", line)
			}
		}
		all = append(all, a)
	}
	return all
}

// TestKilledAnywhere kills the server in the middle of its work again and again.
func TestKilledAnywhere(t *testing.T) {
	rounds := 20
	if testing.Short() {
		rounds = 4
	}
	dir := filepath.Join(t.TempDir(), "state")
	var all []acked
	for round := range rounds {
		cmd := child(t, "crash", dir, fmt.Sprintf("LEDGER_BASE=%d", round*100_000))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var text bytes.Buffer
		in := bufio.NewReader(out)
		for range 1 + rand.IntN(250) { // lines until the blow
			line, err := in.ReadBytes('\n')
			text.Write(line)
			if err != nil {
				t.Fatalf("round %d: the child ended by itself: %s", round, text.String())
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := in.WriteTo(&text); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed is an error
		fresh := parseAcks(t, text.Bytes())
		all = append(all, fresh...)

		ro, err := OpenReadOnly(t.Context(), dir)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		checkAcked(t, ro, fresh)
		ro.Close()
		l := openTest(t, dir)
		checkAcked(t, l, fresh)
		finish(t, l)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
		l.Close()
	}
	l := openTest(t, dir)
	all = slices.DeleteFunc(all, func(a acked) bool { return a.kind == "output" }) // finish has read them all
	checkAcked(t, l, all)
	checkOnce(t, l, all)
	t.Logf("%d acknowledgements in %d rounds", len(all), rounds)
}

// checkAcked holds everything acknowledged against the book.
func checkAcked(t *testing.T, l *Ledger, all []acked) {
	t.Helper()
	marks, err := l.Watermarks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	runs := map[string]map[string]acked{} // by run and kind, the last of each
	for _, a := range all {
		if marks[a.job].Before(at(a.due)) {
			t.Errorf("%+v: watermark %s", a, marks[a.job])
		}
		if a.kind == "skip" {
			continue
		}
		id := childRun(a.job, a.due).ID
		if runs[id] == nil {
			runs[id] = map[string]acked{}
		}
		runs[id][a.kind] = a
	}
	for id, kinds := range runs {
		r, err := l.Run(t.Context(), id)
		if err != nil || len(r.Tasks) != 1 || len(r.Definition) == 0 {
			t.Errorf("%+v: %+v %v", kinds, r, err)
			continue
		}
		checkTask(t, l, r.Tasks[0], kinds)
	}
}

func checkTask(t *testing.T, l *Ledger, task Task, kinds map[string]acked) {
	t.Helper()
	if a, ok := kinds["started"]; ok {
		if who, err := l.TaskByToken(task.Run); l.write != nil && (err != nil || who != task.TaskID) {
			t.Errorf("%+v: token of %v, %v", a, who, err)
		}
		if task.Identity == nil || task.Identity.PID != a.due+1 || task.State == Queued || task.State == Launching {
			t.Errorf("%+v: %+v", a, task)
		}
	}
	if a, ok := kinds["output"]; ok {
		if got := stored(t, l, task.TaskID); int64(len(got)) < a.length || !bytes.HasPrefix(childOutput(task.Run), []byte(got)) {
			t.Errorf("%+v: %d bytes stored, or not the right ones", a, len(got))
		}
	}
	if a, ok := kinds["ended"]; ok {
		if task.State != Failed || *task.ExitCode != a.due%100 || task.Length != int64(len(childOutput(task.Run))) {
			t.Errorf("%+v: %+v", a, task)
		}
	}
}

// finish carries on with what the killed server left, as wrappers would: they send
// again from what is stored.
func finish(t *testing.T, l *Ledger) {
	t.Helper()
	tasks, err := l.Unfinished(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(tasks) > 4 {
		t.Errorf("%d tasks unfinished, four were worked on", len(tasks))
	}
	for _, task := range tasks {
		g := int(task.Job[3] - '0')
		if err := childWrite(l, task.TaskID, g, func(int64) {}); err != nil {
			t.Error(err)
		}
		if got := stored(t, l, task.TaskID); got != string(childOutput(task.Run)) {
			t.Errorf("%s: sent again, and %d bytes are stored of %d", task.Run, len(got), len(childOutput(task.Run)))
		}
		apply(t, l, Ended{Task: task.TaskID, At: noon, State: Failed, ExitCode: 1})
	}
}

// checkOnce counts records: none of a due time that nobody worked on, none twice,
// and beside the acknowledged ones at most the one each job was at when it died.
func checkOnce(t *testing.T, l *Ledger, all []acked) {
	t.Helper()
	want := map[string]int64{}
	for _, a := range all {
		if a.kind == "skip" || a.kind == "begun" {
			want[a.job+a.kind]++
		}
	}
	for g := range 4 {
		job := fmt.Sprintf("job%d", g)
		page, err := l.Runs(t.Context(), RunFilter{Job: job, Limit: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		dues := map[int64]bool{}
		for _, r := range page.Runs {
			if dues[r.Due.Unix()] {
				t.Errorf("%s: %s twice", job, r.Due)
			}
			dues[r.Due.Unix()] = true
		}
		skips, err := l.Skips(t.Context(), job, time.Time{}, time.Time{}, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		var skipped int64
		for _, s := range skips {
			skipped += s.Count
		}
		for kind, got := range map[string]int64{"begun": int64(len(dues)), "skip": skipped} {
			if more := got - want[job+kind]; more < 0 || more > 20 {
				t.Errorf("%s: %d %s, acknowledged %d", job, got, kind, want[job+kind])
			}
		}
	}
}

// childDropRights makes the child somebody who owns nothing here.
func childDropRights() {
	if os.Geteuid() != 0 {
		return
	}
	if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(65534), syscall.Setuid(65534)); err != nil {
		childFail(err)
	}
}

func childRead(dir string) {
	l, err := OpenReadOnly(context.Background(), dir)
	if err != nil {
		fmt.Println("error:", errors.Is(err, ErrLocked), err)
		return
	}
	page, err := l.Runs(context.Background(), RunFilter{Limit: 1 << 20})
	if err != nil {
		childFail(err)
	}
	text := ""
	if len(page.Runs) > 0 {
		r, err := l.OpenOutput(page.Runs[len(page.Runs)-1].Tasks[0].TaskID)
		if err != nil {
			childFail(err)
		}
		buf := make([]byte, 5)
		if _, err := r.ReadAt(buf, 0); err != nil {
			childFail(err)
		}
		text = string(buf)
		r.Close()
	}
	temp := l.temp
	if err := l.Close(); err != nil {
		childFail(err)
	}
	if temp != "" && exists(temp) {
		childFail("the copy is still there")
	}
	fmt.Printf("runs %d output %s immutable %v copy %v\n", len(page.Runs), text, l.immutable, temp != "")
}

// TestReadWithoutRights reads as somebody who may not write, with all the remains
// that a server can leave.
func TestReadWithoutRights(t *testing.T) {
	root := os.Geteuid() == 0
	dir, err := os.MkdirTemp("", "ledger-test-") // t.TempDir is closed to others
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	state := filepath.Join(dir, "state")
	l := openTest(t, state)
	id := begunTask(t, l, "m")
	o := outputOf(t, l, id)
	if err := o.AppendText(noon, wire.Stdout, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	o.Close()
	open := func(dir string) {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() {
				return os.Chmod(path, 0o555)
			}
			return os.Chmod(path, 0o444)
		})
		if err := errors.Join(err, os.Chmod(filepath.Dir(dir), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	says := func(dir, want string) {
		t.Helper()
		out, err := child(t, "read", dir).Output()
		if err != nil || !strings.HasPrefix(string(out), want) {
			t.Errorf("%s: %q, %v; want %q", filepath.Base(dir), out, err, want)
		}
	}
	// Copies of a running server's files are what a SIGKILL would leave.
	hot := filepath.Join(dir, "hot")
	bare := filepath.Join(dir, "bare")
	for _, to := range []string{hot, bare} {
		if err := os.CopyFS(to, os.DirFS(state)); err != nil {
			t.Fatal(err)
		}
	}
	if !exists(bookPath(bare) + "-shm") {
		t.Fatal("no index of the log: the test tests nothing")
	}
	if err := os.Remove(bookPath(bare) + "-shm"); err != nil {
		t.Fatal(err)
	}
	if root {
		open(state)
		says(state, "error: true")
	}
	l.Close()
	open(state)
	open(hot)
	open(bare)
	defer func() { // so that it can be removed
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error { return errors.Join(err, os.Chmod(path, 0o755)) })
	}()
	says(state, "runs 1 output hello immutable true copy false")
	says(hot, "runs 1 output hello immutable false")
	says(bare, "runs 1 output hello immutable false copy true")
	if root { // and who may write anything reads the same
		for _, d := range []string{state, hot, bare} {
			ro, err := OpenReadOnly(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			if page, err := ro.Runs(t.Context(), RunFilter{}); err != nil || len(page.Runs) != 1 {
				t.Errorf("%s: %d %v", d, len(page.Runs), err)
			}
			ro.Close()
		}
	}
	out, err := child(t, "open", state).Output()
	if err != nil || !strings.HasPrefix(string(out), "true cannot open the state directory: ") || !strings.Contains(string(out), "must be writable for uid") {
		t.Errorf("a server without rights: %s %v", out, err)
	}
}

// childFull works on a disk of two megabytes until it is full, and on.
func childFull(dir string) {
	if err := errors.Join(unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""), unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m")); err != nil {
		fmt.Println("SKIP no disk of its own:", err)
		return
	}
	ctx := context.Background()
	state := filepath.Join(dir, "state")
	l, err := Open(ctx, Options{Dir: state})
	if err != nil {
		childFail(err)
	}
	r := runOf("job", noon, "a", "b")
	a, b := TaskID{r.ID, "a"}, TaskID{r.ID, "b"}
	if _, err := l.Apply(ctx, Begun{r}); err != nil {
		childFail(err)
	}
	byOffset, err1 := l.Output(a)
	bySeq, err2 := l.Output(b)
	if err := errors.Join(err1, err2); err != nil {
		childFail(err)
	}
	var wantA, wantB []byte
	seq, notes := int64(0), 0
	work := func() (full int) { // three kinds of writing, each as long as there is room
		for i := range 3000 {
			text := fmt.Appendf(nil, "line %d of the job\n", i)
			n, err := byOffset.Append(noon, int64(len(wantA)), wire.Stdout, text)
			wantA = append(wantA, text[:n-int64(len(wantA))]...)
			if errors.Is(err, ErrFull) {
				full |= 1
			} else if err != nil {
				childFail(err)
			}
			if err := bySeq.AppendSeq(noon, seq, wire.Stdout, text); err == nil {
				seq++
				wantB = append(wantB, text...)
			} else if errors.Is(err, ErrFull) {
				full |= 2
			} else {
				childFail(err)
			}
			_, err = l.Apply(ctx, NoteAdded{Task: a, Note: Note{At: noon, Text: strings.Repeat("x", 200)}})
			if err == nil {
				notes++
			} else if errors.Is(err, ErrFull) {
				full |= 4
				if fault := l.Fault(); fault == nil || !errors.Is(fault.Err, ErrFull) {
					childFail("no fault is told of a full disk:", fault)
				}
			} else {
				childFail(err)
			}
			if full == 7 {
				return full
			}
		}
		return full
	}
	ballast := filepath.Join(dir, "ballast")
	f, err := os.Create(ballast)
	if err != nil {
		childFail(err)
	}
	for err == nil { // leave little
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()
	if err := os.Truncate(ballast, 900<<10); err != nil {
		childFail(err)
	}
	if fault := l.Fault(); fault != nil {
		childFail("a fault before the disk is full:", fault.Err)
	}
	if full := work(); full != 7 {
		childFail("the disk was never full", full)
	}
	if _, err := Open(ctx, Options{Dir: filepath.Join(dir, "second")}); !errors.Is(err, ErrFull) {
		childFail("a new state directory on a full disk:", err)
	}
	check := func(l *Ledger) {
		for id, want := range map[TaskID][]byte{a: wantA, b: wantB} {
			r, err := l.OpenOutput(id)
			if err != nil {
				childFail(err)
			}
			got := make([]byte, len(want)+1)
			if n, _ := r.ReadAt(got, 0); !bytes.Equal(got[:n], want) {
				size, _ := r.Length()
				childFail(id.Machine, "differs:", n, "stored of", len(want), "length", size, byOffset.Length())
			}
			r.Close()
		}
		if task, err := l.Task(ctx, a); err != nil || len(task.Notes) != notes || notes == 0 {
			childFail("notes:", len(task.Notes), "of", notes, err)
		}
	}
	check(l)
	if err := os.Remove(ballast); err != nil {
		childFail(err)
	}
	if _, err := l.Apply(ctx, Launched{Task: b, At: noon}); err != nil {
		childFail("it does not go on:", err)
	}
	if fault := l.Fault(); fault != nil {
		childFail("a fault although it goes on:", fault.Err)
	}
	before := len(wantA) + len(wantB)
	for range 2 {
		text := []byte("there is room again\n")
		if _, err := byOffset.Append(noon, int64(len(wantA)), wire.Stdout, text); err != nil {
			childFail(err)
		}
		if err := bySeq.AppendSeq(noon, seq, wire.Stdout, text); err != nil {
			childFail(err)
		}
		wantA, wantB, seq = append(wantA, text...), append(wantB, text...), seq+1
	}
	if err := errors.Join(byOffset.Sync(), bySeq.Sync(), byOffset.Close(), bySeq.Close()); err != nil {
		childFail(err)
	}
	check(l)
	if err := l.Close(); err != nil {
		childFail(err)
	}
	if l, err = Open(ctx, Options{Dir: state}); err != nil {
		childFail(err)
	}
	check(l)
	l.Close()
	fmt.Println("OK", before > 0)
}

func TestFullDisk(t *testing.T) {
	cmd := child(t, "full", t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.Output()
	if errors.Is(err, unix.EPERM) || strings.HasPrefix(string(out), "SKIP") {
		t.Skipf("needs a mount namespace: %v %s", err, out)
	}
	if err != nil || string(out) != "OK true\n" {
		t.Errorf("%v: %s", err, out)
	}
}
