package config

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func importText(t *testing.T, text string, o ImportOptions) *Import {
	t.Helper()
	return ImportCrontabs([]Crontab{{Path: "tab", Machine: "here", Zone: "Europe/Bucharest", Kind: UserCrontab, User: "alice", Text: []byte(text)}}, o)
}

func TestCrontabVariables(t *testing.T) {
	for _, c := range []struct {
		line, name, value string
		ok                bool
	}{
		{"A=b", "A", "b", true},
		{"A = b c  ", "A", "b c", true},
		{`A = " b "`, "A", " b ", true},
		{`"A B"='c"d'  `, "A B", `c"d`, true},
		{"A=", "A", "", true},
		{"A =  ", "A", "", true},
		{`A=b"c"`, "A", `b"c"`, true},
		{"A=$HOME # no comment", "A", "$HOME # no comment", true},
		{`A="b" c`, "", "", false},
		{`A="b`, "", "", false},
		{"A", "", "", false},
		{"=b", "", "", false},
		{`"A=B"=c`, "", "", false},
		{"* * * * * A=b run", "", "", false},
		{"0 5 * * 1 X=1 y", "", "", false},
	} {
		name, value, ok := cronVariable(c.line)
		if name != c.name || value != c.value || ok != c.ok {
			t.Errorf("%q is (%q, %q, %v), should be (%q, %q, %v)", c.line, name, value, ok, c.name, c.value, c.ok)
		}
	}
}

// What stands behind % is asked of a real shell: it must read what cron would
// have written to it.
func TestPercentIsStandardInput(t *testing.T) {
	for _, c := range []struct{ rest, want string }{
		{`cat`, ""},
		{`cat%a%b`, "a\nb\n"},
		{`cat%`, ""},
		{`cat%%`, "\n"},
		{`cat%a%`, "a\n"},
		{`cat%it's "q" $HOME \x%EOF%EOFF%`, "it's \"q\" $HOME \\x\nEOF\nEOFF\n"},
		{`printf '\%s.\%s' "it's" a; cat%b\%c`, "it's.ab%c\n"},
		{`echo a # not the end%x`, "a\n"},
		{`sh -c 'cat; exit 0'; echo $?%x`, "x\n0\n"},
		{`cd /; cat > /dev/null; pwd%x`, "/\n"},
	} {
		for _, shell := range []string{"/bin/sh", "/bin/bash"} {
			if _, err := os.Stat(shell); err != nil {
				t.Skip("no ", shell)
			}
			command, input, has := splitInput(c.rest)
			cmd := exec.Command("/bin/sh", "-c", shellCommand(command, shell, input, has, true))
			cmd.Dir, cmd.Env = "/", []string{"HOME=" + t.TempDir(), "PATH=/usr/bin:/bin"}
			out, err := cmd.CombinedOutput()
			if err != nil || string(out) != c.want {
				t.Errorf("%q under %s: %v, %q, should be %q", c.rest, shell, err, out, c.want)
			}
		}
	}
}

// A user without a home has jobs all the same: they start in /, with no word of it in
// what they print.
func TestImportedJobRunsWithoutAHome(t *testing.T) {
	home := t.TempDir()
	for _, c := range []struct{ home, want string }{
		{home, home}, {filepath.Join(home, "missing"), "/"}, {"/dev/null", "/"},
	} {
		for _, text := range []string{"0 0 * * * pwd", "SHELL=/bin/bash\n0 0 * * * pwd", "0 0 * * * cat; pwd%"} {
			got := importText(t, text+"\n", ImportOptions{})
			if len(got.Set.Order) != 1 {
				t.Fatalf("%q gives %v", text, got.Notes)
			}
			job := got.Set.Jobs[got.Set.Order[0]]
			if _, err := os.Stat(job.Env["SHELL"]); err != nil {
				t.Skip("no ", job.Env["SHELL"])
			}
			cmd := exec.Command("/bin/sh", "-c", job.Command)
			cmd.Dir, cmd.Env = home, []string{"HOME=" + c.home, "PATH=/usr/bin:/bin"}
			if out, err := cmd.CombinedOutput(); err != nil || string(out) != c.want+"\n" {
				t.Errorf("%q with the home %s: %v, %q", text, c.home, err, out)
			}
		}
	}
}

