package report

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

func read(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestTextLog(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "new", "log")
	l := open(t, t.TempDir())
	serve(t, l, Settings{LogDir: dir})
	const job = `nightly "backup" ünd ..*`
	run := begin(t, l, job, 0, "web1", "web2", "web3")
	end(t, l, run, "web2", 3, "10%\r50%\r100%\r\ndone\nno line feed")
	end(t, l, run, "web1", 0, "")
	apply(t, l, ledger.Ended{Task: ledger.TaskID{Run: run, Machine: "web3"}, At: noon.Add(2 * time.Minute), State: ledger.Unreachable, ExitCode: 255},
		ledger.NoteAdded{Task: ledger.TaskID{Run: run, Machine: "web3"}, Note: ledger.Note{At: noon, Text: "Target did not respond\n"}})
	for i, reason := range []string{ledger.ReasonOverlap, ledger.ReasonMaintenance, ledger.ReasonServerDown} {
		s := ledger.Skip{Job: job, From: noon.Add(time.Duration(i+1) * time.Hour), Reason: reason}
		if reason == ledger.ReasonServerDown {
			s.To, s.Count = s.From.Add(time.Hour), 3
		}
		apply(t, l, ledger.SkippedDue{Skip: s})
	}
	apply(t, l, ledger.Begun{Run: ledger.Run{ID: "none_1", Job: job, Due: noon, Fired: noon.Add(1500 * time.Microsecond), Trigger: ledger.TriggerManual, Reason: ledger.ReasonNoMachines}})
	told(t, l, TextLog)
	want := `###### Starting RUN at 2026-05-04 12:00:00.000000+00:00 ################
########## web2 from RUN ################
**** Exit Code 3 ******
100%
done
no line feed
####### END web2 from RUN at 2026-05-04 12:01:00.000000+00:00 #########
########## web1 from RUN ################
**** Exit Code 0 ******
####### END web1 from RUN at 2026-05-04 12:01:00.000000+00:00 #########
########## web3 from RUN ################
**** Exit Code 255 ******
Target did not respond
####### END web3 from RUN at 2026-05-04 12:02:00.000000+00:00 #########
###### Finished RUN at 2026-05-04 12:02:00.000000+00:00 ################
###### Overlap detected on JOB_1777899600 at 2026-05-04 13:00:00.000000+00:00 ################
!!!!!! Maintenance, not started JOB_1777903200 at 2026-05-04 14:00:00.000000+00:00 !!!!!!
!!!!!! Not started JOB_1777906800 (server_down) at 2026-05-04 15:00:00.000000+00:00 !!!!!!
!!!!!! and so were 2 more due times that follow it !!!!!!
###### Starting none_1 at 2026-05-04 12:00:00.001500+00:00 ################
!!!!!! No targets matched for none_1 !!!!!!
###### Finished none_1 at 2026-05-04 12:00:00.001500+00:00 ################
`
	want = strings.NewReplacer("RUN", run, "JOB", job).Replace(want)
	if got := read(t, filepath.Join(dir, job+".log")); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if info, err := os.Stat(filepath.Join(dir, job+".log")); err != nil || info.Mode().Perm()&0o007 != 0 {
		t.Error("output may hold secrets:", info.Mode(), err)
	}
}

func TestExitCodeThatTurnedOutLater(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, t.TempDir())
	e := newEngine(t)
	serve(t, l, Settings{LogDir: dir, Elasticsearch: Store{URLs: []string{e.URL}, Index: "i"}})
	run := begin(t, l, "job", 0, "m")
	id := ledger.TaskID{Run: run, Machine: "m"}
	apply(t, l, ledger.Launched{Task: id, At: noon}, ledger.Ended{Task: id, At: noon, State: ledger.Unknown, ExitCode: wire.ExitLost})
	told(t, l, Elasticsearch)
	apply(t, l, ledger.Amended{Task: id, ExitCode: wire.Ptr(7), End: wire.End{Cause: wire.CauseExit}})
	told(t, l, TextLog)
	told(t, l, Elasticsearch)
	text := read(t, filepath.Join(dir, "job.log"))
	if strings.Count(text, "**** Exit Code 253 ******\n") != 1 || strings.Count(text, "!!!!!! Exit code of "+run+" on m turned out to be 7 !!!!!!\n") != 1 {
		t.Error(text)
	}
	if _, doc := e.find(t, "machine_result", run, "m"); doc["return_code"] != 7.0 {
		t.Error(doc)
	}
}

