package wire

import (
	"bufio"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// frames returns every frame that was seen on the wire between a second
// generation wrapper and its server.
func frames(tb testing.TB) (all []json.RawMessage) {
	tb.Helper()
	files, err := filepath.Glob("testdata/frames/*.jsonl")
	if err != nil || len(files) == 0 {
		tb.Fatalf("no recorded frames: %v", err)
	}
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			tb.Fatal(err)
		}
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			var line struct {
				Frame json.RawMessage `json:"frame"`
			}
			if err := json.Unmarshal(s.Bytes(), &line); err != nil {
				tb.Fatalf("%s: %v", name, err)
			}
			if line.Frame != nil {
				all = append(all, line.Frame)
			}
		}
	}
	return all
}

// What an older wrapper or server sent comes out of Decode and Encode with the
// same fields and values.
func TestRecordedFrames(t *testing.T) {
	all := frames(t)
	if len(all) < 50 {
		t.Fatalf("only %d frames were recorded", len(all))
	}
	for _, frame := range all {
		m, err := Decode(frame)
		if err != nil {
			t.Fatalf("%s: %v", frame, err)
		}
		again, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		var want, got map[string]any
		if err := json.Unmarshal(frame, &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(again, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(want, got) {
			t.Errorf("frame changed:\n was %s\n is  %s", frame, again)
		}
		now := time.Now()
		if at := ParseTime(m.Timestamp, now); at.Equal(now) || FormatTime(at) != m.Timestamp {
			t.Errorf("timestamp %s was read as %s", m.Timestamp, FormatTime(at))
		}
	}
}

// The fields that other generations know, with their JSON types. Changing a
// name, a type, or when a field is absent breaks wrappers in the field.
func TestFieldNames(t *testing.T) {
	one, two, real := int64(0), 0, 0.0
	full := Message{
		Type: "t", JobName: "t", JobInstance: "t", Machine: "t", Timestamp: "t",
		Features: []string{"t"}, Version: "t", Identity: &Identity{}, Resume: &one, Token: "t", PID: 1,
		Stream: "t", Data: "t", Seq: &one, LastAckedSeq: &one, NextSeq: &one, LastSeq: &one,
		AckType: "t", NackType: "t", ExpectedSeq: &one, ReceivedSeq: &one, Offset: &one,
		RetCode: &two, Output: "t",
		End: &End{Cause: "t", Phase: "t", Proof: "t", RealCode: &two, RealSignal: 1, CoreDumped: true,
			Leftover: 1, ElapsedMS: 1, Length: &one},
		Error: "t", Code: "t", Text: "t", ID: "t", Signal: "t", Grace: &real, Scope: "t", TTL: &real,
		Report: &Report{},
	}
	for v, i := reflect.ValueOf(full), 0; i < v.NumField(); i++ {
		if v.Field(i).IsZero() {
			t.Fatalf("%s is not set in this test", v.Type().Field(i).Name)
		}
	}
	want := map[string]string{
		"type": "string", "job_name": "string", "job_instance": "string", "machine": "string", "timestamp": "string",
		"features": "list", "version": "string", "identity": "object", "resume": "number", "token": "string", "pid": "number",
		"stream": "string", "data": "string", "seq": "number", "last_acked_seq": "number", "next_seq": "number",
		"last_seq": "number", "ack_type": "string", "nack_type": "string", "expected_seq": "number",
		"received_seq": "number", "offset": "number", "retcode": "number", "output": "string",
		"cause": "string", "phase": "string", "proof": "string", "real_code": "number", "real_signal": "number",
		"core": "bool", "leftover": "number", "elapsed_ms": "number", "length": "number",
		"error": "string", "code": "string", "message": "string", "id": "string", "signal": "string",
		"grace": "number", "scope": "string", "ttl": "number", "report": "object",
	}
	if got := shape(t, &full); !reflect.DeepEqual(got, want) {
		t.Errorf("fields of a message:\n got  %v\n want %v", got, want)
	}
	identity := Identity{BootID: "t", PID: 1, StartTicks: math.MaxUint64, Session: 1, PIDNamespace: "t", Cgroup: "t", Brand: "t",
		Task: "t", WrapperPID: 1, WrapperStartTicks: 1, UID: 1, Spool: "t", EndFile: "t", Weak: []string{"t"}}
	wantID := map[string]string{
		"boot_id": "string", "pid": "number", "start_ticks": "number", "session": "number", "pid_ns": "string",
		"cgroup": "string", "brand": "string", "task": "string", "wrapper_pid": "number", "wrapper_start_ticks": "number",
		"uid": "number", "spool": "string", "end_file": "string", "weak": "list",
	}
	if got := shape(t, &identity); !reflect.DeepEqual(got, wantID) {
		t.Errorf("fields of an identity:\n got  %v\n want %v", got, wantID)
	}
}

// shape maps the field names of v's JSON to what their values are.
func shape(t *testing.T, v any) map[string]string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(data, &fields); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for k, v := range fields {
		switch v.(type) {
		case string:
			names[k] = "string"
		case float64:
			names[k] = "number"
		case bool:
			names[k] = "bool"
		case []any:
			names[k] = "list"
		case map[string]any:
			names[k] = "object"
		default:
			t.Fatalf("%s is %T", k, v)
		}
	}
	return names
}

// Only what a type names is on the wire; zeros that mean something are.
func TestSparse(t *testing.T) {
	for want, m := range map[string]*Message{
		`{"type":"ack","timestamp":"T","seq":0,"ack_type":"output"}`:  {Type: TypeAck, AckType: TypeOutput, Seq: Ptr(int64(0)), Timestamp: "T"},
		`{"type":"ack","resume":0,"ack_type":"connect"}`:              {Type: TypeAck, AckType: TypeConnect, Resume: Ptr(int64(0))},
		`{"type":"complete","retcode":0}`:                             {Type: TypeComplete, RetCode: Ptr(0)},
		`{"type":"sync_response","last_seq":-1}`:                      {Type: TypeSyncResponse, LastSeq: Ptr(int64(-1))},
		`{"type":"kill","grace":0}`:                                   {Type: TypeKill, Grace: Ptr(0.0)},
		`{"type":"complete","retcode":143,"cause":"kill","length":0}`: {Type: TypeComplete, RetCode: Ptr(143), End: &End{Cause: CauseKill, Length: Ptr(int64(0))}},
	} {
		got, err := m.Encode()
		if err != nil || string(got) != want {
			t.Errorf("got  %s (%v)\nwant %s", got, err, want)
		}
	}
}

func TestDecode(t *testing.T) {
	long := strings.Repeat("x", shortcutFrom)
	for _, c := range []struct {
		frame string
		ok    bool
	}{
		{`{"type":"heartbeat"}`, true},
		{`{"type":"heartbeat","timestamp":null}`, true},
		{`{"type":"heartbeat","timestamp":1762252245.5}`, true},
		{`{"type":"heartbeat","timestamp":{"a":[1]},"pid":7}`, true},
		{`{"timestamp":5,"type":"output","data":"` + long + `"}`, true},
		{`{"type":"heartbeat","timestamp":5,"pid":"x"}`, false},
		{`{"type":"start","pid":null,"version":null,"new":{"a":1}}`, true},
		{`{"type":5}`, false},
		{`{"type":""}`, false},
		{`{}`, false},
		{`[]`, false},
		{`null`, false},
		{``, false},
		{`{"type":"output","data":"` + long, false},
		{`{"type":"output","data":"` + long + `"`, false},
		{`{"type":"output","data":"` + long + `"}}`, false},
		{`{"type":"output","data":"` + long + "\n" + `"}`, false},
		{`{"type":"output","data":"` + long + `\x"}`, false},
		{`{"type":"output","data":"` + long + `\u12"}`, false},
		{`{"type":"output","data":"` + long + `","seq":"1"}`, false},
	} {
		m, err := Decode([]byte(c.frame))
		if (err == nil) != c.ok {
			t.Errorf("%.80s: %v", c.frame, err)
		}
		if err == nil && m.Type == "" {
			t.Errorf("%.80s: no type", c.frame)
		}
	}
	m, err := Decode([]byte(`{"type":"heartbeat","timestamp":[1],"pid":7,"cause":"kill"}`))
	if err != nil || m.PID != 7 || m.Timestamp != "" || m.End == nil || m.Cause != CauseKill {
		t.Errorf("beside an odd timestamp: %+v, %v", m, err)
	}
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	want := time.Date(2025, 11, 4, 10, 30, 45, 123456000, time.UTC)
	for _, s := range []string{
		"2025-11-04T10:30:45.123456+00:00", "2025-11-04T10:30:45.123456Z", "2025-11-04T11:30:45.123456+01:00",
		"2025-11-04T11:30:45.123456+0100", "2025-11-04 10:30:45.123456+00:00", "2025-11-04T10:30:45.123456", "2025-11-04 10:30:45.123456",
	} {
		if got := ParseTime(s, now); !got.Equal(want) {
			t.Errorf("%s was read as %s", s, got)
		}
	}
	for _, s := range []string{"", "now", "2025-13-04T10:30:45+00:00", "1762252245", "2025-11-04"} {
		if got := ParseTime(s, now); !got.Equal(now) {
			t.Errorf("%q was read as %s", s, got)
		}
	}
	if got := FormatTime(want.In(time.FixedZone("", 3600))); got != "2025-11-04T10:30:45.123456+00:00" {
		t.Error(got)
	}
	if got := FormatTime(want.Truncate(time.Second)); got != "2025-11-04T10:30:45.000000+00:00" {
		t.Error(got)
	}
}

func TestOutputFrame(t *testing.T) {
	data := []byte("a\x00\xff\n")
	for _, offset := range []int64{0, 1, 1 << 40, math.MaxInt64 - 100} {
		frame := AppendOutput([]byte{}, offset, Stderr, data)
		if len(frame) != OutputHeader+len(data) {
			t.Fatal(len(frame))
		}
		o, s, d, err := ParseOutput(frame)
		if err != nil || o != offset || s != Stderr || string(d) != string(data) {
			t.Errorf("%d: %d %d %q %v", offset, o, s, d, err)
		}
	}
	for _, frame := range [][]byte{
		nil, []byte("12345678"),
		AppendOutput(nil, -1, Stdout, data), AppendOutput(nil, math.MaxInt64, Stdout, data),
		AppendOutput(nil, 0, 0, data), AppendOutput(nil, 0, 3, data),
	} {
		if _, _, _, err := ParseOutput(frame); err == nil {
			t.Errorf("%x was taken", frame)
		}
	}
	if StreamName(StreamNumber("stderr")) != "stderr" || StreamName(StreamNumber("stdout")) != "stdout" || StreamNumber("") != Stdout {
		t.Error("names of streams")
	}
}

func TestOrder(t *testing.T) {
	o := Order{Version: OrderVersion, URL: "ws://h/task/t", Job: "j", Run: "r", Command: "true", Env: map[string]string{"A": "ä\n"}, KillGrace: 5}
	data, err := o.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeOrder(data)
	if err != nil || !reflect.DeepEqual(*got, o) {
		t.Errorf("%+v %v", got, err)
	}
	for name, spoil := range map[string]func(*Order){
		"version": func(o *Order) { o.Version = OrderVersion + 1 },
		"server":  func(o *Order) { o.URL = "" },
		"job":     func(o *Order) { o.Job = "" },
		"run":     func(o *Order) { o.Run = "" },
		"command": func(o *Order) { o.Command = "" },
	} {
		bad := o
		spoil(&bad)
		data, _ := bad.Encode()
		if _, err := DecodeOrder(data); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("without %s: %v", name, err)
		}
	}
}