func TestPercentWithBackslashes(t *testing.T) {
	for _, c := range []struct {
		rest, command, input string
		has                  bool
	}{
		{`a \% b`, `a % b`, "", false},
		{`a \\ b`, `a \\ b`, "", false},
		{`a \\% b`, `a \\`, " b\n", true},
		{`a\`, `a\`, "", false},
		{`a%b\`, `a`, `b\` + "\n", true},
		{`a%b\\%c`, `a`, `b\%c` + "\n", true},
	} {
		command, input, has := splitInput(c.rest)
		if command != c.command || input != c.input || has != c.has {
			t.Errorf("%q is %q with input %q (%v), should be %q with %q (%v)", c.rest, command, input, has, c.command, c.input, c.has)
		}
	}
}

func TestNamesComeFromCommands(t *testing.T) {
	for command, want := range map[string]string{
		"/usr/local/bin/backup.sh --all >/dev/null 2>&1":                              "backup",
		"cd /srv/app && FOO=1 nice -n 19 ionice -c3 ./manage.py cleanup":              "manage",
		"/usr/bin/flock -n /tmp/x.lock /usr/bin/php -f /var/www/cron.php":             "cron",
		"bash -c 'sleep 5; /opt/a/run_it --x'":                                        "run_it",
		"test -x /usr/sbin/anacron || ( cd / && run-parts --report /etc/cron.daily )": "cron.daily",
		"[ -x /usr/lib/php/sessionclean ] && /usr/lib/php/sessionclean":               "sessionclean",
		"su - www-data -s /bin/sh -c '/usr/bin/env python3 -m app.jobs'":              "app.jobs",
		"timeout -k 5 60 curl -fsS https://example.org/x":                             "curl",
		"sudo -u bob -H /home/bob/bin/x.pl":                                           "x",
		"echo hello":                                                                  "echo",
		"if [ -x /a/b ]; then /a/b; fi":                                               "b",
		"/usr/bin/saltpeter_maintenance":                                              "job-saltpeter_maintenance",
		"$$$":                                                                         "job",
		"java -Xmx1g -jar /opt/x/batch.jar run":                                       "batch",
	} {
		if got := nameOf(command); got != want {
			t.Errorf("%q is named %q, should be %q", command, got, want)
		}
	}
}

func TestCrontabsAreToldApart(t *testing.T) {
	for path, want := range map[string]struct {
		kind CrontabKind
		user string
	}{
		"/etc/crontab":                   {SystemCrontab, ""},
		"copies/web1/etc/crontab":        {SystemCrontab, ""},
		"/etc/cron.d/php":                {SystemCrontab, ""},
		"/var/spool/cron/crontabs/alice": {UserCrontab, "alice"},
		"web1/var/spool/cron/tabs/bob":   {UserCrontab, "bob"},
		"/var/spool/cron/root":           {UserCrontab, "root"},
		"/var/cron/tabs/carol":           {UserCrontab, "carol"},
		"my.cron":                        {GuessCrontab, ""},
		"crontab":                        {GuessCrontab, ""},
	} {
		if kind, user := kindByPath(path); kind != want.kind || user != want.user {
			t.Errorf("%s is of kind %d of user %q", path, kind, user)
		}
	}
	known := func(name string) bool { return name == "svc" }
	for text, want := range map[string]CrontabKind{
		"0 0 * * * root x\n@daily svc y\n": SystemCrontab,
		"0 0 * * * root x\n@daily foo y\n": UserCrontab,
		"0 0 * * * backup\n":               UserCrontab, // a user's name, but nothing to run behind it
		"0 0 * * * /usr/bin/x y\n":         UserCrontab,
		"":                                 UserCrontab,
	} {
		kind, why := kindByLines([]byte(text), known)
		if kind != want || why == "" {
			t.Errorf("%q is of kind %d since %q", text, kind, why)
		}
	}
}

func TestImportKeepsWhatItCannotCarry(t *testing.T) {
	got := importText(t, `# loose

MAILTO=ops@example.org
# first line
# second line
0 3 * * * ./a
@reboot ./b
0 25 * * * ./c
nonsense
5/10 * * * * ./d
RANDOM_DELAY=30
`, ImportOptions{})
	var lost []int
	for _, n := range got.Notes {
		if n.Lost {
			lost = append(lost, n.Line)
		}
	}
	if want := []int{3, 7, 8, 9, 10, 11}; !slices.Equal(lost, want) {
		t.Errorf("lost are lines %v, should be %v: %v", lost, want, got.Notes)
	}
	for _, text := range []string{"# loose\n", "#   MAILTO=ops@example.org\n", "#   @reboot ./b\n", "#   0 25 * * * ./c\n", "#   nonsense\n", "NOT CARRIED OVER: tab:8: hour: 25 is out of range 0-23"} {
		if !strings.Contains(string(got.Text), text) {
			t.Errorf("%q is not in the output:\n%s", text, got.Text)
		}
	}
	j := got.Set.Jobs["a"]
	if j == nil || len(got.Set.Jobs) != 1 {
		t.Fatalf("the jobs are %v\n%s", got.Set.Order, got.Text)
	}
	if j.Description != "first line\nsecond line" || j.User != "alice" || j.Timeout != 0 || j.OnOverlap != "allow" || j.Location.String() != "Europe/Bucharest" || !j.Enabled {
		t.Errorf("the job is %+v", j)
	}
	if want := map[string]string{"PATH": "/usr/bin:/bin", "SHELL": "/bin/sh", "MAILTO": "ops@example.org"}; !maps.Equal(j.Env, want) {
		t.Errorf("its environment is %v", j.Env)
	}
	if j.Command != "cd 2>/dev/null || cd /\n./a" || j.Cwd != "" {
		t.Errorf("its command is %q in %q", j.Command, j.Cwd)
	}
}

func TestImportOfOneEntry(t *testing.T) {
	for _, c := range []struct {
		text string
		want func(*Job) bool
	}{
		{"HOME=/srv\n0 0 * * * x", func(j *Job) bool { return j.Cwd == "/srv" && j.Command == "x" && j.Env["HOME"] == "/srv" }},
		{"HOME=srv\n0 0 * * * x", func(j *Job) bool { return j.Cwd == "" && j.Command == "cd 2>/dev/null || cd /\nx" }},
		{"SHELL=/bin/bash\nPATH=/x\n0 0 * * * it's", func(j *Job) bool {
			return j.Command == "cd 2>/dev/null || cd /\nexec /bin/bash -c 'it'\\''s'" && j.Env["SHELL"] == "/bin/bash" && j.Env["PATH"] == "/x"
		}},
		{"CRON_TZ=America/New_York\n@daily x", func(j *Job) bool { return j.Location.String() == "America/New_York" && j.Fields.Crontab == "@daily" }},
		{"CRON_TZ=America/New_York\nCRON_TZ=\n@daily x", func(j *Job) bool { return j.Location.String() == "Europe/Bucharest" }},
		{"TZ=Asia/Tokyo\n@hourly x", func(j *Job) bool { return j.Location.String() == "Europe/Bucharest" && j.Env["TZ"] == "Asia/Tokyo" }},
		{"LOGNAME=x\nUSER=y\n@hourly x", func(j *Job) bool { return j.Env["LOGNAME"] == "" && j.Env["USER"] == "" }},
		{"MAILTO=\"\"\n@hourly x", func(j *Job) bool { to, there := j.Env["MAILTO"]; return there && to == "" }},
		{"A=1\nA=' 2 '\n@hourly x", func(j *Job) bool { return j.Env["A"] == " 2 " }},
		{"@midnight x", func(j *Job) bool { return j.Fields.Crontab == "@midnight" }},
		{"@quarterly x", func(j *Job) bool { return j.Fields.Crontab == "0 0 1 1,4,7,10 *" }},
		{"-*/5 * * * * x", func(j *Job) bool { return j.Fields.Crontab == "*/5 * * * *" }},
		{"  0\t1 * * sat-sun\t\tx y  ", func(j *Job) bool { return j.Fields.Crontab == "0 1 * * 0,6" && strings.HasSuffix(j.Command, "x y") }},
		{"0 0 */2 * 1 x", func(j *Job) bool { return j.Fields == FieldTexts{Min: "0", Hour: "0", Dom: "*/2", Mon: "*", Dow: "1"} }},
		{"10~20 3 * * * x", func(j *Job) bool { return strings.HasSuffix(j.Fields.Crontab, " 3 * * *") }},
		{"* * * * * x\r\n", func(j *Job) bool { return strings.HasSuffix(j.Command, "\nx") }},
	} {
		got := importText(t, c.text+"\n", ImportOptions{})
		if len(got.Set.Order) != 1 || got.Lost() > 0 || len(got.Set.Errors()) > 0 {
			t.Errorf("%q gives %v, notes %v", c.text, got.Set.Order, got.Notes)
			continue
		}
		if j := got.Set.Jobs[got.Set.Order[0]]; !c.want(j) {
			t.Errorf("%q gives\n%s", c.text, got.Text)
		}
	}
}

func TestEqualLinesOfSeveralMachinesAreOneJob(t *testing.T) {
	tab := func(machine, text string) Crontab {
		return Crontab{Path: machine + ".tab", Machine: machine, Zone: "UTC", Kind: SystemCrontab, Text: []byte(text)}
	}
	files := []Crontab{
		tab("web1", "# rotates\n0 3 * * * root /opt/rotate\n0 4 * * * root /opt/own\n* * * * * root /opt/twice\n* * * * * root /opt/twice\n"),
		tab("web2", "0 4 * * * root /opt/own --here\n# on two\n0  3 *\t* * root /opt/rotate\n* * * * * root /opt/twice\n"),
		tab("web3", "X=1\n0 3 * * * root /opt/rotate\n"),
	}
	got := ImportCrontabs(files, ImportOptions{Shadow: true})
	where := map[string]string{}
	for name, j := range got.Set.Jobs {
		where[j.Command+" "+j.Env["X"]+" "+j.Targets] = name
		if j.Enabled || j.TargetType != "list" {
			t.Errorf("%s is not disabled, or has no list of targets", name)
		}
	}
	for _, want := range []string{"/opt/rotate  web1,web2", "/opt/own  web1", "/opt/own --here  web2", "/opt/rotate 1 web3", "/opt/twice  web1,web2", "/opt/twice  web1"} {
		if where[want] == "" {
			t.Errorf("there is no %q among %v\n%s", want, where, got.Text)
		}
	}
	if len(got.Set.Jobs) != 6 {
		t.Errorf("there are %d jobs: %v", len(got.Set.Jobs), where)
	}
	if j := got.Set.Jobs[where["/opt/rotate  web1,web2"]]; j.Description != "rotates\n\non two" {
		t.Errorf("the description is %q", j.Description)
	}

	// Any order of files and lines gives the same names.
	slices.Reverse(files)
	files[0].Text = []byte("X=1\n0 3 * * * root /opt/rotate\n")
	again := map[string]string{}
	for name, j := range ImportCrontabs(files, ImportOptions{Shadow: true}).Set.Jobs {
		targets := strings.Split(j.Targets, ",")
		slices.Sort(targets)
		again[j.Command+" "+j.Env["X"]+" "+strings.Join(targets, ",")] = name
	}
	if !reflect.DeepEqual(where, again) {
		t.Errorf("names were %v and are %v", where, again)
	}
}

func TestHostZone(t *testing.T) {
	root := t.TempDir()
	if got := HostZone(root); got != "UTC" {
		t.Errorf("without any file it is %q", got)
	}
	etc := filepath.Join(root, "etc")
	if err := os.MkdirAll(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(etc, "localtime"), []byte("TZif2"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := HostZone(root); got != "" {
		t.Errorf("a file without a name gives %q", got)
	}
	if err := os.WriteFile(filepath.Join(etc, "timezone"), []byte("Asia/Tokyo\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := HostZone(root); got != "Asia/Tokyo" {
		t.Errorf("/etc/timezone gives %q", got)
	}
	os.Remove(filepath.Join(etc, "localtime"))
	if err := os.Symlink("../usr/share/zoneinfo/America/Argentina/Salta", filepath.Join(etc, "localtime")); err != nil {
		t.Fatal(err)
	}
	if got := HostZone(root); got != "America/Argentina/Salta" {
		t.Errorf("the link gives %q", got)
	}
}

// Only the last line can lack its newline.
func TestLastLineWithoutNewline(t *testing.T) {
	got := importText(t, "0 6 * * * ./x\n0 7 * * * ./y", ImportOptions{})
	var at []int
	for _, n := range got.Notes {
		if strings.Contains(n.Text, "no newline") {
			at = append(at, n.Line)
		}
	}
	if !slices.Equal(at, []int{2}) {
		t.Errorf("said of lines %v: %v", at, got.Notes)
	}
}
