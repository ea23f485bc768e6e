package wsx

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"saltpeter/wsx/wire"
)

// older makes the desk a server of the second generation.
func older(d *desk) *desk {
	d.features = []string{}
	return d
}

func fast(o *LinkOptions, _ *Link) { o.TextInterval = time.Millisecond }

func (d *desk) seqs() (seqs []int64, texts []string) {
	d.with(func(s *stored) {
		for _, m := range s.texts {
			seqs = append(seqs, *m.Seq)
			texts = append(texts, m.Stream+":"+m.Data)
		}
	})
	return seqs, texts
}

func TestTextToOlderServer(t *testing.T) {
	d := older(newDesk())
	p := open(t, d, nil)
	o := link(t, p.dial(false), fast)
	o.out.add(wire.Stdout, "one\n")
	o.out.add(wire.Stderr, "two\n")
	o.out.add(wire.Stdout, "\x00\xff<&>\n")
	o.allAcked(t)
	o.out.add(wire.Stdout, strings.Repeat("é", 700_000))
	o.allAcked(t)
	if f := o.l.Up(); f == nil || len(f) != 0 {
		t.Errorf("features in force: %v", f)
	}
	seqs, texts := d.seqs()
	for i, s := range seqs {
		if s != int64(i) {
			t.Fatalf("numbers: %v", seqs)
		}
	}
	all := strings.Join(texts, "|")
	if !strings.HasPrefix(all, "stdout:one\n|stderr:two\n|stdout:\x00\uFFFD<&>\n") {
		t.Errorf("%.80q", all)
	}
	if want := o.out.text()[:8] + "\x00\uFFFD<&>\n" + strings.Repeat("é", 700_000); d.got() != want {
		t.Error("other text arrived")
	}
	if o.l.NextSeq() != int64(len(seqs)) {
		t.Errorf("complete would carry %d after %d pieces", o.l.NextSeq(), len(seqs))
	}
	d.with(func(s *stored) {
		for _, m := range s.texts {
			if m.JobName != "j" || m.Machine != "m1" || m.Timestamp == "" || len(m.Data) > pieceMax {
				t.Errorf("a piece of %d bytes, %s", len(m.Data), m.JobName)
			}
		}
	})
}

// A piece that is sent again is the same text under the same number, wherever
// the output has grown to in the meantime.
func TestTextIsSentAgainUnchanged(t *testing.T) {
	d := older(newDesk())
	p := open(t, d, nil)
	seen := map[int64]string{}
	n := 0
	d.onText = func(k *kept, m *wire.Message) error {
		d.mu.Lock()
		if s, ok := seen[*m.Seq]; ok && s != m.Data {
			t.Errorf("number %d was %d bytes, now %d", *m.Seq, len(s), len(m.Data))
		}
		seen[*m.Seq] = m.Data
		n++
		drop, last := n%3 == 0 && n < 9, n == 7
		d.mu.Unlock()
		if last {
			return errors.New("out of order on purpose")
		}
		if drop {
			return nil // as if it had never come: the next one is out of order
		}
		return k.text(m)
	}
	o := link(t, p.dial(false), fast)
	for i := range 40 {
		o.out.add(wire.Stdout, fmt.Sprintf("line %d %s\n", i, strings.Repeat("ü", i*300)))
		if i%10 == 0 {
			eventually(t, "something", func() bool { d.mu.Lock(); defer d.mu.Unlock(); return len(seen) > i/10 })
		}
	}
	o.out.add(wire.Stdout, strings.Repeat("y", 2_000_000))
	o.allAcked(t)
	if d.got() != o.out.text() {
		t.Errorf("%d of %d bytes arrived", d.size(), o.out.Length())
	}
}

// A nack for a number that means nothing here gets what is not acknowledged.
func TestTextRenumbers(t *testing.T) {
	d := older(newDesk())
	p := open(t, d, nil)
	o := link(t, p.dial(false), fast)
	o.out.add(wire.Stdout, "before\n")
	o.allAcked(t)
	d.with(func(s *stored) { s.nextSeq = 100 }) // the server counts differently now
	d.onText = func(k *kept, m *wire.Message) error {
		d.mu.Lock()
		s := d.task(token)
		if *m.Seq < s.nextSeq && *m.Seq < 100 {
			want := s.nextSeq
			d.mu.Unlock()
			return k.c.Send(&wire.Message{Type: wire.TypeNack, NackType: wire.NackOutOfOrder, ExpectedSeq: &want, ReceivedSeq: m.Seq})
		}
		d.mu.Unlock()
		return k.text(m)
	}
	o.out.add(wire.Stdout, "after\n")
	o.allAcked(t)
	if d.got() != "before\nafter\n" || o.l.NextSeq() != 101 {
		t.Errorf("%q, next %d", d.got(), o.l.NextSeq())
	}
}

