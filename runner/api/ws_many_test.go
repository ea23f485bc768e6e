package api

import (
	"bytes"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx"
)

// counter is a page that only counts, so that fifty of them cost little.
type counter struct {
	units int64
	sum   uint64
	done  bool
	runs  int
}

// frame takes a chunk without decoding it: its text holds digits and line ends only.
func (c *counter) frame(data []byte) error {
	if !bytes.HasPrefix(data, []byte(`{"type":"output_chunk"`)) {
		return nil
	}
	head, rest, ok := bytes.Cut(data, []byte(`,"chunk":"`))
	var position int64
	at := bytes.LastIndex(head, []byte(`"position":`))
	if _, err := fmt.Sscanf(string(head[at:]), `"position":%d`, &position); err != nil || !ok {
		return fmt.Errorf("cannot read %.200q: %v", data, err)
	}
	if position == 0 && c.units > 0 {
		*c = counter{runs: c.runs + 1}
	}
	if position != c.units {
		return fmt.Errorf("position %d follows %d", position, c.units)
	}
	text, tail, _ := bytes.Cut(rest, []byte(`"`))
	for _, b := range text {
		if b != '\\' {
			c.units++
			c.sum = c.sum*31 + uint64(b)
		}
	}
	c.done = bytes.Contains(tail, []byte(`"is_complete":true`))
	return nil
}

// Fifty pages look at a job that prints as fast as it can. One of them reads
// nothing: it holds nobody up, and nothing is kept for it. The others get all of it.
func TestManyPages(t *testing.T) {
	size := 6 << 20
	if raceEnabled {
		size = 1 << 20
	}
	r := newRig(t)
	r.configure(jobFiles + fmt.Sprintf("fast:\n  command: \"seq 1000000000 | head -c %d; echo END\"\n  schedule: '@yearly'\n  targets: '*'\n", size))
	const pages = 49
	dial := func() *wsx.Conn {
		conn, err := wsx.Dial(t.Context(), wsx.DialOptions{URL: "ws://" + r.tcp + "/ws"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close("") })
		conn.Write(wsx.Text, []byte(`{"subscribe":["fast"]}`))
		return conn
	}
	deaf := dial()
	type end struct {
		c   counter
		err error
	}
	ends := make(chan end, pages)
	for i := range pages {
		conn := dial()
		go func() {
			var c counter
			var err error
			for err == nil && !c.done {
				var data []byte
				if _, data, err = conn.Read(); err == nil {
					err = c.frame(data)
				}
				if i%2 == 0 && err == nil && bytes.HasPrefix(data, []byte(`{"type":"output_chunk"`)) {
					err = conn.Write(wsx.Text, []byte(`{"ack":{"cron":"fast","machine":"m","position":0}}`))
				}
			}
			ends <- end{c, err}
		}()
	}
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	id := r.run("fast", "")
	var most uint64
	var got []end
	deadline := time.After(3 * testWait)
	for len(got) < pages {
		select {
		case e := <-ends:
			got = append(got, e)
		case <-time.After(50 * time.Millisecond):
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapInuse)
		case <-deadline:
			t.Fatalf("%d of %d pages got all", len(got), pages)
		}
	}
	r.await("its end", func() bool { return r.task(id).State == ledger.Succeeded })
	var want counter
	frame := `{"type":"output_chunk","position":0,"chunk":"` + strings.ReplaceAll(r.output(id), "\n", `\n`) + `","is_complete":true}`
	if err := want.frame([]byte(frame)); err != nil || want.units != int64(size)+4 {
		t.Fatal(want, err)
	}
	for i, e := range got {
		if e.err != nil || e.c.units != want.units || e.c.sum != want.sum {
			t.Errorf("page %d: %+v, %v, not %+v", i, e.c, e.err, want)
		}
	}
	// What each page has in hand is a chunk or two; what fifty of them would have if
	// output were kept for them is some hundred MiB.
	if grown := int64(most) - int64(before.HeapInuse); grown > 120<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	} else {
		t.Logf("the heap grew by %d MiB while %d MiB went out", grown>>20, int64(pages)*want.units>>20)
	}
	deaf.Close("")
}
