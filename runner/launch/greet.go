package launch

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// ending is how a command on a machine ended, where that is known.
type ending struct {
	known   bool
	running bool   // known to go on
	code    int    // < 0: by a signal, or not said
	signal  string // the name of it, where it is known
}

func (e ending) String() string {
	switch {
	case e.running:
		return "it is still running"
	case !e.known:
		return "its end was not seen"
	case e.signal != "":
		return "it died of signal " + e.signal
	case e.code < 0:
		return "it ended, and its exit code is not known"
	}
	text := fmt.Sprintf("it ended with exit code %d", e.code)
	if e.struck() {
		text += fmt.Sprintf(", which a shell says of signal %d", e.code-128)
	}
	return text
}

// struck reports whether a shell in between says that a signal ended the command.
func (e ending) struck() bool { return e.code > 128 && e.code <= 128+64 }

// notGreeted judges a start without identity. The gate opens only after the
// identity was printed, so a wrapper that says why it gave up has not run
// anything, and what ended well without a word of ours is no wrapper; whatever
// else happened may have left something running.
func notGreeted(ctx context.Context, program, version string, end ending, err error, complaint string) StartResult {
	switch {
	case end.known && end.code > 0 && !end.struck() && complaint != "":
		return certainlyNot(fmt.Errorf("cannot start the wrapper: %s", complaint))
	case end.known && end.code == 0 && version == "" && errors.Is(err, errNoIdentity):
		return certainlyNot(notAWrapper(program, ""))
	case end.known:
		err = fmt.Errorf("%w: %s", err, end)
	case ctx.Err() != nil && !errors.Is(err, errNoIdentity):
		err = context.Cause(ctx)
	}
	if complaint != "" {
		err = fmt.Errorf("%w: %s", err, complaint)
	}
	return StartResult{Certainty: Unsure, Err: fmt.Errorf("cannot say whether the wrapper started: %w", err)}
}

// notAWrapper is what is said of a program that ends without a word of ours: to
// start it again would only run it again. said is what it answered when it was asked
// who it is, "" for nothing.
func notAWrapper(program, said string) error {
	if said != "" {
		said = ": asked with `" + strings.Join(probeArgs, " ") + "` who it is, it ended well and said: " + said
	}
	return fmt.Errorf("cannot start the wrapper: %s is not a saltpeter wrapper%s; correct wrapper_path, or take it out to use the server's own", program, said)
}
