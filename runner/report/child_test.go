package report

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

const childDir = "REPORT_TEST_DIR"

// runChild is a server for tests that kill it: it begins and ends runs and writes
// text logs until it is killed.
func runChild() {
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	if err := childServer(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func childServer(dir string) error {
	ctx := context.Background()
	l, err := ledger.Open(ctx, ledger.Options{Dir: filepath.Join(dir, "state")})
	if err != nil {
		return err
	}
	r := New(ctx, Options{Ledger: l, Linger: time.Millisecond, LogSize: 20_000}, Settings{LogDir: filepath.Join(dir, "log")})
	go r.Run(ctx)
	base := time.Now()
	for i := 0; ; i++ {
		at := base.Add(time.Duration(i) * time.Microsecond)
		run := ledger.Run{ID: fmt.Sprintf("job%d_%d", i%3, at.UnixMicro()), Job: fmt.Sprintf("job%d", i%3), Due: at, Fired: at, Trigger: ledger.TriggerManual,
			Tasks: []ledger.Task{{TaskID: ledger.TaskID{Machine: "m"}}}}
		if _, err := l.Apply(ctx, ledger.Begun{Run: run}); err != nil {
			return err
		}
		id := ledger.TaskID{Run: run.ID, Machine: "m"}
		o, err := l.Output(id)
		if err != nil {
			return err
		}
		if _, err := o.Append(at, 0, wire.Stdout, []byte(strings.Repeat("line of output\n", 1+i%40))); err != nil {
			return err
		}
		if err := o.Close(); err != nil {
			return err
		}
		if _, err := l.Apply(ctx, ledger.Launched{Task: id, At: at}, ledger.Started{Task: id, At: at, PID: 1},
			ledger.Ended{Task: id, At: at, State: ledger.Succeeded, End: wire.End{Cause: wire.CauseExit, RealCode: wire.Ptr(0)}}); err != nil {
			return err
		}
		fmt.Println("another one")
	}
}

// A server that is killed again and again leaves text logs in which every block is
// there once and whole.
func TestKilledServers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	kills := 8
	if testing.Short() {
		kills = 3
	}
	for range kills {
		child := exec.Command(os.Args[0], "-test.run", "^$")
		child.Env = append(os.Environ(), childDir+"="+dir)
		child.Stderr = os.Stderr
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for range 1 + rand.IntN(20) {
			if !lines.Scan() {
				t.Error("the child ended by itself")
			}
		}
		time.Sleep(time.Duration(rand.IntN(5000)) * time.Microsecond) // any moment will do
		child.Process.Kill()
		child.Wait()
	}
	l := open(t, filepath.Join(dir, "state"))
	_, log, stop := serve(t, l, Settings{LogDir: filepath.Join(dir, "log")})
	told(t, l, TextLog)
	stop()
	if text := log.String(); strings.Contains(text, "ERROR") {
		t.Error(text)
	}
	checkBlocks(t, l, filepath.Join(dir, "log"))
}

// checkBlocks compares the text logs with the ledger. Files that were put aside
// hold the blocks of before; where the oldest were dropped, their blocks are gone
// with them, from the oldest on.
func checkBlocks(t *testing.T, l *ledger.Ledger, dir string) {
	t.Helper()
	blocks := map[string]string{} // by run: what it should look like, and so what was found
	var found int
	for job := range 3 {
		var text string
		for i := logKeep; i >= 0; i-- {
			name := filepath.Join(dir, fmt.Sprintf("job%d.log", job))
			if i > 0 {
				name += fmt.Sprint(".", i)
			}
			data, err := os.ReadFile(name)
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			text += string(data)
		}
		for block := range strings.SplitSeq(text, "###### Starting ") {
			run, _, _ := strings.Cut(block, " ")
			if run == "" {
				continue
			}
			if blocks[run] != "" {
				t.Errorf("%s is there twice:\n%s\n%s", run, blocks[run], block)
			}
			blocks[run] = block
			found++
		}
	}
	if found < 3 {
		t.Errorf("only %d blocks", found)
	}
	runs := 0
	missing := map[string]bool{} // jobs of which the oldest blocks were put aside and dropped
	cursor := ""
	for {
		page, err := l.Runs(t.Context(), ledger.RunFilter{Limit: 100, Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Runs { // newest first
			runs++
			task := r.Tasks[0]
			block, there := blocks[r.ID]
			delete(blocks, r.ID)
			switch {
			case there && missing[r.Job]:
				t.Errorf("%s is there, and a later one is not", r.ID)
			case !there:
				_, err := os.Stat(filepath.Join(dir, r.Job+".log."+fmt.Sprint(logKeep)))
				if err != nil {
					t.Errorf("%s is missing", r.ID)
				}
				missing[r.Job] = true
			case !task.State.Done(): // killed before its end
				if strings.Contains(block, "Exit Code") || strings.Contains(block, "Finished") {
					t.Errorf("%s has not ended:\n%s", r.ID, block)
				}
			default:
				want := fmt.Sprintf("%s at %s ################\n########## m from %s ################\n**** Exit Code 0 ******\n%s####### END m from %s at %s #########\n###### Finished %s at %s ################\n",
					r.ID, logTime(r.Fired), r.ID, strings.Repeat("line of output\n", int(task.Length)/15), r.ID, logTime(task.Ended), r.ID, logTime(task.Ended))
				if block != want {
					t.Errorf("%s:\n%s\nwant:\n%s", r.ID, block, want)
				}
			}
		}
		if cursor = page.Next; cursor == "" {
			break
		}
	}
	for run := range blocks {
		t.Errorf("%s is in a text log and in no ledger", run)
	}
	t.Logf("%d runs, %d blocks", runs, found)
}
