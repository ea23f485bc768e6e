package config

import (
	"slices"
	"strings"
	"testing"
)

// Whatever a crontab holds, what comes out is a job file without a fault, and
// every line of the crontab is in it or in the notes.
func FuzzImport(f *testing.F) {
	for _, seed := range []string{
		"", "\n", "# only a comment", "0 0 * * * true\n", "@reboot x\n@daily y\n", "MAILTO=root\n* * * * * a%b%c\n", "A='b' c\n = x\nB=\"\n",
		"0 0 * * * root \xff\n", "\x00\n0 0 * * * \x00\n", "0~59 1 * * sat-sun x\r\n", "# d\x01\u2028\n0 0 * * * a\u0085b\n", "CRON_TZ=Mars/X\n1 1 1 1 1 x\n",
		"HOME=/a\nSHELL=/bin/bash\n- * * * * * x\n", "-* * * * * -n x\n", "* * * * * saltpeter_config\n* * * * * %\n* * * * * y\\%\\\\%z\\\n", "<<=1\n~=2\n0 0 30 2 * never\n",
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, system bool) {
		kind := UserCrontab
		if system {
			kind = SystemCrontab
		}
		file := Crontab{Path: "c", Machine: "m1", Zone: "Europe/Berlin", Kind: kind, User: "root", Text: text}
		other := file
		other.Machine, other.Path = "m2", "d"
		got := ImportCrontabs([]Crontab{file, other}, ImportOptions{})
		for _, p := range got.Set.Problems {
			if !p.Warning || !strings.Contains(p.Text, "never fires") {
				t.Fatalf("the result is at fault: %s\n%s", p, got.Text)
			}
		}
		checkEveryLine(t, file, got)

		// Names and jobs do not depend on the order.
		again := ImportCrontabs([]Crontab{other, file}, ImportOptions{})
		names, names2 := slices.Sorted(slices.Values(got.Set.Order)), slices.Sorted(slices.Values(again.Set.Order))
		if !slices.Equal(names, names2) {
			t.Fatalf("the order of files changes names: %q and %q", names, names2)
		}
		for _, name := range names {
			a, b := got.Set.Jobs[name], again.Set.Jobs[name]
			if a.Command != b.Command || a.Fields != b.Fields || a.User != b.User {
				t.Fatalf("the order of files changes what %s is", name)
			}
		}
	})
}

// checkEveryLine counts: each entry is a job (in a target list) or a note.
func checkEveryLine(t *testing.T, file Crontab, got *Import) {
	t.Helper()
	from := map[int]bool{}
	for line := range strings.Lines(string(got.Text)) {
		if rest, ok := strings.CutPrefix(strings.TrimSpace(line), "# from "); ok {
			for at := range strings.SplitSeq(rest, ", ") {
				if num, ok := strings.CutPrefix(at, file.Path+":"); ok {
					from[number(num)] = true
				}
			}
		}
	}
	for _, n := range got.Notes {
		if n.File == file.Path && n.Lost {
			from[n.Line] = true
		}
	}
	for num, text := range crontabLines(file.Text) {
		l := readCronLine(num, strings.TrimSuffix(text, "\r"), file.Kind == SystemCrontab)
		if l.kind == entryLine && !from[num] {
			t.Fatalf("line %d %q is neither carried over nor told\n%s", num, text, got.Text)
		}
	}
}
