package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"saltpeter/wsx/wire"
)

// begunTask opens a run with one task and returns the task's name.
func begunTask(t testing.TB, l *Ledger, machine string) TaskID {
	t.Helper()
	r := runOf("job", noon, machine)
	apply(t, l, Begun{r})
	return TaskID{r.ID, machine}
}

func outputOf(t testing.TB, l *Ledger, id TaskID) *Output {
	t.Helper()
	o, err := l.Output(id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { o.Close() })
	return o
}

func stored(t testing.TB, l *Ledger, id TaskID) string {
	t.Helper()
	r, err := l.OpenOutput(id)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n, err := r.Length()
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(io.NewSectionReader(r, 0, 1<<40))
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(data)) != n {
		t.Fatalf("length %d, read %d", n, len(data))
	}
	return string(data)
}

func TestAppendByOffset(t *testing.T) {
	l := openTest(t, t.TempDir())
	id := begunTask(t, l, "m")
	r, err := l.OpenOutput(id) // before there is anything
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if n, err := r.Length(); n != 0 || err != nil {
		t.Fatal(n, err)
	}
	if _, err := r.ReadAt(make([]byte, 1), 0); err != io.EOF {
		t.Fatal(err)
	}
	o := outputOf(t, l, id)
	if err := o.Sync(); err != nil {
		t.Fatalf("sync of nothing: %v", err)
	}
	if o.Length() != 0 || o.LastSeq() != -1 {
		t.Fatal(o.Length(), o.LastSeq())
	}
	for _, c := range []struct {
		offset int64
		data   string
		length int64
		err    error
	}{
		{0, "ab\x00", 3, nil}, {0, "ab\x00", 3, nil}, {1, "b\x00cd", 5, nil}, {6, "x", 5, ErrGap}, {5, "", 5, nil}, {5, "e", 6, nil}, {2, "", 6, nil},
	} {
		n, err := o.Append(noon, c.offset, wire.Stdout, []byte(c.data))
		if n != c.length || !errors.Is(err, c.err) {
			t.Errorf("%+v: %d, %v", c, n, err)
		}
	}
	if _, err := o.Append(noon, -1, wire.Stdout, []byte("x")); err == nil {
		t.Error("took an offset below 0")
	}
	if got := stored(t, l, id); got != "ab\x00cde" {
		t.Errorf("%q", got)
	}
	buf := make([]byte, 4) // the reader from before sees it grow
	if n, err := r.ReadAt(buf, 1); n != 4 || err != nil || string(buf) != "b\x00cd" {
		t.Errorf("%d %v %q", n, err, buf)
	}
	if n, err := r.ReadAt(buf, 4); n != 2 || err != io.EOF {
		t.Errorf("%d %v", n, err)
	}
	if err := o.Sync(); err != nil {
		t.Error(err)
	}
	task, err := l.Task(t.Context(), id)
	if err != nil || task.Length != 0 { // queued: cannot have any
		t.Error(task.Length, err)
	}
	if got := apply(t, l, Launched{Task: id, At: noon}); got[0].Length != 6 {
		t.Errorf("length %d", got[0].Length)
	}
	if _, err := l.Output(TaskID{"no", "m"}); !errors.Is(err, ErrNoTask) {
		t.Error(err)
	}
	if _, err := l.OpenOutput(TaskID{"no", "m"}); !errors.Is(err, ErrNoTask) {
		t.Error(err)
	}
}

func TestAppendBySeq(t *testing.T) {
	l := openTest(t, t.TempDir())
	id := begunTask(t, l, "m")
	o := outputOf(t, l, id)
	for _, c := range []struct {
		seq int64
		err error
	}{{1, ErrGap}, {0, nil}, {0, nil}, {1, nil}, {3, ErrGap}, {2, nil}, {1, nil}} {
		if err := o.AppendSeq(at(int(c.seq)), c.seq, wire.Stderr, fmt.Appendf(nil, "<%d>", c.seq)); !errors.Is(err, c.err) {
			t.Errorf("%d: %v", c.seq, err)
		}
	}
	if o.LastSeq() != 2 || stored(t, l, id) != "<0><1><2>" {
		t.Errorf("%d %q", o.LastSeq(), stored(t, l, id))
	}
	r, err := l.OpenOutput(id)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rows, err := r.Rows()
	if err != nil || len(rows) != 3 || rows[2] != (Row{6, at(2), wire.Stderr, 2}) {
		t.Errorf("%+v %v", rows, err)
	}
}

