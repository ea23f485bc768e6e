package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// again imports a crontab, keeping the names of an earlier result.
func again(t *testing.T, before *Import, text string) *Import {
	t.Helper()
	o := ImportOptions{}
	if before != nil {
		path := filepath.Join(t.TempDir(), "cron.yaml")
		if err := os.WriteFile(path, before.Text, 0o600); err != nil {
			t.Fatal(err)
		}
		set, err := ReadJobFile(path)
		if err != nil {
			t.Fatal(err)
		}
		o.Before = set
	}
	got := importText(t, text, o)
	if len(got.Set.Errors()) > 0 || got.Lost() > 0 {
		t.Fatalf("%v\n%s", got.Notes, got.Text)
	}
	return got
}

// importedNames are those of the jobs, by the last line of their commands and their schedule.
func importedNames(i *Import) map[string]string {
	all := map[string]string{}
	for name, j := range i.Set.Jobs {
		all[j.Command[strings.LastIndexByte(j.Command, '\n')+1:]+" at "+j.Fields.Crontab] = name
	}
	return all
}

// Adding, taking out and moving lines renames nobody, and nobody gets a name that
// another job had.
func TestImportAgainKeepsNames(t *testing.T) {
	first := again(t, nil, "0 1 * * * ./backup --all\n0 2 * * * ./tidy\n")
	if got := importedNames(first); got["./backup --all at 0 1 * * *"] != "backup" {
		t.Fatalf("named %v", got)
	}
	second := again(t, first, "0 3 * * * ./backup --logs\n0 2 * * * ./tidy\n0 1 * * * ./backup --all\n")
	got := importedNames(second)
	logs := got["./backup --logs at 0 3 * * *"]
	if got["./backup --all at 0 1 * * *"] != "backup" || got["./tidy at 0 2 * * *"] != "tidy" || !strings.HasPrefix(logs, "backup-") {
		t.Errorf("after a line was added: %v", got)
	}
	third := again(t, second, "0 3 * * * ./backup --logs\n0 2 * * * ./tidy\n")
	if got := importedNames(third); got["./backup --logs at 0 3 * * *"] != logs || len(got) != 2 {
		t.Errorf("after a line was taken out: %v", got)
	}
	if !slices.ContainsFunc(third.Notes, func(n ImportNote) bool {
		return !n.Lost && n.Line > 0 && strings.HasSuffix(n.File, "/cron.yaml") && strings.Contains(n.Text, "the job backup any more")
	}) {
		t.Errorf("what is no more is not noted: %v", third.Notes)
	}
	// The name of the one that was taken out is not that of two that come later.
	fourth := again(t, second, "0 3 * * * ./backup --logs\n0 4 * * * ./backup --x\n0 5 * * * ./backup --y\n")
	for what, name := range importedNames(fourth) {
		if name == "backup" {
			t.Errorf("%s has the name of another job", what)
		}
	}
}

// What people edit in a line does not take its name away, nor what they edit in the
// file.
func TestImportAgainKnowsEditedJobs(t *testing.T) {
	const tab = "0 1 * * * ./backup --all\n0 2 * * * ./backup --logs\n0 3 * * * ./check\n0 4 * * * ./check\n0 5 * * * ./tidy -a\n"
	first := again(t, nil, tab)
	was := importedNames(first)
	for _, c := range []struct{ name, text, what, from string }{
		{"schedule", strings.Replace(tab, "0 2", "30 2", 1), "./backup --logs at 30 2 * * *", "./backup --logs at 0 2 * * *"},
		{"one of two schedules", strings.Replace(tab, "0 4", "0 5", 1), "./check at 0 5 * * *", "./check at 0 4 * * *"},
		{"arguments", strings.Replace(tab, "tidy -a", "tidy -b", 1), "./tidy -b at 0 5 * * *", "./tidy -a at 0 5 * * *"},
		{"variables of all", "PATH=/opt/bin\n" + tab, "./check at 0 4 * * *", "./check at 0 4 * * *"},
		{"order", "0 4 * * * ./check\n0 3 * * * ./check\n", "./check at 0 3 * * *", "./check at 0 3 * * *"},
	} {
		got := importedNames(again(t, first, c.text))
		if got[c.what] != was[c.from] || was[c.from] == "" {
			t.Errorf("%s: %s is %q, was %q", c.name, c.what, got[c.what], was[c.from])
		}
	}
	edited := *first
	edited.Text = []byte(strings.NewReplacer("\n"+was["./check at 0 3 * * *"]+":", "\nour check:", "timeout: 0", "timeout: 60", "targets: here", "targets: '*'", "target_type: list", "target_type: glob").Replace(string(first.Text)))
	if got := importedNames(again(t, &edited, tab)); got["./check at 0 3 * * *"] != "our check" {
		t.Errorf("after an edit of the file: %v", got)
	}
}

