package api

import (
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf16"

	"saltpeter/runner"
	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// rendered is what a page makes of bytes, by the standard library.
func rendered(b []byte) string {
	var s strings.Builder
	for _, r := range string(b) { // a broken byte is one U+FFFD
		s.WriteRune(r)
	}
	return s.String()
}

func hostileText(r *rand.Rand, n int) []byte {
	pieces := []string{"plain text\n", "\"\\\t\r\x00\x1f\x7f", "é", "€", "😀", "\xff", "\xc3", "\xe2\x82", "\xf0\x9f\x98", "\xed\xa0\x80", "\u2028", "<&>", "\uFFFD"}
	var b []byte
	for len(b) < n {
		b = append(b, pieces[r.IntN(len(pieces))]...)
	}
	return b[:n] // possibly in the middle of a character
}

// However bytes are cut, the text and its length are the same.
func TestUnits(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 500 {
		src := hostileText(r, r.IntN(200))
		want := rendered(src)
		var frame []byte
		var units, counted int64
		offset, measured := 0, 0
		for offset < len(src) {
			end := min(offset+1+r.IntN(9), len(src))
			var used int
			var n int64
			frame, used, n = appendText(frame, src[offset:end], end == len(src))
			if used == 0 && end < min(offset+4, len(src)) {
				continue // more is needed for a character
			}
			offset, units = offset+used, units+n
		}
		for measured < len(src) {
			end := min(measured+1+r.IntN(9), len(src))
			used, n := countUnits(src[measured:end], end == len(src))
			measured, counted = measured+used, counted+n
		}
		var got string
		if err := json.Unmarshal([]byte(`"`+string(frame)+`"`), &got); err != nil {
			t.Fatalf("round %d: %v: %q", round, err, frame)
		}
		if got != want || units != int64(len(utf16.Encode([]rune(want)))) || counted != units || units16(want) != units {
			t.Fatalf("round %d: %q is %q of %d and %d units, not %q", round, src, got, units, counted, want)
		}
	}
}

// A stored output is cut into the same text whatever the cuts, the server's own
// words behind it, and also while it grows.
func TestTextOfStoredOutput(t *testing.T) {
	book, err := ledger.Open(t.Context(), ledger.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer book.Close()
	id := ledger.TaskID{Run: "j_1", Machine: "m"}
	task := ledger.Task{TaskID: id, Job: "j"}
	if _, err := book.Apply(t.Context(), ledger.Begun{Run: ledger.Run{ID: "j_1", Job: "j", Tasks: []ledger.Task{task}}}); err != nil {
		t.Fatal(err)
	}
	out, err := book.Output(id)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	r := rand.New(rand.NewPCG(3, 4))
	data := hostileText(r, 3*chunkBytes+77)
	data = append(data, "\xf0\x9f"...) // a character that never ends
	status := &runner.TaskStatus{Task: task}
	status.State = ledger.Running
	shared := newText(book, id)
	defer shared.rest(0)
	var text strings.Builder
	at, written := point{}, 0
	step := func(stop int64) {
		w, err := shared.now(status)
		if err != nil {
			t.Fatal(err)
		}
		frame, next, err := shared.chunk(nil, make([]byte, chunkBytes), &w, status, at, stop)
		if err != nil {
			t.Fatal(err)
		}
		var f struct {
			Chunk    string
			Position int64
			Total    int64 `json:"total_length"`
			Complete bool  `json:"is_complete"`
		}
		if err := json.Unmarshal(frame, &f); err != nil {
			t.Fatal(err)
		}
		if f.Position != at.pos || f.Position != units16(text.String()) || f.Total < f.Position+units16(f.Chunk) || f.Complete != (w.final && next.offset == w.end()) {
			t.Fatalf("position %d, total %d, complete %t at %+v of %+v", f.Position, f.Total, f.Complete, at, w)
		}
		text.WriteString(f.Chunk)
		at = next
	}
	for written < len(data) {
		n := min(1+r.IntN(20000), len(data)-written)
		length, err := out.Append(task.Queued, int64(written), wire.Stdout, data[written:written+n])
		if err != nil {
			t.Fatal(err)
		}
		written += n
		shared.tell(length)
		step(1 << 60)
	}
	for range 10 {
		step(1 << 60)
	}
	if at.offset != int64(len(data)-2) {
		t.Errorf("it stopped at %d of %d", at.offset, len(data))
	}
	status.State, status.Notes = ledger.Killed, []ledger.Note{{Text: "\n[Job "}, {Text: "terminated]é\n"}}
	whole, want := text.String(), rendered(append(data, "\n[Job terminated]é\n"...))
	step(1 << 60)
	if text.String() != want {
		t.Errorf("%d units, not %d: …%q", units16(text.String()), units16(want), text.String()[len(whole)-20:])
	}
	// Another server's page, whose chunks end elsewhere, sees the same.
	other := newText(book, id)
	defer other.rest(0)
	cut := at
	shared, at = other, point{}
	text.Reset()
	for text.Len() < len(want) {
		before := at
		step(1 << 60)
		if at == before {
			t.Fatal("it does not go on")
		}
	}
	if text.String() != want || at != cut {
		t.Errorf("a second look shows something else: it ends at %+v, not %+v", at, cut)
	}
}
