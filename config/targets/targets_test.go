package targets

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fleet is what most cases are asked about.
var fleet = []Machine{
	{Name: "web1", Grains: map[string]any{
		"os": "Debian", "osmajorrelease": 12, "osrelease": 12.5, "virtual": true, "roles": []any{"web", "cache"},
		"ipv4": []any{"127.0.0.1", "10.0.0.5"}, "ipv6": []any{"::1", "fe80::1%eth0"},
		"disks":  map[string]any{"sda": map[string]any{"size": 500.0, "kind": "ssd"}, "sdb": nil},
		"hwaddr": map[string]any{"eth0": "52:54:00:aa:bb:cc"}, "cpu": "Intel(R) Xeon", "empty": []any{}, "none": nil,
	}},
	{Name: "web2", Grains: map[string]any{"os": "Ubuntu", "osmajorrelease": 24.0, "roles": []string{"web"}, "virtual": false, "ipv4": "192.168.1.2"}},
	{Name: "db1.example.com", Grains: map[string]any{"os": "debian", "roles": "db", "a:b": "c", "nics": []any{map[string]any{"name": "eth0"}, "lo"}}},
	{Name: "Web3"},
}

func named(t *testing.T, e *Expr) string {
	t.Helper()
	var names []string
	for _, m := range fleet {
		if e.Match(m) {
			names = append(names, strings.TrimSuffix(m.Name, ".example.com"))
		}
	}
	return strings.Join(names, " ")
}

func TestMatch(t *testing.T) {
	for _, c := range []struct{ kind, text, want string }{
		{"", "*", "web1 web2 db1 Web3"},
		{"glob", "web?", "web1 web2"},
		{"glob", " web[!1] ", "web2"},
		{"glob", "[wW]eb*", "web1 web2 Web3"},
		{"glob", "db1", ""},
		{"glob", "db1.*", "db1"},

		{"pcre", "web", "web1 web2"}, // an end may be left over
		{"pcre", "eb", ""},           // the start may not
		{"pcre", "web1|db", "web1 db1"},
		{"pcre", "(?i)web\\d$", "web1 web2 Web3"},
		{"pcre", `web\d\Z`, "web1 web2"},
		{"pcre", `(?P<kind>web|db)[12]\.?`, "web1 web2 db1"},

		{"list", "web1,db1.example.com", "web1 db1"},
		{"list", " web1 , ,web2,", "web1 web2"},
		{"list", "web*", ""},

		{"grain", "os:Debian", "web1 db1"}, // values without regard to case
		{"grain", "OS:Debian", ""},         // keys with
		{"grain", "os:*", "web1 web2 db1"},
		{"grain", "osmajorrelease:12", "web1"},
		{"grain", "osmajorrelease:24", "web2"},
		{"grain", "osmajorrelease:24.0", "web2"},
		{"grain", "osrelease:12.*", "web1"},
		{"grain", "virtual:true", "web1"},
		{"grain", "virtual:False", "web2"},
		{"grain", "roles:web", "web1 web2"},
		{"grain", "roles:d?", "db1"},
		{"grain", "roles:1", ""},
		{"grain", "roles:0:web", "web1 web2"},
		{"grain", "roles:-1:cache", "web1"},
		{"grain", "disks:sda", "web1"},
		{"grain", "disks:sd*", ""}, // the key of a map is not a glob
		{"grain", "disks:sda:size:500", "web1"},
		{"grain", "disks:*:kind:ssd", "web1"},
		{"grain", "disks:sda:kind:hdd", ""},
		{"grain", "disks:*", "web1"},
		{"grain", "*:Debian", "web1 db1"},
		{"grain", "*:cache", "web1"},
		{"grain", "hwaddr:eth0:52:54:00:*", "web1"},
		{"grain", "hwaddr:eth0:52:54:00:aa:bb:cc", "web1"},
		{"grain", "a:b:c", ""}, // a key with a colon can't be named, as in Salt
		{"grain", "nics:name:eth0", "db1"},
		{"grain", "nics:lo", "db1"},
		{"grain", "empty:*", ""},
		{"grain", "none:None", "web1"},
		{"grain", "nothing:*", ""},
		{"grain_pcre", "os:(debian|ubuntu)$", "web1 web2 db1"},
		{"grain_pcre", "os:Deb", "web1 db1"},
		{"grain_pcre", "os:(?:Ub)", "web2"},
		{"grain_pcre", `osmajorrelease:\d\d$`, "web1 web2"},

		{"ipcidr", "10.0.0.0/8", "web1"},
		{"ipcidr", "192.168.1.2", "web2"},
		{"ipcidr", "fe80::/10", "web1"},
		{"ipcidr", "0.0.0.0/0", "web1 web2"},

		{"compound", "web1", "web1"},
		{"compound", "web* and G@os:Debian", "web1"},
		{"compound", "web1 or web2 and G@os:Debian", "web1"}, // and binds tighter than or
		{"compound", "(web1 or web2) and G@os:Ubuntu", "web2"},
		{"compound", "( web1 or web2 ) and not ( G@os:Ubuntu )", "web1"},
		{"compound", "not web* and not db*", "Web3"},
		{"compound", "not web1 or web1", "web1 web2 db1 Web3"},
		{"compound", "not(web1 or web2)and(db* or Web3)", "db1 Web3"},
		{"compound", "web* not web1", "web2"},                 // Salt reads and not
		{"compound", "web1 or db* not *.example.com", "web1"}, // and with the rank of and
		{"compound", "E@web(1|2) and not L@web1,db1.example.com", "web2"},
		{"compound", "(E@(web|db)1 or E@x\\)y)", "web1 db1"},
		{"compound", "((E@web[)1]))", "web1"},
		{"compound", "P@os:(debian|x) and db*", "db1"},
		{"compound", "G@cpu:Intel(R)*", "web1"},
		{"compound", "(G@cpu:Intel(R)*)", "web1"},
		{"compound", "S@10.0.0.5 or S@192.168.0.0/16", "web1 web2"},
		{"compound", "G|@disks|sda|kind|ssd or P;@os;ubu", "web1 web2"},
		{"compound", "L@web1,web2", "web1 web2"},
		{"compound", "root@web1 or web2", "web2"}, // more than a letter is a name
		{"compound", "and* or web1", "web1"},
		{"compound", "\tweb1\nor\u00a0web2 ", "web1 web2"},
	} {
		e, err := Parse(c.kind, c.text)
		if err != nil {
			t.Errorf("%s %q: %v", c.kind, c.text, err)
			continue
		}
		if got := named(t, e); got != c.want {
			t.Errorf("%s %q names %q, want %q", c.kind, c.text, got, c.want)
		}
	}
}