func TestSeconds(t *testing.T) {
	for s, want := range map[Seconds]time.Duration{
		0: 0, 1.5: 1500 * time.Millisecond, -1: -time.Second, 1e300: math.MaxInt64, -1e300: math.MinInt64,
		9223372036: 9223372036 * time.Second, Seconds(math.Inf(1)): math.MaxInt64,
	} {
		if got := s.Duration(); got != want {
			t.Errorf("%v s is %d, not %d", s, got, want)
		}
	}
	if got := Seconds(math.NaN()).Duration(); got != 0 {
		t.Error(got)
	}
	if got := TimeoutLine(4); got != "\n[Job exceeded timeout of 4 seconds]\n" {
		t.Errorf("%q", got)
	}
	if got := TimeoutLine(0.5); got != "\n[Job exceeded timeout of 0.5 seconds]\n" {
		t.Errorf("%q", got)
	}
}

func TestExitCode(t *testing.T) {
	for _, c := range []struct {
		cause        string
		code, signal int
		want         int
	}{
		{CauseExit, 0, 0, 0}, {CauseExit, 7, 0, 7}, {CauseExit, 143, 0, 143}, {CauseExit, 0, 9, 137}, {"", 3, 0, 3},
		{CauseExit, -15, 0, 143}, {CauseExit, -9, 0, 137}, {CauseSignal, 0, 10, 138},
		{CauseKill, 0, 0, 143}, {CauseKill, 7, 9, 143}, {CauseTimeout, 0, 15, 124}, {CauseTerminated, 0, 15, 143},
		{CauseNever, 0, 0, 143}, {CauseLaunch, 0, 0, 255}, {CauseLost, 0, 0, 253},
	} {
		if got := ExitCode(c.cause, c.code, c.signal); got != c.want {
			t.Errorf("ExitCode(%q, %d, %d) = %d, not %d", c.cause, c.code, c.signal, got, c.want)
		}
	}
}

func TestFeatures(t *testing.T) {
	if got := Common([]string{"report", "x", "bytes"}); !slices.Equal(got, []string{FeatureBytes, FeatureReport}) {
		t.Error(got)
	}
	if Has(nil, FeatureBytes) || !Has(Features(), FeaturePause) || Common(nil) != nil {
		t.Error("features")
	}
	for _, s := range []string{TypeConnect, TypeOutput, TypeComplete, TypeReport} {
		if !(&Message{Type: s}).ForServer() {
			t.Error(s)
		}
	}
	if (&Message{Type: TypeKill}).ForServer() {
		t.Error("kill")
	}
}
