package api

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"saltpeter/testdata/lab"
)

func openTokens(t *testing.T, text string) (*Tokens, string, *lab.Buffer) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens")
	if text != "" {
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	logs := &lab.Buffer{}
	tokens, err := OpenTokens(path, slog.New(slog.NewTextHandler(logs, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return tokens, path, logs
}

func (t *Tokens) mustFind(test *testing.T, token string) (string, Role, bool) {
	test.Helper()
	tokens, err := t.load()
	if err != nil {
		test.Fatal(err)
	}
	return find(tokens, token)
}

func hashOf(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func TestTokensAreMadeAndRevoked(t *testing.T) {
	tokens, path, _ := openTokens(t, "")
	token, err := tokens.Create("alice", Read)
	if err != nil {
		t.Fatal(err)
	}
	if name, role, known := tokens.mustFind(t, token); name != "alice" || role != Read || !known {
		t.Errorf("%q %v %v", name, role, known)
	}
	for _, wrong := range []string{"", token + "x", token[:len(token)-1], strings.ToUpper(token), hashOf(token)} {
		if _, _, known := tokens.mustFind(t, wrong); known {
			t.Errorf("%q lets in", wrong)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(text), token) || !strings.Contains(string(text), "read alice "+hashOf(token)+"\n") {
		t.Errorf("%s, %v", text, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	var e *Error
	if _, err := tokens.Create("alice", Operate); !errors.As(err, &e) || e.Code != "token_exists" {
		t.Error(err)
	}
	for _, name := range []string{"", "two words", "#x", "-x", "a/b", "a\nb", strings.Repeat("x", 65)} {
		if _, err := tokens.Create(name, Read); !errors.As(err, &e) || e.Code != "bad_request" {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, role := range []Role{nobody, Admin} {
		if _, err := tokens.Create("bob", role); err == nil {
			t.Errorf("made one of role %v", role)
		}
	}
	if err := tokens.Revoke("bob"); !errors.As(err, &e) || e.Code != "no_such_token" {
		t.Error(err)
	}
	if err := tokens.Revoke("alice"); err != nil {
		t.Fatal(err)
	}
	if _, _, known := tokens.mustFind(t, token); known {
		t.Error("a revoked token lets in")
	}
	// It stays so for the next server.
	again, err := OpenTokens(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, known := again.mustFind(t, token); known {
		t.Error("a revoked token lets in again")
	}
}

func TestTokensEditedByHand(t *testing.T) {
	mine := "# the team's\n\n  operate  carol " + strings.ToUpper(hashOf("carol's")) + "\n# bob left\n"
	tokens, path, _ := openTokens(t, mine)
	if name, role, known := tokens.mustFind(t, "carol's"); name != "carol" || role != Operate || !known {
		t.Errorf("%q %v %v", name, role, known)
	}
	token, err := tokens.Create("dave", Read)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(path)
	if want := mine + "read dave " + hashOf(token) + "\n"; string(text) != want {
		t.Errorf("%q, not %q", text, want)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o640 {
		t.Errorf("its mode is %v", info.Mode())
	}
	// In place, to the same length, within one tick of the file's clock.
	for i := range 50 {
		name := fmt.Sprintf("n%02d", i)
		if err := os.WriteFile(path, []byte("read "+name+" "+hashOf(name)+"\n"), 0o640); err != nil {
			t.Fatal(err)
		}
		if got, _, known := tokens.mustFind(t, name); !known || got != name {
			t.Fatalf("%s is not known", name)
		}
	}
	// A change that brings the old times back is seen as well.
	old := time.Now().Add(-time.Hour)
	os.Chtimes(path, old, old)
	tokens.mustFind(t, "")
	if err := os.WriteFile(path, []byte("read x99 "+hashOf("x99")+"\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	os.Chtimes(path, old, old)
	if _, _, known := tokens.mustFind(t, "x99"); !known {
		t.Error("a change behind the clock's back is not seen")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, _, known := tokens.mustFind(t, "x99"); known {
		t.Error("a token of a removed file lets in")
	}
	// A file behind a link stays where it is.
	target := filepath.Join(t.TempDir(), "real")
	os.WriteFile(target, nil, 0o600)
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.Create("eve", Read); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(target); !strings.Contains(string(text), "read eve ") {
		t.Errorf("the link's target holds %q", text)
	}
}

func TestBrokenTokensShutTheDoor(t *testing.T) {
	r := newRig(t)
	path := filepath.Join(r.dir, "tokens")
	token, err := r.tokens.Create("op", Operate)
	if err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	withToken, without, socket := r.asker("tcp", r.tcp, "Authorization", "Bearer "+token), r.asker("tcp", r.tcp), r.asker("unix", r.socket)
	for _, broken := range []string{"king op " + hashOf(token), "read op", "read op zzzz", "read op " + hashOf(token)[:10], "read op " + hashOf(token) + " more", string(good) + "x\n"} {
		if err := os.WriteFile(path, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, a := range []*asker{withToken, without} {
			if status, e, _ := a.ask("GET", "/api/v1/jobs", ""); status != 401 || !strings.Contains(e.Text, "cannot read its file of tokens") {
				t.Errorf("%q: %d %+v", broken, status, e)
			}
		}
		if status, _, _ := socket.ask("GET", "/api/v1/jobs", ""); status != 200 {
			t.Errorf("%q: the socket answers %d", broken, status)
		}
		if _, err := r.tokens.Create("new", Read); err == nil {
			t.Errorf("%q: a token was added to it", broken)
		}
		if _, err := OpenTokens(path, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%q: a server starts with it", broken)
		}
	}
	if n := strings.Count(r.logs.String(), "tokens:3: a line is"); n != 1 {
		t.Errorf("what is wrong was logged %d times", n)
	}
	// Everybody may write to it: anybody may have.
	os.WriteFile(path, good, 0o600)
	os.Chmod(path, 0o666)
	if status, _, _ := withToken.ask("GET", "/api/v1/jobs", ""); status != 401 {
		t.Errorf("a file that everybody may write to: %d", status)
	}
	os.Chmod(path, 0o600)
	if status, _, _ := withToken.ask("GET", "/api/v1/jobs", ""); status != 200 {
		t.Errorf("mended: %d", status)
	}
	os.Remove(path)
	os.Mkdir(path, 0o700)
	if status, _, _ := without.ask("GET", "/api/v1/jobs", ""); status != 401 {
		t.Errorf("a folder: %d", status)
	}
	os.Remove(path)
	if status, _, _ := without.ask("GET", "/api/v1/jobs", ""); status != 200 {
		t.Errorf("no file: %d", status)
	}
}

// Nothing is lost where several change the file at once, and nobody gets in or is
// shut out by it who should not.
func TestTokensTogether(t *testing.T) {
	tokens, path, _ := openTokens(t, "read stays "+hashOf("stays")+"\n")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 3 {
				name := fmt.Sprintf("t%d-%d", i, n)
				token, err := tokens.Create(name, Operate)
				if err != nil {
					t.Error(err)
					return
				}
				if got, _, known := tokens.mustFind(t, token); !known || got != name {
					t.Errorf("%s is not known", name)
				}
				if n > 0 {
					if err := tokens.Revoke(name); err != nil {
						t.Error(err)
					}
				}
				if _, role, known := tokens.mustFind(t, "stays"); !known || role != Read {
					t.Error("another token is lost meanwhile")
				}
			}
		})
	}
	wg.Wait()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "\n"); n != 9 {
		t.Errorf("%d lines: %s", n, text)
	}
}

func FuzzTokens(f *testing.F) {
	f.Add("read a " + hashOf("a"))
	f.Add("# x\n\noperate b " + strings.ToUpper(hashOf("b")) + "\r\n")
	f.Add("king a b")
	f.Add("read a " + strings.Repeat("x", 70000))
	f.Fuzz(func(t *testing.T, text string) {
		tokens, err := parseTokens("f", []byte(text))
		if err != nil {
			return
		}
		for _, k := range tokens {
			role, err := ParseRole(k.Role)
			if err != nil || role != Read && role != Operate || len(k.SHA256) != 64 || k.Name == "" {
				t.Fatalf("%q gives %+v", text, k)
			}
		}
	})
}
