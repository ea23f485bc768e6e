package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"saltpeter/runner"
	"saltpeter/runner/api"
)

// Exit codes, as `help exit-codes` prints them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitNothing     = 3 // nothing matched
	exitUnreachable = 4 // the server cannot be reached or refuses this client
	exitUnconfirmed = 5 // a kill could not be confirmed everywhere
	exitOwnFailure  = 125
	exitInterrupted = 130
)

// failure is what a verb returns when it did not do what it was asked for.
type failure struct {
	code   int    // exit code
	stable string // for scripts
	text   string // "" when everything has been said already
	hint   string
}

func (f *failure) Error() string { return f.text }

func usage(format string, args ...any) *failure {
	return &failure{code: exitUsage, stable: "usage", text: fmt.Sprintf(format, args...)}
}

func failed(err error, hint string) *failure {
	return &failure{code: exitFailed, stable: "failed", text: err.Error(), hint: hint}
}

// quiet ends a verb with a code after it has printed all that there is to say.
func quiet(code int) error {
	if code == exitOK {
		return nil
	}
	return &failure{code: code}
}

// isNothing says whether a stable code means that nothing matched.
func isNothing(code string) bool {
	switch code {
	case runner.CodeNoSuchJob, runner.CodeNoSuchRun, runner.CodeNothingRunning, runner.CodeNoMachines, "no_such_task", "no_such_token":
		return true
	}
	return false
}

// explain turns any error into what a person sees and a script tests.
func explain(err error) *failure {
	var own *failure
	var gone *api.Unreachable
	var answer *api.Error
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &gone):
		f := &failure{code: exitUnreachable, stable: "unreachable", text: gone.Error(), hint: "start it with `saltpeter serve`, or name another with --addr or SALTPETER_ADDR"}
		if errors.As(gone.Err, &answer) {
			f.stable, f.text, f.hint = answer.Code, answer.Text, answer.Hint
		}
		return f
	case errors.As(err, &answer):
		f := &failure{code: exitFailed, stable: answer.Code, text: answer.Text, hint: answer.Hint}
		if isNothing(answer.Code) {
			f.code = exitNothing
		} else if answer.Code == runner.CodeBadRequest || answer.Code == runner.CodeAmbiguous {
			f.code = exitUsage
		}
		return f
	case errors.Is(err, context.Canceled):
		return &failure{code: exitInterrupted, stable: "interrupted"}
	}
	return &failure{code: exitFailed, stable: "failed", text: err.Error()}
}

// report prints a failure: `saltpeter: error: …` and what to type next, or one
// object where the caller wants JSON.
func (f *failure) report(w io.Writer, asJSON bool) {
	if f.text == "" {
		return
	}
	if asJSON {
		json.NewEncoder(w).Encode(map[string]any{"error": map[string]string{"code": f.stable, "message": f.text, "hint": f.hint}})
		return
	}
	fmt.Fprintf(w, "saltpeter: error: %s\n", f.text)
	if f.hint != "" {
		fmt.Fprintf(w, "saltpeter: hint: %s\n", f.hint)
	}
}
