package wrapper

import (
	"bytes"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"saltpeter/wsx/wire"
)

// printed is the byte that the job prints at a position; no marker looks like a
// run of them.
func printed(from, n int64) []byte {
	b := make([]byte, n)
	for done := 0; done < len(b); {
		done += copy(b[done:], printedCycle()[(from+int64(done))%printedPeriod:])
	}
	return b
}

const printedPeriod = 26 * 1000 * 13

var printedCycle = sync.OnceValue(func() []byte {
	b := make([]byte, printedPeriod)
	for p := range b {
		b[p] = 'a' + byte((p*7+p/26+p/1000)%26)
	}
	return b
})

var markerText = regexp.MustCompile(`\n\[saltpeter: (\d+) bytes of output were given up here: (?:the spool was full|the server lost them after it had confirmed them)\]\n`)

// checkAccount reads what a server has and checks that it is the printed bytes, in
// order, with every missing one counted where it is missing.
func checkAccount(t interface{ Fatalf(string, ...any) }, got []byte, total int64) {
	var at int64
	for len(got) > 0 {
		loc := markerText.FindSubmatchIndex(got)
		head := got
		if loc != nil {
			head = got[:loc[0]]
		}
		if want := printed(at, int64(len(head))); !bytes.Equal(head, want) {
			t.Fatalf("the bytes at %d are not those that were printed there", at)
		}
		at += int64(len(head))
		if loc == nil {
			break
		}
		n, _ := strconv.ParseInt(string(got[loc[2]:loc[3]]), 10, 64)
		at += n
		got = got[loc[1]:]
	}
	if at != total {
		t.Fatalf("%d bytes are accounted for, %d were printed", at, total)
	}
}

// spoolModel drives a spool as a job, a road and a server that crashes do.
type spoolModel struct {
	s      *spool
	total  int64
	server []byte
	safe   []int // lengths of server at which it may be cut: not within a marker
	acked  int64 // the most that was ever confirmed
}

func (m *spoolModel) print(n int64) {
	if n%2 == 0 { // as a busy pump does
		b := m.s.takeBlock()
		m.s.AppendBlock(b, copy(b.buf, printed(m.total, n)), wire.Stdout, time.Unix(m.total, 0))
	} else {
		m.s.Append(wire.Stdout, printed(m.total, n), time.Unix(m.total, 0))
	}
	m.total += n
}

// read is one step of the road.
func (m *spoolModel) read(t *rapid.T, size int) bool {
	at := int64(len(m.server))
	lent, of := m.s.Lend(at, size)
	lent = bytes.Clone(lent)
	m.s.Return()
	buf := make([]byte, size)
	n, stream, err := m.s.ReadAt(buf, at)
	if err != nil {
		t.Fatalf("ReadAt: %v", err)
	}
	if k := min(n, len(lent)); k > 0 && (of != stream || !bytes.Equal(lent[:k], buf[:k])) {
		t.Fatalf("at %d memory shows other bytes than the file", at)
	}
	m.server = append(m.server, buf[:n]...)
	if n > 0 && stream == wire.Stdout {
		m.safe = append(m.safe, len(m.server))
	}
	return n > 0
}