func TestFolding(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", foldLine+10)
	for in, want := range map[string]string{
		"":                             "",
		"a":                            "a\n",
		"a\n":                          "a\n",
		"a\r\n":                        "a\n",
		"a\r\r\n":                      "a\n",
		"a\rb":                         "b\n",
		"a\r":                          "a\n",
		"a\rb\rcc\nd\re\n":             "cc\ne\n",
		"\r\r":                         "",
		"a\n\n\rb\n":                   "a\n\nb\n",
		"\x00\xff\n":                   "\x00\xff\n",
		long + "\n":                    long + "\n",
		long:                           long + "\n",
		strings.Repeat("1%\r", 50_000): "1%\n",
	} {
		for _, size := range []int{1, 7, 1 << 20} {
			var out bytes.Buffer
			w := bufio.NewWriter(&out)
			f := folder{w: w}
			for i := 0; i < len(in); i += size {
				f.Write([]byte(in[i:min(i+size, len(in))]))
			}
			f.end()
			w.Flush()
			if got := out.String(); got != want && len(in) < 100 {
				t.Errorf("%q by %d: got %q, want %q", in, size, got, want)
			} else if got != want {
				t.Errorf("%d bytes by %d: %d bytes are left, want %d", len(in), size, len(got), len(want))
			}
		}
	}
}

