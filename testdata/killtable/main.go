// Command killtable makes the table of `make kill-lab` out of what `go test -json`
// prints: which case of the catalogue ran in which mode, and what came of it. What
// failed is printed in full, as it comes.
//
//	go test -json … | go run ./testdata/killtable
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// event is one line of test2json, as far as it matters here.
type event struct {
	Action, Package, Test, Output, Key, Value string
	Elapsed                                   float64
}

// row is one case in one mode.
type row struct {
	id, mode string
	verdict  string
	note     string
	seconds  float64
	tests    int
}

// verdicts in order of weight: of several tests for one case the worst counts.
var verdicts = []string{"skipped", "pass", "honest", "FAIL", "FALSE ALARM", "LIE"}

type test struct {
	attrs  map[string]string
	output []string
}

func main() {
	rows, bad, err := read(os.Stdin, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "killtable:", err)
		os.Exit(2)
	}
	table(os.Stdout, rows)
	if bad > 0 {
		os.Exit(1)
	}
}

func read(in io.Reader, progress io.Writer) (map[string]*row, int, error) {
	tests, rows, bad := map[string]*test{}, map[string]*row{}, 0
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Fprintln(progress, lines.Text()) // of the compiler, say
			continue
		}
		name := e.Package + " " + e.Test
		t := tests[name]
		if t == nil {
			t = &test{attrs: map[string]string{}}
			tests[name] = t
		}
		switch e.Action {
		case "attr":
			t.attrs[e.Key] = e.Value
		case "output", "build-output":
			t.output = append(t.output, e.Output)
		case "pass", "fail", "skip":
			if e.Action == "fail" {
				bad++
				fmt.Fprintf(progress, "%s\n%s", name, strings.Join(t.output, ""))
			}
			if t.attrs["case"] != "" {
				add(rows, e, t)
			}
			delete(tests, name)
		case "build-fail":
			bad++
			fmt.Fprint(progress, strings.Join(t.output, ""))
		}
	}
	for name, t := range tests {
		if t.attrs["case"] != "" { // its program ended in the middle
			bad++
			fmt.Fprintf(progress, "%s never ended\n", name)
			add(rows, event{Action: "fail"}, t)
		}
	}
	return rows, bad, lines.Err()
}

func add(rows map[string]*row, e event, t *test) {
	key := t.attrs["case"] + "\x00" + t.attrs["mode"]
	r := rows[key]
	if r == nil {
		r = &row{id: t.attrs["case"], mode: t.attrs["mode"]}
		rows[key] = r
	}
	verdict, note := "pass", t.attrs["measured"]
	text := strings.Join(t.output, "")
	switch {
	case e.Action == "skip":
		verdict, note = "skipped", reason(t.output)
	case e.Action == "fail" && strings.Contains(text, "LIE:"):
		verdict = "LIE"
	case e.Action == "fail" && strings.Contains(text, "FALSE ALARM:"):
		verdict = "FALSE ALARM"
	case e.Action == "fail":
		verdict = "FAIL"
	case t.attrs["honest"] != "":
		verdict, note = "honest", t.attrs["honest"]
	}
	r.seconds += e.Elapsed
	r.tests++
	if r.verdict == "" || slices.Index(verdicts, verdict) > slices.Index(verdicts, r.verdict) {
		r.verdict, r.note = verdict, note
	} else if r.note == "" && verdict == r.verdict {
		r.note = note
	}
}

// reason is what a skipped test said last: "file.go:12: why".
func reason(output []string) string {
	for _, line := range slices.Backward(output) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "---") || strings.HasPrefix(line, "===") {
			continue
		}
		if _, why, ok := strings.Cut(line, ".go:"); ok {
			_, why, _ = strings.Cut(why, ": ")
			return why
		}
	}
	return ""
}

func table(out io.Writer, rows map[string]*row) {
	count, width, mode := map[string]int{}, 4, 4
	for _, r := range rows {
		count[r.verdict]++
		width, mode = max(width, len(r.id)), max(mode, len(r.mode))
	}
	all := slices.SortedFunc(maps.Values(rows), func(a, b *row) int {
		return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.mode, b.mode))
	})
	fmt.Fprintf(out, "%-*s  %-*s  %-11s  %7s  %s\n", width, "case", mode, "mode", "result", "s", "")
	for _, r := range all {
		fmt.Fprintf(out, "%-*s  %-*s  %-11s  %7.2f  %s\n", width, r.id, mode, r.mode, r.verdict, r.seconds, r.note)
	}
	var sums []string
	for _, v := range slices.Backward(verdicts) {
		sums = append(sums, fmt.Sprintf("%s %d", v, count[v]))
	}
	fmt.Fprintf(out, "\n%d lines: %s\n", len(all), strings.Join(sums, ", "))
}