// What is stored after a crash in the middle of any call, and after the wrapper
// has sent again what was not acknowledged.
func TestCrashAtEveryWrite(t *testing.T) {
	type op struct {
		kind byte
		data string
	}
	ops := []op{
		{'b', "first bytes\n"}, {'b', "more"}, {'s', "frame zero"}, {'s', "frame one\n"}, {'t', "text"}, {'t', "again"}, {'s', "two"},
		{'m', ""}, {'b', "bytes again"}, {'m', ""}, {'m', ""}, {'s', "three"}, {'s', ""}, {'m', ""}, {'s', "five"},
	}
	for _, first := range []int{0, 2, 4, 7} { // also with each kind as the very first
		l := openTest(t, t.TempDir())
		id := begunTask(t, l, "m")
		num, err := l.taskKey(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		base := outputBase(l.dir, num)
		read := func() (data, idx []byte) {
			data, err1 := os.ReadFile(base + ".out")
			idx, err2 := os.ReadFile(base + ".idx")
			if (err1 != nil || err2 != nil) && !(os.IsNotExist(err1) && os.IsNotExist(err2)) {
				t.Fatal(err1, err2)
			}
			return data, idx
		}
		seq, states := int64(0), 0
		do := func(o *Output, c op, n int, offset, seq int64) {
			t.Helper()
			var err error
			switch c.kind {
			case 'b':
				_, err = o.Append(at(n), offset, wire.Stdout, []byte(c.data))
			case 's':
				err = o.AppendSeq(at(n), seq, wire.Stdout, []byte(c.data))
			case 't':
				err = o.AppendText(at(n), wire.Stderr, []byte(c.data))
			case 'm':
				err = o.Mark(at(n), offset)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		some := ops[first:]
		if first > 0 {
			some = some[:min(3, len(some))]
		}
		for n, c := range some {
			dataBefore, idxBefore := read()
			o, err := l.Output(id)
			if err != nil {
				t.Fatal(err)
			}
			do(o, c, n, int64(len(dataBefore)), seq)
			o.Close()
			dataAfter, idxAfter := read()

			// Every state that the files pass through, in the order of the writes.
			type state struct{ data, idx []byte }
			var passed []state
			for i := len(idxAfter); i >= len(idxBefore); i -= 8 { // ends of rows are among them
				data := dataBefore
				if c.kind == 's' && i > len(idxAfter)-rowSize {
					data = dataAfter // all of it is there before the last row
				}
				if c.kind == 's' && i == len(idxAfter)-rowSize {
					for j := len(dataBefore); j < len(dataAfter); j++ {
						passed = append(passed, state{dataAfter[:j], idxAfter[:i]})
					}
				}
				passed = append(passed, state{data, idxAfter[:i]})
			}
			if c.kind == 'b' || c.kind == 't' {
				for j := len(dataBefore); j <= len(dataAfter); j++ {
					passed = append(passed, state{dataAfter[:j], idxAfter})
				}
			}
			if len(passed) == 0 {
				t.Fatal("an operation without a write")
			}
			if err := os.MkdirAll(filepath.Dir(base), 0o700); err != nil {
				t.Fatal(err)
			}
			for _, s := range passed {
				states++
				write(t, base+".out", s.data)
				write(t, base+".idx", s.idx)
				if got := stored(t, l, id); !strings.HasPrefix(string(dataAfter), got) || len(got) < len(dataBefore) {
					t.Fatalf("op %d %c %d/%d: a reader sees %q, was %q", n, c.kind, len(s.data), len(s.idx), got, dataBefore)
				}
				o, err := l.Output(id)
				if err != nil {
					t.Fatal(err)
				}
				length := o.Length()
				got, _ := read()
				if int64(len(got)) != length || !strings.HasPrefix(string(dataAfter), string(got)) || len(got) < len(dataBefore) {
					t.Fatalf("op %d %c: after the crash %q (%d), was %q, is %q", n, c.kind, got, length, dataBefore, dataAfter)
				}
				if c.kind == 's' && len(c.data) > 0 && (o.LastSeq() == seq) != bytes.Equal(got, dataAfter) {
					t.Fatalf("op %d: seq %d but %q of %q", n, o.LastSeq(), got, dataAfter)
				}
				switch c.kind { // text is never sent again
				case 't':
					if err := o.AppendText(at(n), wire.Stderr, dataAfter[length:]); err != nil {
						t.Fatal(err)
					}
				default:
					do(o, c, n, int64(len(dataBefore)), seq)
				}
				o.Close()
				if got := stored(t, l, id); got != string(dataAfter) {
					t.Fatalf("op %d %c: sent again: %q, want %q", n, c.kind, got, dataAfter)
				}
			}
			write(t, base+".out", dataAfter)
			write(t, base+".idx", idxAfter)
			if c.kind == 's' {
				seq++
			}
		}
		if first == 0 && states < 150 {
			t.Errorf("only %d states", states)
		}
	}
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A machine that loses its power may keep rows whose bytes are gone, and rows of
// zeros.
func TestRowsWithoutTheirBytes(t *testing.T) {
	l := openTest(t, t.TempDir())
	id := begunTask(t, l, "m")
	o := outputOf(t, l, id)
	for i := range int64(30) {
		if err := o.AppendSeq(at(int(i)), i, wire.Stdout, []byte("0123456789")); err != nil {
			t.Fatal(err)
		}
	}
	base := strings.TrimSuffix(o.file.data.Name(), ".out")
	o.Close()
	idx, err := os.ReadFile(base + ".idx")
	if err != nil {
		t.Fatal(err)
	}
	write(t, base+".idx", append(idx, make([]byte, 5*rowSize+7)...))
	if err := os.Truncate(base+".out", 125); err != nil {
		t.Fatal(err)
	}
	if got := stored(t, l, id); len(got) != 120 {
		t.Errorf("reader: %d", len(got))
	}
	o = outputOf(t, l, id)
	if o.Length() != 120 || o.LastSeq() != 11 {
		t.Errorf("%d bytes, seq %d", o.Length(), o.LastSeq())
	}
	if err := o.AppendSeq(noon, 12, wire.Stdout, []byte("twelve")); err != nil {
		t.Fatal(err)
	}
	if got := stored(t, l, id); !strings.HasSuffix(got, "0123456789twelve") || len(got) != 126 {
		t.Errorf("%q", got)
	}
}

func TestMarksTellTheTime(t *testing.T) {
	l := openTest(t, t.TempDir())
	id := begunTask(t, l, "m")
	o := outputOf(t, l, id)
	add := func(sec int, stream byte, text string) {
		t.Helper()
		if _, err := o.Append(at(sec), o.Length(), stream, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	mark := func(sec int, offset int64) {
		t.Helper()
		if err := o.Mark(at(sec), offset); err != nil {
			t.Fatal(err)
		}
	}
	add(0, wire.Stdout, "aaaaa")
	add(60, wire.Stdout, "bbbbb") // after a cut link: a minute's output at once
	add(60, wire.Stderr, "ccccc")
	mark(2, 5)
	mark(3, 7)
	mark(4, 12)
	mark(5, 99) // not there yet
	r, err := l.OpenOutput(id)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rows, err := r.Rows()
	if err != nil {
		t.Fatal(err)
	}
	want := []Row{
		{0, at(0), wire.Stdout, -1}, {5, at(2), wire.Stdout, -1}, {7, at(3), wire.Stdout, -1},
		{10, at(4), wire.Stderr, -1}, {12, at(4), wire.Stderr, -1},
	}
	if fmt.Sprint(rows) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", rows, want)
	}
}

func TestRowsAreFew(t *testing.T) {
	l := openTest(t, t.TempDir())
	id := begunTask(t, l, "m")
	o := outputOf(t, l, id)
	data := make([]byte, 64<<10)
	for i := range 160 { // 10 MiB in 160 ms
		if _, err := o.Append(noon.Add(time.Duration(i)*time.Millisecond), o.Length(), wire.Stdout, data); err != nil {
			t.Fatal(err)
		}
	}
	r, err := l.OpenOutput(id)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	rows, err := r.Rows()
	if err != nil || len(rows) < 10 || len(rows) > 13 {
		t.Errorf("%d rows, %v", len(rows), err)
	}
}

func TestTwoOutputsOfOneTask(t *testing.T) {
	l := openTest(t, t.TempDir())
	id := begunTask(t, l, "m")
	text := strings.Repeat("0123456789abcdef", 4096)
	var wg sync.WaitGroup
	for range 4 { // an old and a new connection that overlap, each sending it all
		o := outputOf(t, l, id)
		wg.Go(func() {
			defer o.Close()
			for n := 0; n < len(text); n += 100 {
				_, err := o.Append(noon, int64(n), wire.Stdout, []byte(text[n:min(len(text), n+100)]))
				if err != nil {
					t.Errorf("at %d: %v", n, err)
					return
				}
			}
			if err := o.Sync(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := stored(t, l, id); got != text {
		t.Errorf("%d bytes of %d, or others", len(got), len(text))
	}
	if len(l.outputs) != 0 {
		t.Error("an output stays open")
	}
}

func TestOddNames(t *testing.T) {
	l := openTest(t, filepath.Join(t.TempDir(), "a ?#%41 dir"))
	long := strings.Repeat("ü", 100)
	for i, name := range []string{"../../etc/passwd", "a/b", "", ".", "..", long, "new\nline", "per%cent", "nul\x00", "\xff\xfe", `quote"'`} {
		r := runOf("job"+name, noon.Add(time.Duration(i)*time.Second), name, name+"2")
		apply(t, l, Begun{r})
		for _, m := range []string{name, name + "2"} {
			id := TaskID{r.ID, m}
			o := outputOf(t, l, id)
			if err := o.AppendText(noon, wire.Stdout, []byte(r.ID+m)); err != nil {
				t.Fatal(err)
			}
			o.Close()
			if got := stored(t, l, id); got != r.ID+m {
				t.Errorf("%q on %q: %q", r.ID, m, got)
			}
			if task, err := l.Task(t.Context(), id); err != nil || task.TaskID != id {
				t.Errorf("%q: %+v %v", id, task, err)
			}
		}
	}
	entries, err := os.ReadDir(filepath.Join(l.dir, "output"))
	if err != nil || len(entries) != 1 {
		t.Error(entries, err)
	}
}

func FuzzSidecar(f *testing.F) {
	head, err := sidecarHead(TaskID{"job_1", "m"})
	if err != nil {
		f.Fatal(err)
	}
	good := append(head, sidecarRow{offset: 0, end: 5, at: 1, seq: 0, stream: 1, kind: rowSeq}.encode()...)
	f.Add(good, []byte("hello world"))
	f.Add(append(good, sidecarRow{offset: 5, end: 5, seq: 0, stream: 2, kind: rowOpen}.encode()...), []byte("hello world"))
	f.Add(append(good, sidecarRow{offset: 3, end: 3, at: 5, seq: 0, kind: rowMark}.encode()...), []byte("hello"))
	f.Add(good[:len(good)-3], []byte("hello"))
	f.Add(head[:7], []byte("x"))
	f.Add([]byte(nil), []byte("x"))
	f.Add(append(head, make([]byte, 3*rowSize)...), []byte("x"))
	f.Fuzz(func(t *testing.T, idx, data []byte) {
		dir := t.TempDir()
		of := &outputFile{l: &Ledger{dir: dir, outputs: map[int64]*outputFile{}}, id: TaskID{"job_1", "m"}, num: 1, refs: 1}
		of.seq.Store(-1)
		base := outputBase(dir, 1)
		if err := os.MkdirAll(filepath.Dir(base), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, base+".idx", idx)
		write(t, base+".out", data)
		r := Reader{base: base}
		before, err1 := r.Length()
		if _, err := r.Rows(); (err == nil) != (err1 == nil) {
			t.Fatal(err, err1)
		}
		r.Close()
		o := &Output{file: of}
		defer o.Close()
		if err := of.look(); err != nil {
			if err1 == nil {
				t.Fatal(err)
			}
			return
		}
		if o.Length() != before || before > int64(len(data)) {
			t.Fatalf("a reader saw %d, the writer %d, of %d", before, o.Length(), len(data))
		}
		if err := o.AppendSeq(noon, o.LastSeq()+1, wire.Stdout, []byte("more")); err != nil {
			t.Fatal(err)
		}
		r = Reader{base: base}
		defer r.Close()
		if n, err := r.Length(); err != nil || n != before+4 {
			t.Fatalf("%d after %d: %v", n, before, err)
		}
		if _, err := r.Rows(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestClosedOutput(t *testing.T) {
	l := openTest(t, t.TempDir())
	id := begunTask(t, l, "m")
	for range 2 { // never written to, and written to
		o := outputOf(t, l, id)
		if err := errors.Join(o.Close(), o.Close()); err != nil {
			t.Fatal(err)
		}
		if err := o.AppendText(noon, wire.Stdout, []byte("x")); !errors.Is(err, os.ErrClosed) {
			t.Errorf("wrote to a closed output: %v", err)
		}
		o = outputOf(t, l, id)
		if err := o.AppendText(noon, wire.Stdout, []byte("y")); err != nil {
			t.Fatal(err)
		}
		o.Close()
	}
	if got := stored(t, l, id); got != "yy" {
		t.Errorf("%q", got)
	}
}