// A file of an older import has other words in front of its commands.
func TestImportAgainKnowsOlderFiles(t *testing.T) {
	const tab = "0 1 * * * ./sync a\n0 2 * * * ./sync b\n"
	first := again(t, nil, tab)
	older := *first
	older.Text = []byte(strings.ReplaceAll(string(first.Text), strings.TrimSpace(goHome)+"\n", olderGoHome))
	if string(older.Text) == string(first.Text) {
		t.Fatalf("nothing goes to a home:\n%s", first.Text)
	}
	got := again(t, &older, tab)
	if string(got.Text) != string(first.Text) || len(got.Notes) != len(first.Notes) {
		t.Errorf("notes %v\n%s", got.Notes, got.Text)
	}
	moved := again(t, &older, "0 1 * * * ./sync a\n0 3 * * * ./sync b\n") // only by its command
	if was, is := importedNames(first)["./sync b at 0 2 * * *"], importedNames(moved)["./sync b at 0 3 * * *"]; was == "" || is != was {
		t.Errorf("was %q, is %q", was, is)
	}
}

// A job that is left over beside a namesake is no edit of it: a new line gets neither
// its name nor its history.
func TestImportAgainTakesNoNameOfANamesake(t *testing.T) {
	const web = "0 2 * * * /opt/sync.sh web\n"
	for _, c := range []struct{ name, before, now string }{
		{"before and now", web + "0 1 * * * /opt/sync.sh old-db\n", web + "0 9 * * * /opt/sync.sh NEW\n"},
		{"before", web + "0 1 * * * /opt/sync.sh old-db\n", "0 9 * * * /opt/sync.sh NEW\n"},
		{"now", web, "0 8 * * * /opt/sync.sh OTHER\n0 9 * * * /opt/sync.sh NEW\n"},
	} {
		first := again(t, nil, c.before)
		got := importedNames(again(t, first, c.now))
		if name := got["/opt/sync.sh NEW at 0 9 * * *"]; name == "" || first.Set.Jobs[name] != nil {
			t.Errorf("%s: the new line is %q, which was one of %v", c.name, name, first.Set.Order)
		}
		if was, is := importedNames(first)["/opt/sync.sh web at 0 2 * * *"], got["/opt/sync.sh web at 0 2 * * *"]; strings.Contains(c.now, web) && is != was {
			t.Errorf("%s: the line that stayed was %q and is %q", c.name, was, is)
		}
	}
}

// Lines that do the same on several machines are told apart by where they are.
func TestImportAgainKeepsCopiesApart(t *testing.T) {
	tabs := func(texts ...string) (files []Crontab) {
		for i, text := range texts {
			machine := string(rune('a' + i))
			files = append(files, Crontab{Path: machine + ".tab", Machine: machine, Zone: "UTC", Kind: UserCrontab, User: "root", Text: []byte(text)})
		}
		return files
	}
	byTargets := func(i *Import) map[string]string {
		all := map[string]string{}
		for name, j := range i.Set.Jobs {
			all[j.Targets] = name
		}
		return all
	}
	line := "* * * * * ./x\n"
	first := ImportCrontabs(tabs(line+line, line), ImportOptions{})
	was := byTargets(first)
	second := ImportCrontabs(tabs("A=1\n"+line+line, "A=1\n"+line), ImportOptions{Before: first.Set})
	if got := byTargets(second); len(was) != 2 || got["a"] != was["a"] || got["a,b"] != was["a,b"] {
		t.Errorf("were %v, are %v", was, got)
	}
}

func TestReadJobFileRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "cron.yaml")
	if _, err := ReadJobFile(path); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a file that is not there: %v", err)
	}
	for text, want := range map[string]string{"a:\n  command: x\n": path + ":1:1: ", "- x\n": "not a mapping", "\n": ""} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		set, err := ReadJobFile(path)
		if want == "" && (err != nil || len(set.Jobs) > 0) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