// The lines were made by asking Python's fnmatch, which Salt asks.
func TestGlobIsFnmatch(t *testing.T) {
	f, err := os.Open("testdata/fnmatch.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for lines := bufio.NewScanner(f); lines.Scan(); n++ {
		var c struct {
			Pattern, Text string
			Match         bool
		}
		if err := json.Unmarshal(lines.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		if got := glob(c.Pattern).matches(c.Text); got != c.Match {
			t.Errorf("%q of %q is %v, want %v", c.Pattern, c.Text, got, c.Match)
		}
	}
	if n < 600 {
		t.Errorf("only %d lines", n)
	}
}

func TestGlobIsNeverSlow(t *testing.T) {
	begun := time.Now()
	if glob(strings.Repeat("*a", 200) + "b").matches(strings.Repeat("a", 5000)) {
		t.Error("matches")
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestGrainIsNeverSlow(t *testing.T) {
	deep := map[string]any{"a": "b"}
	for range 30 {
		deep = map[string]any{"a": deep}
	}
	m := Machine{Name: "m", Grains: deep}
	for text, want := range map[string]bool{
		strings.Repeat("a:", 19) + "z":  false,
		strings.Repeat("a:", 19) + "a":  true,
		strings.Repeat("*:", 8) + "z":   false,
		strings.Repeat("a:*:", 8) + "z": false,
	} {
		e, err := Parse("grain", text)
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if got := e.Match(m); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
		if took := time.Since(begun); took > 3*time.Second {
			t.Errorf("%s took %v", text, took)
		}
	}
}

func TestErrors(t *testing.T) {
	for _, c := range []struct{ kind, text, want string }{
		{"blob", "x", `unknown target type "blob"; write one of glob, pcre, list, grain, compound, grain_pcre, ipcidr`},
		{"glob", "  ", "the expression is empty; write '*' for all machines"},
		{"list", " , ", "character 1: the list names no machine; write names with commas between them"},
		{"pcre", "web(?=1)", `character 4: "(?=" is lookahead, which RE2 does not have; ` + instead},
		{"pcre", " (?!web1).*", `character 2: "(?!" is negative lookahead, which RE2 does not have; ` + instead},
		{"pcre", "é(?<=x)", `character 2: "(?<=" is lookbehind, which RE2 does not have; ` + instead},
		{"pcre", `(a)b\1`, `character 5: \1 is a backreference, which RE2 does not have; ` + instead},
		{"pcre", "(?P<a>x)(?P=a)", `character 9: "(?P=" is a backreference, which RE2 does not have; ` + instead},
		{"pcre", "*.example", "character 1: missing argument to repetition operator: *; this repeats nothing, or repeats twice; shell wildcards are target_type: glob"},
		{"pcre", "web(1", "character 4: missing closing ): web(1; close every '(', or write '\\(' for the character"},
		{"pcre", "a)(b", "character 2: unexpected ): a)(b; write '\\)' for the character"},
		{"pcre", "wéb[1", "character 4: missing closing ]: [1; close the '[', or write '\\[' for the character"},
		{"pcre", "web\\", "character 4: trailing backslash at end of expression: ; write '\\\\' for the character"},
		{"grain", "os", `character 1: "os" has no value; write key:pattern, such as os:Debian or roles:web*`},
		{"grain", ":x", "character 1: the key is empty; write key:pattern, such as os:Debian or roles:web*"},
		{"grain", strings.Repeat("*:", 9) + "x", "character 1: too many parts: at most 20, and 8 of them *; name a key nearer to the value"},
		{"grain_pcre", "os:[", "character 4: missing closing ]: [; close the '[', or write '\\[' for the character"},
		{"ipcidr", "10.0.0.5/8", `character 1: "10.0.0.5/8" is an address inside a network; write 10.0.0.0/8 for the network, or 10.0.0.5`},
		{"ipcidr", "10.0.0", `character 1: "10.0.0" is not an address or a network; write one such as 10.0.0.5, 10.0.0.0/8 or 2001:db8::/32`},
		{"compound", "web1 web2", `character 6: no operator before "web2"; write 'and' or 'or' between them`},
		{"compound", "web1 AND web2", `character 6: no operator before "AND"; write and in lower case`},
		{"compound", "L@a, b", `character 6: no operator before "b"; write the list without blanks`},
		{"compound", "(web1) (web2)", `character 8: no operator before "("; write 'and' or 'or' between them`},
		{"compound", "(web1", "character 1: '(' is never closed; add a ')'"},
		{"compound", "web1)", "character 5: ')' closes nothing; leave it out, or add a '(' before"},
		{"compound", "web1 and", "character 8: the expression ends where a term is missing; write a name, a glob, or G@key:value behind it"},
		{"compound", "or web1", `character 1: "or" where a term is missing; write a name, a glob, or G@key:value before it`},
		{"compound", "web1 or ()", "character 10: ')' where a term is missing; write a name, a glob, or G@key:value before it"},
		{"compound", "not not web1", "character 5: 'not' stands twice; leave both out"},
		{"compound", "é and E@x(?=1)", `character 10: "(?=" is lookahead, which RE2 does not have; ` + instead},
		{"compound", "web1 or G@os", `character 11: "os" has no value; write key:pattern, such as os:Debian or roles:web*`},
		{"compound", "G@ os:x", "character 1: nothing stands behind G@; write the pattern without a blank behind the @"},
		{"compound", "X@foo", "character 1: X@ is not known; write " + letters},
		{"compound", "web1 or g@os:x", "character 9: g@ is not known; write G@"},
		{"compound", strings.Repeat("(", 101) + "a", "character 101: more than 100 parentheses inside each other; write fewer"},
	} {
		_, err := Parse(c.kind, c.text)
		if err == nil {
			t.Errorf("%s %q is accepted", c.kind, c.text)
			continue
		}
		if err.Error() != c.want {
			t.Errorf("%s %q:\n got %v\nwant %s", c.kind, c.text, err, c.want)
		}
	}
}

func TestWhatOnlySaltKnows(t *testing.T) {
	for _, kind := range SaltOnly {
		_, err := Parse(kind, "x")
		var e *Error
		if !errors.As(err, &e) || !e.SaltOnly {
			t.Errorf("%s: %v, want an error that says that Salt knows it", kind, err)
		}
		if slices.Contains(Types, kind) {
			t.Errorf("%s is in both tables", kind)
		}
	}
	for _, letter := range "NIJR" {
		_, err := Parse("compound", fmt.Sprintf("web* and (not %c@x)", letter))
		var e *Error
		if !errors.As(err, &e) || !e.SaltOnly || e.Pos != 15 {
			t.Errorf("%c@: %v, want an error at character 15 that says that Salt knows it", letter, err)
		}
	}
	_, err := Parse("compound", "X@foo")
	var e *Error
	if !errors.As(err, &e) || e.SaltOnly {
		t.Errorf("%v says that Salt knows it", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []struct{ kind, text string }{
		{"glob", "web[!1]*?[]"}, {"pcre", `(web|db)\d+\Z`}, {"pcre", "(?=x)"}, {"list", "a,,b"}, {"grain", "a:*:b:c"}, {"grain_pcre", "os:(?:x)"}, {"ipcidr", "10.0.0.0/8"},
		{"compound", "not (G@os:Debian and E@web(1|2)) or L@a,b not S@::/0"}, {"compound", "((a)and(b))or(not(c))"}, {"compound", "G|@a|b E@[)] \\( P@x:\\"}, {"compound", "(é) and [!(]*"},
		{"data", "x"}, {"", "*"},
	} {
		f.Add(seed.kind, seed.text)
	}
	f.Fuzz(func(t *testing.T, kind, text string) {
		e, err := Parse(kind, text)
		if err != nil {
			var fault *Error
			if !errors.As(err, &fault) || fault.Text == "" {
				t.Fatalf("%s %q: %#v", kind, text, err)
			}
			if length := utf8.RuneCountInString(text); fault.Pos < 0 || fault.Pos > max(1, length) {
				t.Fatalf("%s %q: %v: the text has %d characters", kind, text, err, length)
			}
			return
		}
		negated := e
		if kind == "compound" {
			negated, err = Parse("compound", "not ( "+text+" )")
		}
		if err != nil {
			if strings.Contains(err.Error(), "inside each other") {
				return
			}
			t.Fatalf("%q is an expression, but not in parentheses: %v", text, err)
		}
		for _, m := range fleet {
			if got := e.Match(m); kind == "compound" && got == negated.Match(m) {
				t.Fatalf("%q and its negation both say %v of %s", text, got, m.Name)
			}
		}
	})
}
