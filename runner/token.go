package runner

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"saltpeter/runner/ledger"
	"saltpeter/wsx"
	"saltpeter/wsx/wire"
)

// newToken makes the secret that lets one wrapper in, and its hash, which is all
// that is stored.
func newToken() (token, hash string) {
	token = randomHex(24)
	return token, hashToken(token)
}

func hashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// newCookie makes SP_TASK: two servers must never hit each other's jobs.
func newCookie() string { return randomHex(16) }

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b)
	return hex.EncodeToString(b)
}

func isTLS(url string) bool { return strings.HasPrefix(url, "wss:") }

// expiry is when a token of an ended task runs out.
type expiry struct {
	at   time.Time
	hash string
	id   ledger.TaskID
}

// expire lets a token of an ended task live on for as long as its wrapper may
// still come back for an answer.
func (ts *tasks) expire(hash string, id ledger.TaskID, now time.Time) {
	if hash == "" {
		return // it came without one
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.tokens = append(ts.tokens, expiry{now.Add(ts.pace.late), hash, id})
}

// dropTokens ends the tokens whose time has come, a handful at a time. Those of
// an earlier server are dropped when somebody shows them, and with their run.
func (ts *tasks) dropTokens(now time.Time) {
	ts.mu.Lock()
	n := 0
	for n < len(ts.tokens) && n < 256 && now.After(ts.tokens[n].at) {
		n++
	}
	due := ts.tokens[:n]
	ts.tokens = ts.tokens[n:]
	ts.mu.Unlock()
	var events []ledger.Event
	for _, e := range due {
		if t := ts.find(e.id); t != nil && (!over(t.record().State) || t.record().Leftover > 0 || t.link() != nil) {
			ts.expire(e.hash, e.id, now)
			continue
		}
		events = append(events, ledger.TokenDropped{Hash: e.hash})
	}
	if len(events) == 0 {
		return
	}
	if _, err := ts.o.Ledger.Apply(ts.write, events...); err != nil {
		ts.o.Log.Warn("cannot drop old tokens", "err", err)
	}
}

// handler is what stands behind the machines listener.
type handler struct{ ts *tasks }

var _ wsx.Handler = handler{}

// Connect finds out whose connection it is. Nothing but the token says so:
// wrappers of the second generation do not introduce themselves again.
func (h handler) Connect(ctx context.Context, c wsx.Claim) (wsx.Session, error) {
	if c.Token == "" && !c.RunToken {
		return h.foreign(c)
	}
	t, hash, err := h.claim(ctx, c)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.expected = time.Now().Add(time.Minute)
	t.mu.Unlock()
	return &session{t: t, hash: hash, stored: -1}, nil
}

// claim resolves a token.
func (h handler) claim(ctx context.Context, c wsx.Claim) (*task, string, error) {
	if c.RunToken || c.Token == "" {
		return nil, "", wsx.ErrUnknownToken // run tokens belong to transports that this build does not have
	}
	hash := hashToken(c.Token)
	id, err := h.ts.o.Ledger.TaskByToken(hash)
	if err != nil {
		if errors.Is(err, ledger.ErrNoToken) {
			err = wsx.ErrUnknownToken
		}
		return nil, "", err
	}
	t, err := h.ts.load(ctx, id)
	if errors.Is(err, ledger.ErrNoTask) || errors.Is(err, ledger.ErrNoRun) {
		return nil, "", wsx.ErrUnknownToken
	}
	if err != nil {
		return nil, "", err
	}
	if t.told(time.Now()) {
		h.ts.forgetIdle(t)
		if _, err := h.ts.o.Ledger.Apply(h.ts.write, ledger.TokenDropped{Hash: hash}); err != nil {
			h.ts.o.Log.Warn("cannot drop an old token", "err", err)
		}
		return nil, "", wsx.ErrUnknownToken
	}
	return t, hash, nil
}

// told reports whether a task's end was told so long ago that nobody may come for
// it any more. An end that its wrapper has not told is waited for much longer: it
// may be cut off for days and still have the rest of the output.
func (t *task) told(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	rec := &t.rec
	if !over(rec.State) || rec.Leftover > 0 || rec.End == nil || t.session != nil {
		return false
	}
	byWrapper := rec.End.RealCode != nil || rec.End.RealSignal != 0 || rec.End.Cause == wire.CauseNever || rec.End.Cause == wire.CauseLaunch
	return byWrapper && now.Sub(rec.Ended) > t.ts.pace.late
}

// Order gives a wrapper that was started without its order that order, bound to
// the first fetcher's nonce.
func (h handler) Order(ctx context.Context, c wsx.Claim, nonce string) ([]byte, error) {
	t, _, err := h.claim(ctx, c)
	if err != nil {
		return nil, err
	}
	t.lock()
	defer t.unlock()
	rec, spec := t.record(), t.plan()
	if rec.State.Done() || spec.Order.Command == "" || nonce == "" {
		return nil, wsx.ErrUnknownToken
	}
	bound, err := h.ts.o.Ledger.Nonce(ctx, t.id)
	if err != nil {
		return nil, err
	}
	switch bound {
	case nonce:
	case "":
		if err := t.apply(ledger.NonceBound{Task: t.id, Nonce: nonce}); err != nil {
			return nil, err
		}
	default:
		t.log().Warn("the order was asked for a second time, by somebody else", "remote", c.Remote)
		return nil, wsx.ErrOtherNonce
	}
	order := t.order(spec, c.Token, rec.Cookie)
	return order.Encode()
}
