package wrapper

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"saltpeter/wsx/wire"
)

// strangeBytes has all values, NUL and broken UTF-8 among them, at every
// alignment.
func strangeBytes(n int) []byte {
	const period = 256 * 256
	b := make([]byte, n)
	for i := range b[:min(n, period)] {
		b[i] = byte(i*7 + i/256)
	}
	for at := period; at < n; at += period {
		copy(b[at:], b[:period])
		b[at] = byte(at / period) // each block is another
		if at+1 < n {
			b[at+1] = byte(at / period / 256)
		}
	}
	return b
}

func writeTemp(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func sameBytes(t *testing.T, s *testServer, want []byte) {
	t.Helper()
	s.change(func() {
		if sha256.Sum256(s.output) != sha256.Sum256(want) {
			at := 0
			for at < min(len(want), len(s.output)) && want[at] == s.output[at] {
				at++
			}
			t.Errorf("%d bytes arrived, %d were printed; they differ at %d", len(s.output), len(want), at)
		}
	})
}

func TestEveryByteAsItCame(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	want := strangeBytes(50 << 20)
	w := launch(t, testOrder(t, s, "cat "+writeTemp(t, want)))
	m := s.awaitMessage(wire.TypeComplete)
	retcode(t, m, 0)
	w.exits()
	sameBytes(t, s, want)
}

func TestSeparateStreams(t *testing.T) {
	s := newTestServer(t)
	o := testOrder(t, s, "i=0; while [ $i -lt 50 ]; do echo out; echo err >&2; i=$((i+1)); done")
	o.Streams = "separate"
	w := launch(t, o)
	retcode(t, s.awaitMessage(wire.TypeComplete), 0)
	w.exits()
	s.change(func() {
		by := map[byte]*strings.Builder{wire.Stdout: {}, wire.Stderr: {}}
		for _, run := range s.streams {
			by[run.stream].WriteString(run.text)
		}
		if got := by[wire.Stdout].String(); got != strings.Repeat("out\n", 50) {
			t.Errorf("stdout %q", got)
		}
		if got := by[wire.Stderr].String(); got != strings.Repeat("err\n", 50) {
			t.Errorf("stderr %q", got)
		}
	})
}

// The server is cut off in the middle of the output, more than once, and comes
// back with less than it had confirmed.
func TestServerRestartsMidOutput(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	want := strangeBytes(24 << 20)
	o := testOrder(t, s, "cat "+writeTemp(t, want))
	s.change(func() { s.stopAt = 5 << 20 })
	w := launch(t, o)
	s.await("the first part", func() bool { return len(s.output) > 4<<20 })
	s.stop()
	s.change(func() { s.stopAt = 15 << 20 })
	s.start()
	s.await("the second part", func() bool { return len(s.output) > 14<<20 })
	s.stop()
	s.change(func() { // it crashed, and its disk had less
		s.stopAt = 0
		s.output = s.output[:3<<20]
	})
	s.start()
	retcode(t, s.awaitMessage(wire.TypeComplete), 0)
	w.exits()
	sameBytes(t, s, want)
}

// The end is told although the server takes no more output: it is known at once
// that the job is over, and the server acks when it has everything.
func TestEndDoesNotWaitForSlowOutput(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	s.change(func() { s.stopAt = 1 << 20 })
	want := strangeBytes(2 << 20)
	w := launch(t, testOrder(t, s, "cat "+writeTemp(t, want)))
	m := s.awaitMessage(wire.TypeComplete)
	if m.Length == nil || *m.Length != int64(len(want)) {
		t.Errorf("length %v", m.Length)
	}
	s.stop()
	s.change(func() { s.stopAt = 0 })
	s.start()
	w.exits()
	sameBytes(t, s, want)
}

// However much a job prints and however long the server is away, the wrapper
// holds a bounded amount, on disk and in memory, and never stops the job.
func TestBoundedWithoutServer(t *testing.T) {
	t.Parallel()
	s := newAbsentServer(t)
	o := testOrder(t, s, "yes 0123456789abcde | head -c 100000000; echo the end")
	o.StartWait, o.MaxOutput = 0.05, 8<<20
	w := launch(t, o)
	most := 0
	waitFor(t, "the end record", func() bool {
		most = max(most, residentKB(t, w.cmd.Process.Pid))
		_, err := os.Stat(w.identity.EndFile)
		return err == nil
	})
	if most > 200<<10 { // the race detector has the most of it
		t.Errorf("%d KiB resident", most)
	}
	if size := dirSize(t, w.identity.Spool); size > 9<<20 {
		t.Errorf("%d bytes in the spool", size)
	}
	s.start()
	retcode(t, s.awaitMessage(wire.TypeComplete), 0)
	w.exits()
	checkGap(t, []byte(s.text()), 100000000+8)
}

// checkGap: what came, the marker, and what the marker counts are all that was
// printed.
func checkGap(t *testing.T, got []byte, printed int64) {
	t.Helper()
	if !bytes.HasSuffix(got, []byte("the end\n")) {
		t.Errorf("the newest is not kept: %q", got[max(len(got)-40, 0):])
	}
	var lost int64
	rest := got
	for {
		head, tail, ok := bytes.Cut(rest, []byte("\n[saltpeter: "))
		if !ok {
			break
		}
		number, after, _ := bytes.Cut(tail, []byte(" bytes of output were given up here: the spool was full]\n"))
		n, err := strconv.ParseInt(string(number), 10, 64)
		if err != nil {
			t.Fatalf("a marker that cannot be read after %d bytes: %q", len(head), number)
		}
		if !bytes.Equal(lossMarker(n, lossFull), append(append([]byte("\n[saltpeter: "), number...), " bytes of output were given up here: the spool was full]\n"...)) {
			t.Fatal("another marker than ours")
		}
		lost += n
		printed += int64(len(lossMarker(n, lossFull)))
		rest = after
	}
	if lost == 0 || int64(len(got))+lost != printed {
		t.Errorf("%d bytes came and %d are said to be lost; together that should be %d", len(got), lost, printed)
	}
}

func TestBlockLosesNothing(t *testing.T) {
	s := newAbsentServer(t)
	o := testOrder(t, s, "yes 0123456789abcde | head -c 8000000; echo the end")
	o.StartWait, o.MaxOutput, o.OnSpoolFull = 0.05, 1<<20, "block"
	w := launch(t, o)
	waitFor(t, "a full spool", func() bool { return dirSize(t, w.identity.Spool) > 700<<10 })
	s.start()
	retcode(t, s.awaitMessage(wire.TypeComplete), 0)
	w.exits()
	if got := s.text(); len(got) != 8000008 || !strings.HasSuffix(got, "the end\n") {
		t.Errorf("%d bytes", len(got))
	}
}

// A kill gets through while the job prints as fast as it can to a server that
// takes nothing.
func TestKillDuringFlood(t *testing.T) {
	t.Parallel()
	s := newTestServer(t)
	s.change(func() { s.stopAt = 1 })
	o := testOrder(t, s, "yes")
	o.MaxOutput = 4 << 20
	w := launch(t, o)
	waitFor(t, "a full spool", func() bool { return dirSize(t, w.identity.Spool) > 3<<20 })
	s.send(&wire.Message{Type: wire.TypeKill, ID: "k"})
	if r := s.awaitReport("k"); r.Outcome != wire.OutcomeGone {
		t.Errorf("report %+v", r)
	}
	retcode(t, s.awaitMessage(wire.TypeComplete), wire.ExitKilled)
	s.stop()
	s.change(func() { s.stopAt = 0 })
	s.start()
	w.exits()
	if got := s.text(); !strings.HasSuffix(got, wire.KilledLine) {
		t.Errorf("ends with %q", got[max(0, len(got)-80):])
	}
}

// A disk that is full in earnest costs the oldest output, and not the end record.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small disk in a mount namespace needs root")
	}
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip("there is no unshare(1) here: ", err)
	}
	s := newAbsentServer(t)
	o := testOrder(t, s, "yes 0123456789abcde | head -c 20000000; echo the end")
	o.StartWait, o.MaxOutput, o.SpoolDir = 0.05, 16<<20, t.TempDir()
	cmd := wrapperCommand([]string{"--foreground"})
	script := `mount -t tmpfs -o size=4m none "$1" && chmod 700 "$1" && shift && exec "$@"`
	cmd.Path, cmd.Args = unshare, append([]string{"unshare", "-m", "sh", "-c", script, "sh", o.SpoolDir}, cmd.Args...)
	w := launchAs(t, o, cmd)
	if w.identity.PID == 0 {
		t.Skipf("no mount namespace to be had here: %s", w.stderr)
	}
	end := fmt.Sprintf("/proc/%d/root%s", w.cmd.Process.Pid, w.identity.EndFile)
	waitFor(t, "the end record", func() bool { data, err := os.ReadFile(end); return err == nil && len(data) > 10 })
	s.start()
	retcode(t, s.awaitMessage(wire.TypeComplete), 0)
	w.exits()
	checkGap(t, []byte(s.text()), 20000000+8)
}

// Without a place on disk the output is kept in memory, and that is said.
func TestUnwritableSpool(t *testing.T) {
	s := newTestServer(t)
	o := testOrder(t, s, "echo in memory")
	o.SpoolDir = filepath.Join(writeTemp(t, nil), "under a file")
	w := launch(t, o)
	retcode(t, s.awaitMessage(wire.TypeComplete), 0)
	w.exits()
	if got := s.text(); got != "in memory\n" {
		t.Errorf("output %q", got)
	}
	if w.identity.Spool != "" || !strings.Contains(fmt.Sprint(w.identity.Weak), "spool in memory") {
		t.Errorf("identity %+v", w.identity)
	}
}

func residentKB(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for _, line := range strings.Split(string(data), "\n") {
		var kb int
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kb); n == 1 {
			return kb
		}
	}
	return 0
}

func dirSize(t *testing.T, dir string) (size int64) {
	t.Helper()
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		var st syscall.Stat_t
		if syscall.Stat(filepath.Join(dir, e.Name()), &st) == nil {
			size += st.Size
		}
	}
	return size
}