func checkSpool(t *rapid.T, dir string) {
	block := rapid.IntRange(0, 9).Draw(t, "block") == 0 && dir != ""
	m := &spoolModel{s: newSpool(spoolOptions{Dir: dir, Max: minMax, Free: func() int { return 50 }})}
	defer m.s.Close()
	if block {
		m.s.o.Block = true
		m.s.Lift()
	}
	for range rapid.IntRange(1, 60).Draw(t, "steps") {
		switch rapid.IntRange(0, 5).Draw(t, "step") {
		case 0, 1:
			m.print(rapid.Int64Range(1, 100<<10).Draw(t, "printed"))
		case 2, 3:
			m.read(t, rapid.SampledFrom([]int{200, 4096, 256 << 10}).Draw(t, "buffer"))
		case 4:
			m.s.Acked(int64(len(m.server)))
			m.acked = max(m.acked, int64(len(m.server)))
		case 5: // the server crashes and comes back with less
			if len(m.safe) == 0 {
				continue
			}
			i := rapid.IntRange(0, len(m.safe)-1).Draw(t, "cut")
			m.server, m.safe = m.server[:m.safe[i]], m.safe[:i+1]
			m.s.Acked(int64(len(m.server)))
			m.acked = max(m.acked, int64(len(m.server)))
		}
		if m.s.held > m.s.limit()+512 { // markers come on top: a gap must be told of
			t.Fatalf("%d bytes held, %d allowed", m.s.held, m.s.limit())
		}
		if m.s.base > m.acked {
			t.Fatalf("bytes up to %d were given back, %d were confirmed", m.s.base, m.acked)
		}
	}
	m.s.MarkEnd()
	if dir != "" {
		checkReopened(t, m, dir)
	}
	for m.read(t, 64<<10) {
	}
	if int64(len(m.server)) != m.s.Length() || m.s.End() != m.s.Length() {
		t.Fatalf("the server has %d bytes, length is %d, end %d", len(m.server), m.s.Length(), m.s.End())
	}
	checkAccount(t, m.server, m.total)
}

// checkReopened: who finds the files later reads the same stream.
func checkReopened(t *rapid.T, m *spoolModel, dir string) {
	again, err := openSpool(dir)
	if err != nil {
		t.Fatalf("openSpool: %v", err)
	}
	defer again.Close()
	if again.base != m.s.base || again.Length() != m.s.Length() {
		t.Fatalf("found [%d,%d), left [%d,%d)", again.base, again.Length(), m.s.base, m.s.Length())
	}
	one, two := make([]byte, 64<<10), make([]byte, 64<<10)
	sent := m.s.sent
	for at := again.base; at < again.Length(); {
		n, stream, err := again.ReadAt(one, at)
		k, same, errLive := m.s.ReadAt(two, at)
		if err != nil || errLive != nil || n == 0 || n != k || stream != same || !bytes.Equal(one[:n], two[:n]) {
			t.Fatalf("at %d: %d bytes of stream %d (%v), live %d of %d (%v)", at, n, stream, err, k, same, errLive)
		}
		at += int64(n)
	}
	m.s.sent = sent
}

func TestSpoolKeepsAccount(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		if rapid.Bool().Draw(r, "memory") {
			checkSpool(r, "")
			return
		}
		dir, err := os.MkdirTemp("", "spool")
		if err != nil {
			r.Fatal(err)
		}
		defer os.RemoveAll(dir)
		checkSpool(r, dir)
	})
}

// A server that lost what it had confirmed, after the spool gave it back, is told
// how much is missing.
func TestSpoolLowerResume(t *testing.T) {
	s := newSpool(spoolOptions{Dir: t.TempDir(), Max: minMax})
	defer s.Close()
	s.Append(wire.Stdout, printed(0, 200<<10), time.Now())
	buf := make([]byte, 256<<10)
	for at := 0; at < 200<<10; {
		n, _, err := s.ReadAt(buf, int64(at))
		if err != nil || n == 0 {
			t.Fatal(n, err)
		}
		at += n
	}
	s.Acked(200 << 10)
	s.Append(wire.Stdout, printed(200<<10, 200<<10), time.Now())
	server := printed(0, 1000)
	for {
		n, _, err := s.ReadAt(buf, int64(len(server)))
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		server = append(server, buf[:n]...)
	}
	if markerText.FindIndex(server)[0] != 1000 {
		t.Error("the marker is not where the bytes are missing")
	}
	checkAccount(t, server, 400<<10)
}

// A full disk gives up the oldest and goes on.
func TestSpoolTightDisk(t *testing.T) {
	free := 50
	s := newSpool(spoolOptions{Dir: t.TempDir(), Max: 64 << 20, Free: func() int { return free }})
	defer s.Close()
	s.segmentSize, s.tightFloor = 256<<10, 1<<20
	s.Append(wire.Stdout, printed(0, 3<<20), time.Now())
	free = 5
	s.Append(wire.Stdout, printed(3<<20, 2<<20), time.Now())
	if s.held > 4<<20 || lostOf(s) == 0 {
		t.Errorf("%d bytes held, %d lost", s.held, lostOf(s))
	}
	free = 50
	s.Append(wire.Stdout, printed(5<<20, 4<<20), time.Now())
	if s.held < 6<<20 {
		t.Errorf("%d bytes held on a disk with room again", s.held)
	}
}