func TestRotation(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, t.TempDir())
	serve(t, l, Settings{LogDir: dir}, func(o *Options) { o.LogSize = 5000 })
	const runs = 45
	for i := range runs {
		end(t, l, begin(t, l, "job", i, "m"), "m", 0, strings.Repeat("x", 990)+"\n")
		if i == 0 {
			told(t, l, TextLog)
			if err := os.Chmod(filepath.Join(dir, "job.log"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	told(t, l, TextLog)
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != logKeep+1 {
		t.Fatal(files, err)
	}
	blocks := 0
	for i := range logKeep + 1 {
		name := filepath.Join(dir, "job.log")
		if i > 0 {
			name += fmt.Sprint(".", i)
		}
		text := read(t, name)
		if len(text) > 5000+1500 || i > 0 && len(text) < 5000 {
			t.Errorf("%s has %d bytes", name, len(text))
		}
		if strings.Count(text, "##########") < 3*(strings.Count(text, "**** Exit Code")) {
			t.Error("a block was split")
		}
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("%s: the file of before had other rights: %v %v", name, info.Mode(), err)
		}
		blocks += strings.Count(text, "**** Exit Code 0 ******\n")
	}
	if blocks < 15 {
		t.Error(blocks)
	}
}

// What lies in the folder is not ours to trust: links lead nowhere, and pipes are
// not waited for.
func TestHostileFolder(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("untouched"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(dir, "link.log")); err != nil {
		t.Fatal(err)
	}
	l := open(t, t.TempDir())
	r, _, _ := serve(t, l, Settings{LogDir: dir})
	end(t, l, begin(t, l, "link", 0, "m"), "m", 0, "x")
	eventually(t, "it says so", func() bool { return strings.Contains(stateOf(t, r, TextLog).Problem, "link.log") })
	if read(t, outside) != "untouched" {
		t.Fatal("written through a link")
	}
	if err := os.Remove(filepath.Join(dir, "link.log")); err != nil {
		t.Fatal(err)
	}
	told(t, l, TextLog)
	if text := read(t, filepath.Join(dir, "link.log")); strings.Count(text, "Finished") != 1 || stateOf(t, r, TextLog).Problem != "" {
		t.Error(text)
	}
	if err := os.Mkdir(filepath.Join(dir, "folder.log"), 0o700); err != nil {
		t.Fatal(err)
	}
	begin(t, l, "folder", 0, "m")
	eventually(t, "it says so", func() bool { return strings.Contains(stateOf(t, r, TextLog).Problem, "is no plain file") })
}

func TestFolderThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	second := t.TempDir()
	l := open(t, t.TempDir())
	r, log, _ := serve(t, l, Settings{}, func(o *Options) { o.LogDirs = []string{filepath.Join(file, "log"), second} })
	eventually(t, "the next is taken", func() bool { return stateOf(t, r, TextLog).To == second })
	s := stateOf(t, r, TextLog)
	if !strings.Contains(s.Warning, "text logs go to "+second) || s.Problem != "" || strings.Count(log.String(), "level=WARN") != 1 {
		t.Error(s, log)
	}
	// One that people have named has no other in its place; jobs go on.
	r.Set(t.Context(), Settings{LogDir: filepath.Join(file, "mine")})
	eventually(t, "it says so", func() bool {
		return strings.Contains(stateOf(t, r, TextLog).Problem, "cannot write text logs: ")
	})
	end(t, l, begin(t, l, "job", 0, "m"), "m", 0, "x")
	if !strings.Contains(log.String(), "level=ERROR") {
		t.Error(log)
	}
	third := t.TempDir()
	r.Set(t.Context(), Settings{LogDir: third})
	told(t, l, TextLog)
	if text := read(t, filepath.Join(third, "job.log")); strings.Count(text, "Finished") != 1 {
		t.Error(text)
	}
	if s := stateOf(t, r, TextLog); s.To != third || s.Problem != "" || s.Warning != "" {
		t.Error(s)
	}
}

// A folder that is taken away is made anew.
func TestFolderThatGoes(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "log")
	l := open(t, t.TempDir())
	serve(t, l, Settings{LogDir: dir})
	for i := range 2 {
		end(t, l, begin(t, l, "job", i, "m"), "m", 0, "x")
		told(t, l, TextLog)
		if text := read(t, filepath.Join(dir, "job.log")); strings.Count(text, "Finished") != 1 {
			t.Error(text)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
}

// Output that was pruned before its turn came is missed, and said to be.
func TestPrunedOutput(t *testing.T) {
	t.Parallel()
	e := newEngine(t)
	e.down = true
	l := open(t, t.TempDir())
	serve(t, l, toEngine(e.URL))
	run := begin(t, l, "job", 0, "m")
	end(t, l, run, "m", 3, "x")
	if n, err := l.Prune(t.Context(), noon.Add(time.Hour)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	e.with(func() { e.down = false })
	told(t, l, Elasticsearch)
	if _, doc := e.find(t, "machine_result", run, "m"); doc["return_code"] != 3.0 || doc["output"] != noLonger {
		// It may have been read before it was pruned.
		if doc["output"] != "x" {
			t.Error(doc)
		}
	}
}

// A write that fails half way leaves no half block.
func TestTakenBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, t.TempDir())
	run := "job_1"
	text := newTextLog(Options{Ledger: l, LogDirs: []string{dir}})
	if err := text.ready(); err != nil {
		t.Fatal(err)
	}
	defer text.close()
	if err := os.WriteFile(filepath.Join(dir, "job.log"), []byte("before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	list := []ledger.News{
		{Kind: ledger.NewsStart, At: noon, Job: "job", Run: run}, {Kind: ledger.NewsStart, At: noon, Job: "other", Run: run},
		{Kind: ledger.NewsStart, At: noon, Job: "third", Run: run},
	}
	n, _, err := text.prepare(t.Context(), list, nil)
	if err != nil || n != len(list) {
		t.Fatal(n, err)
	}
	if err := os.Mkdir(filepath.Join(dir, "third.log"), 0o700); err != nil { // since it was prepared
		t.Fatal(err)
	}
	if err := text.send(t.Context(), list); err == nil {
		t.Fatal("no error")
	}
	if got := read(t, filepath.Join(dir, "job.log")) + read(t, filepath.Join(dir, "other.log")); got != "before\n" {
		t.Errorf("left behind: %q", got)
	}
	if err := os.Remove(filepath.Join(dir, "third.log")); err != nil {
		t.Fatal(err)
	}
	if err := text.ready(); err != nil {
		t.Fatal(err)
	}
	n, state, err := text.prepare(t.Context(), list, nil)
	if err != nil || n != len(list) {
		t.Fatal(n, err)
	}
	if err := text.send(t.Context(), list); err != nil {
		t.Fatal(err)
	}
	// Somebody else puts one aside: it is another file then, and stays as it is.
	if err := os.Rename(filepath.Join(dir, "job.log"), filepath.Join(dir, "job.log-old")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "job.log"), []byte("someone else's\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := text.restore(state); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(dir, "job.log")); got != "someone else's\n" {
		t.Error(got)
	}
	if got := read(t, filepath.Join(dir, "other.log")); got != "" {
		t.Error(got)
	}
}
