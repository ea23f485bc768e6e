package config

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	yaml "go.yaml.in/yaml/v4"
)

// manyJobs writes jobs as people have them, a hundred a file.
func manyJobs(t testing.TB, jobs int) string {
	t.Helper()
	dir := t.TempDir()
	for f := range jobs / 100 {
		var b strings.Builder
		for i := range 100 {
			fmt.Fprintf(&b, "job-%d-%d:\n  min: '%d'\n  hour: '*/2'\n  dom: '*'\n  mon: '*'\n  dow: mon-fri\n  user: app\n"+
				"  command: /usr/local/bin/task --number %d\n  targets: 'web%d*'\n  timeout: 600\n  timezone: Europe/Bucharest\n", f, i, i%60, i, i)
		}
		write(t, dir, fmt.Sprintf("group%03d.yaml", f), b.String())
	}
	return dir
}

// parseAll is the baseline: the bare YAML parse of the same bytes.
func parseAll(t testing.TB, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		l, err := yaml.NewLoader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		var doc yaml.Node
		if err := l.Load(&doc); err != nil {
			t.Fatal(err)
		}
	}
}

// BenchmarkLoad10000 measures the parse in between its own rounds, and reports
// the ratio that is to stay at 2 or less.
func BenchmarkLoad10000(b *testing.B) {
	dir := manyJobs(b, 10000)
	var ours, bare time.Duration
	for b.Loop() {
		start := time.Now()
		if set := load(b, dir, nil); len(set.Jobs) != 10000 || len(set.Problems) > 0 {
			b.Fatalf("%d jobs, %v", len(set.Jobs), set.Problems)
		}
		ours += time.Since(start)
		start = time.Now()
		parseAll(b, dir)
		bare += time.Since(start)
	}
	b.ReportMetric(0, "ns/op") // both together: says nothing
	b.ReportMetric(ours.Seconds()*1000/float64(b.N), "ours-ms")
	b.ReportMetric(bare.Seconds()*1000/float64(b.N), "baseline-ms")
	b.ReportMetric(2, "reach")
}

// BenchmarkReload10000 changes one file of a hundred each time.
func BenchmarkReload10000(b *testing.B) {
	dir := manyJobs(b, 10000)
	set := load(b, dir, nil)
	i := 0
	for b.Loop() {
		i++
		write(b, dir, "group050.yaml", fmt.Sprintf("job: {schedule: '@daily', command: echo %d, targets: '*'}\n", i))
		if set = load(b, dir, set); len(set.Jobs) != 9901 {
			b.Fatalf("%d jobs", len(set.Jobs))
		}
	}
	b.ReportMetric(100e6, "ns/op:reach")
}

// BenchmarkRescan10000 is what happens every 10 s while nobody writes.
func BenchmarkRescan10000(b *testing.B) {
	dir := manyJobs(b, 10000)
	set := load(b, dir, nil)
	for b.Loop() {
		if load(b, dir, set) != set {
			b.Fatal("something changed")
		}
	}
}

// The bounds again, generously, so that a plain test run notices a new order of
// magnitude.
func TestLoadIsNotSlow(t *testing.T) {
	dir := manyJobs(t, 2000)
	best := 1e9
	var set *Set
	for range 5 {
		start := time.Now()
		parseAll(t, dir)
		bare := time.Since(start)
		start = time.Now()
		set = load(t, dir, nil)
		best = min(best, float64(time.Since(start))/float64(bare))
	}
	if best > 8 {
		t.Errorf("loading takes %.1f times as long as the bare parse", best)
	}
	write(t, dir, "group000.yaml", "{}\n")
	start := time.Now()
	set = load(t, dir, set)
	if d := time.Since(start); d > 2*time.Second || len(set.Jobs) != 1900 {
		t.Errorf("a reload takes %v and has %d jobs", d, len(set.Jobs))
	}
}