// Files that can no longer be made cost output, never the job.
func TestSpoolLosesItsDirectory(t *testing.T) {
	dir := t.TempDir()
	s := newSpool(spoolOptions{Dir: dir, Max: minMax})
	defer s.Close()
	s.Append(wire.Stdout, printed(0, 10<<10), time.Now())
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	s.Append(wire.Stdout, printed(10<<10, 500<<10), time.Now())
	if lost, why := s.lostBytes(); lost == 0 || why != lossRemoved {
		t.Errorf("%d bytes are said to be lost: %q", lost, why)
	}
	if text := s.last().mem; !bytes.HasSuffix(text, []byte(" given up here: "+lossRemoved+"]\n")) {
		t.Errorf("the gap says %q", text)
	}
	s.MarkEnd()
	if s.End() != s.Length() {
		t.Errorf("end %d, length %d", s.End(), s.Length())
	}
}

func TestSpoolBlocks(t *testing.T) {
	s := newSpool(spoolOptions{Dir: t.TempDir(), Max: minMax, Block: true})
	defer s.Close()
	var wg sync.WaitGroup
	wg.Go(func() { s.Append(wire.Stdout, printed(0, 1<<20), time.Now()) })
	buf := make([]byte, 64<<10)
	for at := int64(0); at < 1<<20; {
		n, _, err := s.ReadAt(buf, at)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(buf[:n], printed(at, int64(n))) {
			t.Fatalf("other bytes at %d", at)
		}
		at += int64(n)
		s.Acked(at)
		if n == 0 {
			time.Sleep(time.Millisecond) // nothing new yet
		}
	}
	wg.Wait()
	if lost := lostOf(s); lost > 0 {
		t.Errorf("%d bytes lost", lost)
	}
}

func TestSpoolStreamsAndMarks(t *testing.T) {
	s := newSpool(spoolOptions{Dir: t.TempDir()})
	defer s.Close()
	at := time.Unix(1000, 0)
	s.Append(wire.Stdout, []byte("one"), at)
	s.Append(wire.Stderr, []byte("two"), at.Add(10*time.Millisecond))
	s.Append(wire.Stderr, []byte("three"), at.Add(1500*time.Millisecond))
	s.Append(wire.Stdout, []byte("four"), at.Add(1600*time.Millisecond))
	var got []string
	buf := make([]byte, 100)
	for off := int64(0); ; {
		n, stream, err := s.ReadAt(buf, off)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
		got = append(got, wire.StreamName(stream)+" "+string(buf[:n]))
		off += int64(n)
	}
	want := []string{"stdout one", "stderr twothree", "stdout four"}
	if len(got) != 3 || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("read %q", got)
	}
	marks := s.marks(0, 100, 10)
	if len(marks) != 2 || marks[0].offset != 0 || !marks[0].at.Equal(at) || marks[1].offset != 6 || !marks[1].at.Equal(at.Add(1500*time.Millisecond)) {
		t.Errorf("marks %v", marks)
	}
	if marks := s.marks(7, 8, 10); len(marks) != 0 {
		t.Errorf("marks within [7,8): %v", marks)
	}
}

func FuzzParseRecords(f *testing.F) {
	f.Add([]byte{})
	f.Add(record{0, wire.Stdout, 1}.append(record{5, wire.Stderr, 2}.append(nil)))
	f.Add(bytes.Repeat([]byte{255}, 50))
	f.Fuzz(func(t *testing.T, data []byte) {
		recs := parseRecords(data)
		for i, r := range recs {
			if r.stream != wire.Stdout && r.stream != wire.Stderr || i > 0 && r.offset < recs[i-1].offset {
				t.Errorf("record %d: %+v", i, r)
			}
		}
		for _, within := range []int64{0, 1, 1 << 20} {
			if _, until := streamAt(recs, within, 2<<20); until <= within {
				t.Errorf("nothing to read at %d", within)
			}
		}
	})
}

func lostOf(s *spool) int64 {
	lost, _ := s.lostBytes()
	return lost
}
