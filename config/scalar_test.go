package config

import (
	"bufio"
	"encoding/json"
	"os"
	"testing"
	"time"
)

// The file was written by the YAML library of the program of old: str() of what
// it made of each text.
func TestScalarsAsPythonHadThem(t *testing.T) {
	f, err := os.Open("testdata/pyyaml-scalars.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for lines := bufio.NewScanner(f); lines.Scan(); n++ {
		var c struct{ Text, Python string }
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		root, bad := parseYAML([]byte("a: " + c.Text + "\n"))
		if bad != nil {
			t.Fatalf("%q: %v", c.Text, bad)
		}
		if got := pythonText(root.get("a")); got != c.Python {
			t.Errorf("%q becomes %q, want %q", c.Text, got, c.Python)
		}
	}
	if n < 90 {
		t.Fatalf("only %d lines", n)
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90": 90 * time.Second, "90s": 90 * time.Second, "5m": 5 * time.Minute, "2h30m": 150 * time.Minute,
		"1d": 24 * time.Hour, "1.5h": 90 * time.Minute, "0": 0, " 7 ": 7 * time.Second, "250ms": 250 * time.Millisecond,
		"1w2d": 9 * 24 * time.Hour, "0.5": 500 * time.Millisecond,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", " ", "-1", "-5m", "x", "1x", "1 h", "h", "1h30", "1..5", "99999999999999d", "1e3", "1h-2m", "+1", "NaN", "Inf"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]int64{"1": 1, "512K": 512 << 10, "100MiB": 100 << 20, "1.5G": 3 << 29, "10MB": 10e6, "2 T": 2 << 40} {
		if got, ok := parseBytes(text); !ok || got != want {
			t.Errorf("%q is %d, %t; want %d", text, got, ok, want)
		}
	}
	for _, text := range []string{"", "K", "-1", "1X", "1e9", "99999999T", "..1"} {
		if got, ok := parseBytes(text); ok {
			t.Errorf("%q is %d, want an error", text, got)
		}
	}
}

func TestNearest(t *testing.T) {
	for word, want := range map[string]string{
		"comand": "command", "cmmand": "command", "commnad": "command", "tragets": "targets", "usr": "user",
		"xyz": "", "number_of_target": "number_of_targets", "c": "", "": "",
	} {
		if got := nearest(word, jobKeyNames.get()); got != want {
			t.Errorf("nearest to %q is %q, want %q", word, got, want)
		}
	}
}
