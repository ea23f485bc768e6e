package api

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Token is one that lets a caller in over TCP. The token itself is shown once,
// when it is made, and kept nowhere.
type Token struct {
	Name   string `json:"name"`
	Role   string `json:"role"`
	SHA256 string `json:"-"` // hex; of a token that people chose themselves it would give it away
}

// Tokens is the file of tokens: a line each, `role name sha256`. People may edit
// it, also while the server changes it; it is read again when it has changed.
type Tokens struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex // held from reading to writing, so that no change is lost
	seen   stamp
	tokens []Token
	broken error // why the file cannot be used: nobody gets in by token or without
}

// stamp tells one version of the file from another.
type stamp struct {
	inode    uint64
	changed  int64
	modified time.Time
	size     int64
}

// settled is how old a version must be for its stamp to be trusted: a file may
// change twice within one tick of its clock.
const settled = 2 * time.Second

// OpenTokens reads a file of tokens; a missing one holds none.
func OpenTokens(path string, log *slog.Logger) (*Tokens, error) {
	t := &Tokens{path: path, log: log}
	if _, err := t.load(); err != nil {
		return nil, err
	}
	return t, nil
}

// load returns the tokens as the file has them now.
func (t *Tokens) load() ([]Token, error) {
	if t == nil {
		return nil, nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.reload()
}

// reload is load with the lock held. What is wrong is logged once.
func (t *Tokens) reload() ([]Token, error) {
	now, err := t.stamp()
	if err == nil && now == t.seen && (now == stamp{} || time.Since(now.modified) > settled) {
		return t.tokens, t.broken
	}
	var tokens []Token
	if err == nil && now != (stamp{}) {
		var data []byte
		if data, err = os.ReadFile(t.path); err == nil {
			tokens, err = parseTokens(t.path, data)
		}
	}
	if err != nil {
		err = fmt.Errorf("cannot read the tokens: %w", err)
		if t.broken == nil || t.broken.Error() != err.Error() {
			t.log.Error("nobody gets in over TCP by token", "err", err)
		}
	}
	if err != nil && now == (stamp{}) {
		now.size = -1 // unlike a file that is not there
	}
	t.seen, t.tokens, t.broken = now, tokens, err
	return tokens, err
}

// stamp looks at the file; the zero one means that there is none.
func (t *Tokens) stamp() (stamp, error) {
	info, err := os.Stat(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		return stamp{}, nil
	}
	if err != nil {
		return stamp{}, err
	}
	if !info.Mode().IsRegular() {
		return stamp{}, fmt.Errorf("%s is no regular file", t.path)
	}
	if info.Mode().Perm()&0o002 != 0 {
		return stamp{}, fmt.Errorf("everybody may write to %s; take that away with chmod o-w", t.path)
	}
	now := stamp{modified: info.ModTime(), size: info.Size()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		now.inode, now.changed = st.Ino, st.Ctim.Nano()
	}
	return now, nil
}

func parseTokens(path string, data []byte) ([]Token, error) {
	var tokens []Token
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		if len(fields) != 3 {
			return nil, fmt.Errorf("%s:%d: a line is `role name sha256`", path, n)
		}
		if role, err := ParseRole(fields[0]); err != nil || role == nobody {
			return nil, fmt.Errorf("%s:%d: unknown role %q; use read or operate", path, n, fields[0])
		}
		if sum, err := hex.DecodeString(fields[2]); err != nil || len(sum) != sha256.Size {
			return nil, fmt.Errorf("%s:%d: the third word is not a SHA-256 in hex", path, n)
		}
		tokens = append(tokens, Token{Role: fields[0], Name: fields[1], SHA256: strings.ToLower(fields[2])})
	}
	return tokens, lines.Err()
}

// find returns whose token it is.
func find(tokens []Token, token string) (name string, role Role, known bool) {
	sum := sha256.Sum256([]byte(token))
	text := []byte(hex.EncodeToString(sum[:]))
	for _, k := range tokens {
		if subtle.ConstantTimeCompare(text, []byte(k.SHA256)) == 1 {
			role, _ := ParseRole(k.Role)
			return k.Name, role, true
		}
	}
	return "", nobody, false
}

