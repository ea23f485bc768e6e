package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

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
		return // nobody is left to read it
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
var refusalStatus = map[string]int{
	runner.CodeNoSuchJob:      http.StatusNotFound,
	runner.CodeNoSuchRun:      http.StatusNotFound,
	runner.CodeNothingRunning: http.StatusNotFound,
	runner.CodeNoMachines:     http.StatusNotFound,
	runner.CodeMaintenance:    http.StatusConflict,
	runner.CodeOverlap:        http.StatusConflict,
	runner.CodeAmbiguous:      http.StatusConflict,
	runner.CodeBadRequest:     http.StatusBadRequest,
}

func toError(err error) *Error {
	var own *Error
	var refusal *runner.Refusal
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &refusal):
		status := refusalStatus[refusal.Code]
		if status == 0 {
			status = http.StatusBadRequest
		}
		return &Error{Status: status, Code: refusal.Code, Text: refusal.Text, Hint: refusal.Hint}
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

func writeJSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, err = w.Write(append(body, '\n'))
	return err
}

// mostBody bounds a request's body: the largest is a folder of job files.
const mostBody = 8 << 20

// readJSON reads a request's body into v; an empty one leaves v as it is.
func readJSON(r *http.Request, v any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, mostBody+1))
	if err != nil {
		return badRequest("cannot read the request: %v", err)
	}
	if len(body) > mostBody {
		return badRequest("the request is larger than %d MiB", mostBody>>20)
	}
	if len(body) == 0 {
		return nil
	}
	if err := json.Unmarshal(body, v); err != nil {
		return badRequest("the request is not the JSON that this route takes: %v", err)
	}
	return nil
}

// stream writes NDJSON, each line at once.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func newStream(w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	return &stream{w: w, control: http.NewResponseController(w)}
}

func (s *stream) send(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
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
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(-d), nil
	}
	return time.Time{}, badRequest("%s=%q is neither a time like 2026-01-02T15:04:05Z nor a duration like 90m", key, text)
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