// pieces keep their meaning whatever acks, nacks and reconnects come.
func TestPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := pieces{acked: -1}
		meant := map[int64]piece{}
		var acked int64
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0:
				q := piece{start: p.end(), n: int32(rapid.IntRange(1, 9).Draw(t, "n"))}
				p.add(q)
				meant[p.next()-1] = q
			case 1:
				if p.send < p.next() {
					p.send++
				}
			case 2:
				p.ack(rapid.Int64Range(-2, p.next()+2).Draw(t, "ack"))
			case 3:
				e := rapid.Int64Range(0, p.next()+3).Draw(t, "expected")
				known := e >= p.base && e <= p.next()
				p.nack(e, acked)
				if !known {
					clear(meant)
				}
				if p.send != e {
					t.Fatalf("expected %d, next to send is %d", e, p.send)
				}
			case 4:
				p.restart(acked)
			}
			acked = p.confirmed()
			if p.send < p.acked+1 || p.send > p.next() || p.acked < p.base-1 || p.acked >= p.next() || acked > p.end() {
				t.Fatalf("%+v", p)
			}
			for seq := p.base; seq < p.next(); seq++ {
				if p.list[seq-p.base] != meant[seq] {
					t.Fatalf("%d changed its meaning", seq)
				}
			}
		}
	})
}

func TestPiecesAreBounded(t *testing.T) {
	p := pieces{acked: -1}
	for i := range int64(4 * pieceKeep) {
		p.add(piece{start: i, n: 1})
		p.send++
		p.ack(i)
	}
	if len(p.list) > pieceKeep || cap(p.list) > 3*pieceKeep || p.end() != 4*pieceKeep || p.confirmed() != 4*pieceKeep {
		t.Errorf("%d pieces, end %d", len(p.list), p.end())
	}
	p.nack(p.base, p.confirmed())
	if p.confirmed() != p.list[0].start {
		t.Error("the oldest piece lost its place")
	}
}

// Cutting anywhere gives, put together, what the whole text gives.
func FuzzCutText(f *testing.F) {
	for _, s := range []string{"", "abc", "ä€😀", "\xff\xfe", "\xe2\x82", "a\xf0\x9f\x98", "\xc3(", "<&>\u2028\x00\x7f"} {
		f.Add([]byte(s), uint16(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, step uint16) {
		var got strings.Builder
		// The bytes come in steps, as they would from a job.
		have := 0
		for from := 0; from < len(data); {
			have = min(len(data), max(have, from)+1+int(step)%7)
			n := cutText(data[from:have], have == len(data))
			if n < 0 || n > have-from {
				t.Fatal(n)
			}
			if n == 0 && have == len(data) {
				t.Fatal("the end is never sent")
			}
			if n == 0 && have-from >= utf8.UTFMax {
				t.Fatal("a whole character is held back")
			}
			got.WriteString(strings.ToValidUTF8(encoded(t, data[from:from+n]), "?"))
			from += n
		}
		if want := encoded(t, data); got.String() != want {
			t.Fatalf("%q became %q, not %q", data, got.String(), want)
		}
	})
}

// encoded is what data becomes on the wire and back.
func encoded(t *testing.T, data []byte) string {
	b, err := json.Marshal(string(data))
	if err != nil {
		t.Fatal(err)
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// A full piece is never more than it may be as JSON, and not much less.
func TestCutTextSize(t *testing.T) {
	for _, unit := range []string{"a", "é", "€", "😀", "\x00", "\xff", "\n", "<", "\u2028", "a\xffé\n"} {
		data := []byte(strings.Repeat(unit, 2*pieceMax/len(unit)))
		n := cutText(data, false)
		b, err := json.Marshal(string(data[:n]))
		if err != nil || len(b)-2 > pieceMax || len(b)-2 < pieceMax-20 {
			t.Errorf("%q: %d bytes became %d", unit, n, len(b)-2)
		}
	}
}