// isTokenName is no regular expression: compiling one with a count of 64 takes a
// millisecond of every start of the program, and each task starts it once.
func isTokenName(name string) bool {
	for i, c := range []byte(name) {
		letter := c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || strings.IndexByte("._@-", c) < 0) {
			return false
		}
	}
	return name != "" && len(name) <= 64
}

// Create makes a token and returns it: the only time that it is seen.
func (t *Tokens) Create(name string, role Role) (string, error) {
	if !isTokenName(name) {
		return "", badRequest("%q is no name for a token; use up to 64 letters, digits and . _ @ -", name)
	}
	if role != Read && role != Operate {
		return "", badRequest("a token's role is read or operate")
	}
	if t == nil {
		return "", errNoTokens
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	tokens, err := t.reload()
	if err != nil {
		return "", err
	}
	for _, k := range tokens {
		if k.Name == name {
			return "", &Error{Status: http.StatusConflict, Code: "token_exists", Text: "there is a token named " + quote(name),
				Hint: "revoke it first with `saltpeter token revoke " + name + "`, or take another name"}
		}
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	token := "sp_" + base64.RawURLEncoding.EncodeToString(secret)
	sum := sha256.Sum256([]byte(token))
	err = t.rewrite(func(lines []string) []string {
		if len(lines) == 0 {
			lines = append(lines, "# role name sha256: made by `saltpeter token create`")
		}
		return append(lines, fmt.Sprintf("%s %s %s", role, name, hex.EncodeToString(sum[:])))
	})
	if err != nil {
		return "", err
	}
	return token, nil
}

var errNoTokens = &Error{Status: http.StatusConflict, Code: "no_tokens_file", Text: "this server has no file of tokens",
	Hint: "name one with tokens_file in saltpeter_config"}

// Revoke ends a token.
func (t *Tokens) Revoke(name string) error {
	unknown := &Error{Status: http.StatusNotFound, Code: "no_such_token", Text: "there is no token named " + quote(name), Hint: "`saltpeter token list` shows them"}
	if t == nil {
		return unknown
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	tokens, err := t.reload()
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(tokens, func(k Token) bool { return k.Name == name }) {
		return unknown
	}
	return t.rewrite(func(lines []string) []string {
		return slices.DeleteFunc(lines, func(line string) bool {
			fields := strings.Fields(line)
			return len(fields) == 3 && !strings.HasPrefix(fields[0], "#") && fields[1] == name
		})
	})
}

// rewrite changes the file's lines in one step; what people wrote beside the
// tokens stays. The lock is held.
func (t *Tokens) rewrite(change func([]string) []string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot write the tokens: %w", err)
		}
	}()
	path, mode := t.path, fs.FileMode(0o600)
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var lines []string
	if text := strings.TrimSuffix(string(data), "\n"); text != "" {
		lines = strings.Split(text, "\n")
	}
	text := strings.Join(append(change(lines), ""), "\n")
	f, err := os.CreateTemp(filepath.Dir(path), ".tokens-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	for _, step := range []func() error{func() error { return f.Chmod(mode) }, f.Sync} {
		if err == nil {
			err = step()
		}
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	if dir, err := os.Open(filepath.Dir(path)); err == nil {
		dir.Sync() // a revoked token must not come back with the power
		dir.Close()
	}
	_, err = t.reload()
	return err
}

func (s *Server) getTokens(w http.ResponseWriter, r *http.Request) error {
	tokens, err := s.o.Tokens.load()
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{"tokens": list(tokens)})
}

func (s *Server) postToken(w http.ResponseWriter, r *http.Request) error {
	var q struct{ Name, Role string }
	if err := readJSON(w, r, &q); err != nil {
		return err
	}
	role, err := ParseRole(q.Role)
	if err != nil {
		return badRequest("%v", err)
	}
	token, err := s.o.Tokens.Create(q.Name, role)
	s.audit(r, "token create", q.Name, err)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, map[string]any{"name": q.Name, "role": q.Role, "token": token})
}

func (s *Server) deleteToken(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	err := s.o.Tokens.Revoke(name)
	s.audit(r, "token revoke", name, err)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, map[string]any{"revoked": name})
}
