package sshx

import (
	"os/exec"
	"strings"
	"testing"
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

func TestQuoteIsOneLine(t *testing.T) {
	line := Quote("printf", "%s", "a\nb'c\\d\n")
	if strings.ContainsAny(line, "\n\r") {
		t.Fatalf("%q has a newline", line)
	}
	out, err := exec.Command("sh", "-c", line).Output()
	if err != nil || string(out) != "a\nb'c\\d\n" {
		t.Fatalf("sh -c %s printed %q: %v", line, out, err)
	}
}
