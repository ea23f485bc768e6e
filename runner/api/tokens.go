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
	"regexp"
	"strings"
	"sync"
	"time"
)

// Token is one that lets a caller in over TCP. The token itself is shown once,
// when it is made, and kept nowhere.
type Token struct {
	Name   string `json:"name"`
	Role   string `json:"role"`
	SHA256 string `json:"sha256"`
}

// Tokens is the file of tokens: a line each, `role name sha256`. People may edit
// it; it is read again when it has changed.
type Tokens struct {
	path string
	log  *slog.Logger

	mu     sync.Mutex
	seen   stamp
	tokens []Token
	broken bool // the file could not be read: nobody gets in by token or without
}

// stamp tells one version of the file from another.
type stamp struct {
	modified time.Time
	size     int64
}

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
	t.mu.Lock()
	defer t.mu.Unlock()
	info, err := os.Stat(t.path)
	if errors.Is(err, fs.ErrNotExist) {
		t.seen, t.tokens, t.broken = stamp{}, nil, false
		return nil, nil
	}
	if err == nil {
		now := stamp{info.ModTime(), info.Size()}
		if now == t.seen && !t.broken {
			return t.tokens, nil
		}
		var data []byte
		if data, err = os.ReadFile(t.path); err == nil {
			var tokens []Token
			if tokens, err = parseTokens(t.path, data); err == nil {
				t.seen, t.tokens, t.broken = now, tokens, false
				return tokens, nil
			}
		}
	}
	t.broken = true
	return nil, fmt.Errorf("cannot read the tokens: %w", err)
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

// Any reports whether a token exists, or might: a file that cannot be read does
// not open the door.
func (t *Tokens) Any() bool {
	if t == nil {
		return false
	}
	tokens, err := t.load()
	if err != nil {
		t.log.Error("tokens", "err", err)
		return true
	}
	return len(tokens) > 0
}

// Find returns whose token it is.
func (t *Tokens) Find(token string) (name string, role Role, known bool) {
	if t == nil {
		return "", nobody, false
	}
	tokens, err := t.load()
	if err != nil {
		t.log.Error("tokens", "err", err)
		return "", nobody, false
	}
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

var tokenName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$`)

// Create makes a token and returns it: the only time that it is seen.
func (t *Tokens) Create(name string, role Role) (string, error) {
	if !tokenName.MatchString(name) {
		return "", badRequest("%q is no name for a token; use up to 64 letters, digits and . _ @ -", name)
	}
	if role != Read && role != Operate {
		return "", badRequest("a token's role is read or operate")
	}
	tokens, err := t.load()
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
	return token, t.store(append(tokens[:len(tokens):len(tokens)], Token{Role: role.String(), Name: name, SHA256: hex.EncodeToString(sum[:])}))
}

// Revoke ends a token.
func (t *Tokens) Revoke(name string) error {
	tokens, err := t.load()
	if err != nil {
		return err
	}
	var kept []Token
	for _, k := range tokens {
		if k.Name != name {
			kept = append(kept, k)
		}
	}
	if len(kept) == len(tokens) {
		return &Error{Status: http.StatusNotFound, Code: "no_such_token", Text: "there is no token named " + quote(name), Hint: "`saltpeter token list` shows them"}
	}
	return t.store(kept)
}

// store replaces the file in one step.
func (t *Tokens) store(tokens []Token) error {
	var text strings.Builder
	text.WriteString("# role name sha256: made by `saltpeter token create`\n")
	for _, k := range tokens {
		fmt.Fprintf(&text, "%s %s %s\n", k.Role, k.Name, k.SHA256)
	}
	f, err := os.CreateTemp(filepath.Dir(t.path), ".tokens-*") // 0600
	if err != nil {
		return fmt.Errorf("cannot write the tokens: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text.String())
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), t.path)
	}
	if err != nil {
		return fmt.Errorf("cannot write the tokens: %w", err)
	}
	_, err = t.load()
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
	if err := readJSON(r, &q); err != nil {
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
