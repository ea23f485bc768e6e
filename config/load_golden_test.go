package config

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden lists of messages anew")

// Each file of testdata/faults is named for what is wrong in it; beside it lies
// the list of messages, to the column.
func TestFaults(t *testing.T) {
	files, err := filepath.Glob("testdata/faults/*.yaml")
	if err != nil || len(files) < 30 {
		t.Fatalf("found %d files: %v", len(files), err)
	}
	for _, path := range files {
		name := filepath.Base(path)
		t.Run(strings.TrimSuffix(name, ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			write(t, dir, name, string(data))
			set := load(t, dir, nil)
			got := messages(set)
			golden := strings.TrimSuffix(path, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(want, []byte(got)) {
				t.Errorf("messages are\n%swant\n%s", got, want)
			}
		})
	}
}

// messages are the problems of a set without the directory, then its jobs.
func messages(set *Set) string {
	var b strings.Builder
	for _, p := range set.Problems {
		what := "error"
		if p.Warning {
			what = "warning"
		}
		fmt.Fprintf(&b, "%s %s\n", what, strings.ReplaceAll(p.String(), set.Dir+"/", ""))
	}
	fmt.Fprintf(&b, "jobs %q\n", set.Order)
	return b.String()
}

func write(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func load(t testing.TB, dir string, prev *Set) *Set {
	t.Helper()
	set, err := Load(dir, prev)
	if err != nil {
		t.Fatal(err)
	}
	return set
}
