package wire

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

// The shortcut for output says what encoding/json says, error or not.
func FuzzDecode(f *testing.F) {
	for _, frame := range frames(f) {
		f.Add([]byte(frame))
	}
	pad := strings.Repeat(" ", shortcutFrom)
	for _, s := range []string{
		`{"type":"output","data":"\ud83d\ude00\ud800x\udc00\u00e9\/\"\\\b\f\n\r\t"}`,
		"{\"type\":\"output\",\"data\":\"\xff\xc3\x28é\u2028\"}",
		`{"type":"output","data":"a","data":"b"}`,
		`{"type":"output","data":"a","DATA":"b"}`,
		`{"type":"output","data":"a","d\u0061ta":"b"}`,
		`{"type":"output","data":null,"seq":1}`,
		`{"type":"output","data":"a","seq":1.5}`,
		`{"type":"output","data":"a","identity":{"data":"b"}}`,
		`{"type":"output","data":"\\","seq":0} x`,
		`{"type":"output","data":"\'"}`, `{"type":"x","timestamp":5,"data":"a"}`, `{"data":"a",}`, `{"data" "a"}`,
		`{"type":"connect","features":["bytes"],"identity":{"start_ticks":18446744073709551615}}`,
	} {
		f.Add([]byte(s))
		f.Add([]byte(pad + s))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		slow, slowErr := unmarshal(frame)
		padded := append([]byte(pad), frame...)
		for _, b := range [][]byte{frame, padded} {
			fast, err := decode(b)
			if (err == nil) != (slowErr == nil) {
				t.Fatalf("shortcut says %v, encoding/json %v", err, slowErr)
			}
			if err == nil && !reflect.DeepEqual(fast, slow) {
				t.Fatalf("shortcut reads %+v, encoding/json %+v", fast, slow)
			}
		}
		m, err := Decode(frame)
		if err != nil {
			return
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(again) {
			t.Fatalf("encoded as %s", again)
		}
		m2, err := Decode(again)
		if err != nil || !reflect.DeepEqual(canonical(m), canonical(m2)) {
			t.Fatalf("%+v became %+v, %v", m, m2, err)
		}
	})
}

// canonical makes what is empty absent, as it is on the wire.
func canonical(m *Message) *Message {
	c := *m
	if len(c.Features) == 0 {
		c.Features = nil
	}
	if c.End != nil && *c.End == (End{}) {
		c.End = nil
	}
	if c.Identity != nil && len(c.Identity.Weak) == 0 {
		id := *c.Identity
		id.Weak, c.Identity = nil, &id
	}
	if c.Report != nil && len(c.Report.Left) == 0 {
		r := *c.Report
		r.Left, c.Report = nil, &r
	}
	return &c
}

func FuzzParseOutput(f *testing.F) {
	f.Add(AppendOutput(nil, 0, Stdout, []byte("x")))
	f.Add(AppendOutput(nil, 1<<62, Stderr, nil))
	f.Add(bytes.Repeat([]byte{0xff}, OutputHeader))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		offset, stream, data, err := ParseOutput(frame)
		if err != nil {
			return
		}
		if offset < 0 || offset+int64(len(data)) < 0 || (stream != Stdout && stream != Stderr) {
			t.Fatalf("took offset %d, stream %d", offset, stream)
		}
		if got := AppendOutput(nil, offset, stream, data); !bytes.Equal(got, frame) {
			t.Fatalf("%x became %x", frame, got)
		}
	})
}

func FuzzDecodeOrder(f *testing.F) {
	f.Add([]byte(`{"order_version":1,"url":"ws://h/task/t","job":"j","run":"r","command":"c","env":{"A":"b"},"kill_grace":5,"timeout":1e300}`))
	f.Add([]byte(`{"order_version":99}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := DecodeOrder(data)
		if err != nil {
			return
		}
		if o.URL == "" || o.Command == "" || o.Run == "" || o.Job == "" || o.Version > OrderVersion {
			t.Fatalf("took %+v", o)
		}
		again, err := o.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.ContainsRune(again, '\n') {
			t.Fatalf("more than one line: %s", again)
		}
		o2, err := DecodeOrder(again)
		if len(o.Env) == 0 {
			o.Env = nil
		}
		if err != nil || !reflect.DeepEqual(o, o2) {
			t.Fatalf("%+v became %+v, %v", o, o2, err)
		}
		if o.Timeout > 0 && o.Timeout.Duration() < 0 {
			t.Fatalf("%v s became %v", o.Timeout, o.Timeout.Duration())
		}
	})
}

func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"2025-11-04T10:30:45.123456+00:00", "2025-11-04 10:30:45", "9999-12-31T23:59:59.999999999-23:59", "x", ""} {
		f.Add(s)
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		at := ParseTime(s, now)
		if y := at.UTC().Year(); y < 0 || y > 9999 {
			return // one that ISO 8601 has no four digits for
		}
		if again := ParseTime(FormatTime(at), now); !again.Equal(at.Truncate(time.Microsecond)) {
			t.Fatalf("%q is %s, then %s", s, at, again)
		}
	})
}

func BenchmarkDecodeOutput(b *testing.B) {
	m := Message{Type: TypeOutput, JobName: "job", JobInstance: "job_1", Machine: "m", Stream: "stdout", Seq: Ptr(int64(7)),
		Data: strings.Repeat("2025-11-04 10:30:45 one line of a log with \"quotes\", a path /a/b and so on\n", 6000)}
	frame, err := m.Encode()
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name string
		fn   func([]byte) (*Message, error)
	}{{"ours", Decode}, {"baseline", unmarshal}} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(m.Data)))
			for b.Loop() {
				if _, err := c.fn(frame); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
