package wsx

import (
	"errors"
	"net/http"
	"strings"
	"time"
)

const (
	tokenBytes   = 256
	refusedEvery = 10 * time.Second
)

// route reads /task/TOKEN, /run/TOKEN, and either with /order behind it; / is a
// wrapper without a token.
func route(path string) (token string, run, order, ok bool) {
	if path == "/" || path == "" {
		return "", false, false, true
	}
	kind, rest, found := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !found || (kind != "task" && kind != "run") || !strings.HasPrefix(path, "/") {
		return "", false, false, false
	}
	token, rest, order = strings.Cut(rest, "/")
	if token == "" || len(token) > tokenBytes || (order && rest != "order") {
		return "", false, false, false
	}
	return token, kind == "run", order, true
}

// order answers a wrapper that was started with SP_ORDER=fetch.
func (s *Server) order(w http.ResponseWriter, r *http.Request, claim Claim) {
	nonce := r.Header.Get(headerNonce)
	claim.Machine = r.Header.Get(headerMachine)
	if nonce == "" || len(nonce) > tokenBytes || len(claim.Machine) > tokenBytes {
		refuse(w, http.StatusBadRequest)
		return
	}
	data, err := s.o.Handler.Order(r.Context(), claim, nonce)
	if err != nil {
		s.turnAway(w, claim, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	w.Write(data)
}

// turnAway answers a client that the handler did not let in.
func (s *Server) turnAway(w http.ResponseWriter, claim Claim, err error) {
	switch {
	case errors.Is(err, ErrUnknownToken):
		s.countRefused(claim)
		refuse(w, http.StatusUnauthorized)
	case errors.Is(err, ErrNoRoom):
		refuse(w, http.StatusServiceUnavailable)
	case errors.Is(err, ErrOtherNonce):
		s.o.Log.Warn("an order was asked for by a second start: it is refused", "remote", claim.Remote)
		refuse(w, http.StatusConflict)
	default:
		s.o.Log.Warn("cannot let a wrapper in", "remote", claim.Remote, "err", err)
		refuse(w, http.StatusServiceUnavailable)
	}
}

// countRefused logs unknown tokens, not more than a line each ten seconds:
// every wrapper of a server that was set up anew comes back each minute for a
// day.
func (s *Server) countRefused(claim Claim) {
	s.mu.Lock()
	s.refused++
	n, at := s.refused, time.Now()
	tell := at.Sub(s.told) > refusedEvery
	if tell {
		s.told, s.refused = at, 0
	}
	s.mu.Unlock()
	if tell {
		s.o.Log.Warn("wrappers with unknown tokens were refused", "count", n, "remote", claim.Remote)
	}
}

// refuse answers without a word about the path, and ends the connection: who is
// refused has no next request.
func refuse(w http.ResponseWriter, code int) {
	w.Header().Set("Connection", "close")
	http.Error(w, http.StatusText(code), code)
}
