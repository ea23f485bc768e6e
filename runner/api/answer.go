package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"saltpeter/config"
	"saltpeter/runner"
	"saltpeter/runner/ledger"
)

// Error is what every failed request answers. Code is stable.
type Error struct {
	Status int    `json:"-"`
	Code   string `json:"code"`
	Text   string `json:"message"`
	Hint   string `json:"hint,omitempty"`
}

func (e *Error) Error() string { return e.Text }

// answerError writes an error as {"error":{…}}.
func (s *Server) answerError(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, context.Canceled) && r.Context().Err() != nil {
		breakOff() // nobody is left to read it; nothing at all would be "200 OK"
	}
	answer := toError(err)
	if answer.Status >= 500 {
		s.o.Log.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	if answer.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", `Bearer realm="saltpeter"`)
	}
	writeJSON(w, answer.Status, map[string]any{"error": answer})
}

// refusalStatus maps the runner's refusals to HTTP.
func refusalStatus(code string) int {
	switch code {
	case runner.CodeNoSuchJob, runner.CodeNoSuchRun, runner.CodeNothingRunning, runner.CodeNoMachines:
		return http.StatusNotFound
	case runner.CodeMaintenance, runner.CodeOverlap, runner.CodeAmbiguous:
		return http.StatusConflict
	}
	return http.StatusBadRequest
}

func toError(err error) *Error {
	var own *Error
	var refusal *runner.Refusal
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &refusal):
		return &Error{Status: refusalStatus(refusal.Code), Code: refusal.Code, Text: refusal.Text, Hint: refusal.Hint}
	case errors.Is(err, ledger.ErrNoRun):
		return &Error{Status: http.StatusNotFound, Code: runner.CodeNoSuchRun, Text: "there is no such run", Hint: "`saltpeter history` lists the runs"}
	case errors.Is(err, ledger.ErrNoTask):
		return &Error{Status: http.StatusNotFound, Code: "no_such_task", Text: "the run has no task on that machine", Hint: "`saltpeter status RUN` shows its machines"}
	}
	return &Error{Status: http.StatusInternalServerError, Code: "internal", Text: err.Error(), Hint: "the server's log says more"}
}

func badRequest(format string, args ...any) error {
	return &Error{Status: http.StatusBadRequest, Code: runner.CodeBadRequest, Text: fmt.Sprintf(format, args...)}
}

// writeJSON fails only where nothing was written yet. A client that has gone is
// no failure of ours.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
	return nil
}

// mostBody bounds a request's body: selectors and names, no more.
const mostBody = 1 << 20

// readJSON reads a request's body into v; an empty one leaves v as it is. A key
// that nobody knows is refused: a selector without the part that was misspelt
// would hit more than was meant.
func readJSON(w http.ResponseWriter, r *http.Request, v any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, mostBody+1))
	if err != nil {
		return badRequest("cannot read the request: %v", err)
	}
	if len(body) > mostBody {
		return &Error{Status: http.StatusRequestEntityTooLarge, Code: runner.CodeBadRequest, Text: fmt.Sprintf("the request is larger than %d MiB", mostBody>>20)}
	}
	http.NewResponseController(w).SetReadDeadline(time.Time{}) // the answer may take long
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	err = d.Decode(v)
	var own *Error
	if errors.As(err, &own) {
		return &Error{Status: own.Status, Code: own.Code, Text: faultyDuration(body, v) + own.Text, Hint: own.Hint}
	}
	if err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = errors.New("something follows its end: send one object")
		}
	}
	if err != nil {
		return badRequest("the request is not the JSON that this route takes: %s", jsonFault(err, v))
	}
	return nil
}

// stream writes NDJSON, each line at once. A client that does not take a line
// within the server's patience is cut off.
type stream struct {
	w        http.ResponseWriter
	control  *http.ResponseController
	patience time.Duration
}

func (s *Server) newStream(w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	out := &stream{w: w, control: http.NewResponseController(w), patience: s.o.Patience}
	out.control.Flush() // the client knows from here on that it was heard
	return out
}

func (s *stream) send(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	s.control.SetWriteDeadline(time.Now().Add(s.patience))
	if _, err := s.w.Write(append(line, '\n')); err != nil {
		return err
	}
	return s.control.Flush()
}

// queryTime reads a time parameter: RFC 3339 or a duration before now.
func queryTime(r *http.Request, key string) (time.Time, error) {
	text := r.URL.Query().Get(key)
	if text == "" {
		return time.Time{}, nil
	}
	// A "+02:00" that was not escaped arrives as a blank.
	if t, err := time.Parse(time.RFC3339, strings.Replace(text, " ", "+", 1)); err == nil {
		return t, nil
	}
	if d, err := config.ParseDuration(text); err == nil {
		return time.Now().Add(-d), nil
	}
	return time.Time{}, badRequest("%s=%q is neither a time like 2026-01-02T15:04:05Z nor a duration before now like 90m", key, text)
}

// queryLimit reads how many to list.
func queryLimit(r *http.Request) (int, error) {
	n, err := queryInt(r, "limit", 0)
	if n == 0 {
		n = 100
	}
	return int(min(n, 1000)), err
}

// querySpan reads which part of the history to list.
func querySpan(r *http.Request) (since, until time.Time, limit int, err error) {
	since, err = queryTime(r, "since")
	if err == nil {
		until, err = queryTime(r, "until")
	}
	if err == nil {
		limit, err = queryLimit(r)
	}
	return since, until, limit, err
}

func queryInt(r *http.Request, key string, otherwise int64) (int64, error) {
	text := r.URL.Query().Get(key)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return 0, badRequest("%s=%q is not a whole number from 0", key, text)
	}
	return n, nil
}

// queryBool reads a switch: absent is off, present without a value is on.
func queryBool(r *http.Request, key string) (bool, error) {
	if !r.URL.Query().Has(key) {
		return false, nil
	}
	switch text := r.URL.Query().Get(key); text {
	case "", "1", "true":
		return true, nil
	case "0", "false":
		return false, nil
	default:
		return false, badRequest("%s=%q is neither true nor false", key, text)
	}
}
