package sshx

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"saltpeter/testdata/lab"
)

func TestQuoteIsPlainWhereItCan(t *testing.T) {
	for _, c := range []struct {
		argv []string
		want string
	}{
		{[]string{"sh", "-s"}, "sh -s"},
		{[]string{"/usr/bin/env", "A=b"}, "/usr/bin/env 'A=b'"},
		{[]string{"echo", ""}, "echo ''"},
		{[]string{"time", "time"}, "'time' time"},
		{[]string{"echo", "it's"}, `echo 'it'\''s'`},
		{[]string{"echo", `a\b!`}, `echo 'a'\\'b'\!`},
	} {
		if got := Quote(c.argv...); got != c.want {
			t.Errorf("Quote(%q) = %s, want %s", c.argv, got, c.want)
		}
	}
}

// words are what shells find hard.
var words = [][]string{
	{"printf", "[%s]", "plain", "two words", ""},
	{"printf", "[%s]", "it's", `it\'s`, `\`, `\\`, `a\b`, `\'`, `''`, `trailing\`},
	{"printf", "[%s]", "!", "a!b", "!!", "'!'", `\!`, "a !$ b", "!-1"},
	{"printf", "[%s]", "$HOME", "`id`", "$(id)", "${x}", "~", "~root", "*", "?", "[a]", "{a,b}", "a=b", "%self", "%1"},
	{"printf", "[%s]", ";", "&", "|", "<", ">", "(", ")", "#x", "\"", "\t", "^x^y", "@", "a\tb"},
	{"printf", "[%s]", "a\nb", "\n", "end\n", "\n\n", "it's\n'!\\'", "a\r\nb"},
	{"printf", "[%s]", "żółw", "日本", "\x80\xff", "a\x01b"},
	{"printf", "[%s]", strings.Repeat("long word's ", 100)},
}

func want(argv []string) string {
	var b strings.Builder
	for _, w := range argv[2:] {
		b.WriteString("[" + w + "]")
	}
	return b.String()
}

// shell is one that takes a line with -c.
type shell struct{ argv, env []string }

func (s shell) run(line string) (string, error) {
	cmd := exec.Command(s.argv[0], append(s.argv[1:], "-c", line)...)
	cmd.Env = append(os.Environ(), s.env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// shells are those that this machine has, or that a package has.
func shells(t testing.TB) map[string]shell {
	found := map[string]shell{}
	for _, name := range []string{"sh", "bash", "dash", "zsh", "ksh", "mksh"} {
		if path, err := exec.LookPath(name); err == nil {
			found[name] = shell{argv: []string{path}}
		}
	}
	for name, at := range map[string][2]string{"tcsh": {"tcsh", "bin/tcsh"}, "bsd-csh": {"csh", "bin/bsd-csh"}, "fish": {"fish", "usr/bin/fish"}, "busybox": {"busybox-static", "bin/busybox"}} {
		path, env, err := lab.Foreign(name, at[0], at[1])
		if err != nil {
			t.Logf("no %s here: %v", name, err)
			continue
		}
		s := shell{[]string{path}, env}
		if name == "busybox" {
			s.argv = append(s.argv, "sh")
		}
		if out, err := s.run("echo here"); err != nil || out != "here\n" {
			t.Logf("%s does not run here: %q %v", name, out, err)
			continue
		}
		found[name] = s
	}
	return found
}

func TestQuoteInEveryShell(t *testing.T) {
	for name, shell := range shells(t) {
		t.Run(name, func(t *testing.T) {
			for _, argv := range words {
				line := Quote(argv...)
				if strings.ContainsAny(line, "\n\r") {
					t.Errorf("%q is not one line", line)
				}
				out, err := shell.run(line)
				if err != nil || out != want(argv) {
					t.Errorf("%s printed %q, not %q: %v", line, out, want(argv), err)
				}
			}
		})
	}
}

func FuzzQuote(f *testing.F) {
	for _, argv := range words {
		for _, w := range argv[2:] {
			f.Add(w, argv[2])
		}
	}
	all := shells(f)
	f.Fuzz(func(t *testing.T, a, b string) {
		if strings.ContainsRune(a+b, 0) || len(a)+len(b) > 4000 {
			t.Skip()
		}
		argv := []string{"printf", "[%s]", a, b}
		line := Quote(argv...)
		for name, shell := range all {
			out, err := shell.run(line)
			if err != nil || out != want(argv) {
				t.Errorf("%s: %s printed %q, not %q: %v", name, line, out, want(argv), err)
			}
		}
	})
}
