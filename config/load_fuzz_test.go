package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// Whatever a file holds, Load says so in bounded time, and what it lets through
// is whole.
func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("testdata/faults/*.yaml")
	if err != nil || len(files) == 0 {
		f.Fatal("no seeds: ", err)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte("a: &a {<<: [*a, *a], b: *a}\n"))
	f.Add([]byte("? *x\n: <<\n<<: &x {<<: &y [&z {}]}\n"))
	f.Add([]byte("a: !<tag:yaml.org,2002:str> \xe2\x80\xa8\n"))
	f.Add([]byte(strings.Repeat("- ", 200)))
	// Without a disk in between: thousands a second instead of hundreds.
	loadText := func(text []byte, prev *Set) *Set {
		l := newLoading("dir", prev)
		l.add(l.content("a.yaml", text))
		return l.merge()
	}
	good := []byte("a: " + job + "b: " + job)
	f.Fuzz(func(t *testing.T, data []byte) {
		before := loadText(good, nil)
		start := time.Now()
		fresh, after := loadText(data, nil), loadText(data, before)
		if d := time.Since(start); d > 10*time.Second && len(data) < 1<<16 {
			t.Errorf("%d bytes took %v", len(data), d)
		}
		for _, set := range []*Set{fresh, after} {
			whole(t, set)
		}
		if fresh.Files[0].Broken && len(fresh.Errors()) == 0 {
			t.Error("a broken file without an error")
		}
		if after.Files[0].Broken && len(after.Jobs) != 2 {
			t.Errorf("a broken file lost jobs: %q", after.Order)
		}
		if again := loadText(data, after); again.Serial != after.Serial {
			t.Error("the same content gives another serial")
		}
	})
}

// whole checks what everybody relies on.
func whole(t *testing.T, set *Set) {
	t.Helper()
	if len(set.Order) != len(set.Jobs) {
		t.Errorf("order %q of %d jobs", set.Order, len(set.Jobs))
	}
	for _, name := range set.Order {
		j := set.Jobs[name]
		if j == nil || j.Name != name || j.Schedule == nil || j.Location == nil || j.Command == "" || j.Targets == "" || j.Raw == nil ||
			strings.ContainsAny(name, "/\x00\n") || len(name) > 200 || j.Timeout < 0 || j.MaxOutput <= 0 || strings.Contains(j.Command, "\x00") {
			t.Errorf("job %q is not whole: %+v", name, j)
		}
	}
	for _, p := range set.Problems {
		if p.Text == "" || p.Line < 0 || p.Line > 0 && p.Col < 1 || !utf8.ValidString(p.String()) {
			t.Errorf("problem %+v", p)
		}
	}
}

func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"90", "2h30m", "1.5h", "-1", "1d1d", "99999999999d", "."} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := ParseDuration(s); err == nil && d < 0 {
			t.Errorf("%q is %v", s, d)
		}
	})
}

func FuzzMachineList(f *testing.F) {
	f.Add("Host a b\n HostName %h.x\n Port 22\n User \"u\"\nMatch all\n")
	f.Add("[g]\na ansible_host=1::2 ansible_port=x\n[g:vars]\nx=1\nb[1:2]\n")
	f.Add("host =\nhost \"\n\" \x00")
	f.Fuzz(func(t *testing.T, text string) {
		seen := map[string]bool{}
		for _, m := range parseList("list", []byte(text)).machines {
			if badMachineName(m.Name) != "" || seen[m.Name] || m.Local == (m.SSH != "") {
				t.Errorf("machine %+v", m)
			}
			seen[m.Name] = true
		}
	})
}
