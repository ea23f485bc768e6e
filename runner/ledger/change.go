package ledger

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"saltpeter/wsx/wire"
)

// ReasonNever is the reason of a task that was killed before it started.
const ReasonNever = "never started"

// taskOf is the task that an event changes; false for those that change none.
func taskOf(e Event) (TaskID, bool) {
	switch e := e.(type) {
	case Launched:
		return e.Task, true
	case Identified:
		return e.Task, true
	case Started:
		return e.Task, true
	case PausedAt:
		return e.Task, true
	case ResumedAt:
		return e.Task, true
	case KillAsked:
		return e.Task, true
	case KillSettled:
		return e.Task, true
	case KillWithdrawn:
		return e.Task, true
	case Ended:
		return e.Task, true
	case Amended:
		return e.Task, true
	case LostAt:
		return e.Task, true
	case FoundAt:
		return e.Task, true
	case LeftoverNow:
		return e.Task, true
	case NoteAdded:
		return e.Task, true
	case TokenAdded:
		return e.Task, true
	case NonceBound:
		return e.Task, true
	}
	return TaskID{}, false
}

// change is the task as it is after the event. It is pure: what t points to is
// never written to, only replaced, since readers may hold it.
func change(t Task, e Event) (Task, error) {
	if ended, ok := e.(Ended); ok {
		e = settleEnd(t.Kill, ended)
	}
	was := t.State
	state, err := next(was, e)
	if err != nil {
		return t, err
	}
	t.State = state
	switch e := e.(type) {
	case Launched:
		launched(&t, e)
	case Identified:
		identity := e.Identity
		t.Identity = &identity
		if e.Version != "" {
			t.Version = e.Version
		}
		if e.Features != nil {
			t.Features = slices.Clone(e.Features)
		}
	case Started:
		started(&t, e)
	case FoundAt:
		found(&t, was)
	case KillAsked:
		killAsked(&t, was, e.Kill)
	case KillSettled:
		err = killSettled(&t, e)
	case KillWithdrawn:
		err = killWithdrawn(&t, e)
	case Ended:
		ended(&t, e)
	case Amended:
		err = amended(&t, was, e)
	case LostAt:
		if was != Lost {
			t.ExitCode, t.Reason = wire.Ptr(wire.ExitLost), e.Reason
		}
	case LeftoverNow:
		t.Leftover = max(0, e.Count)
	case NoteAdded:
		t.Notes = append(slices.Clip(t.Notes), Note{At: utc(e.Note.At), Text: e.Note.Text})
	}
	return t, err
}

func launched(t *Task, e Launched) {
	if t.Launched.IsZero() {
		t.Launched = utc(e.At)
	}
	if e.Transport != "" {
		t.Transport = e.Transport
	}
	if e.Cookie != "" {
		t.Cookie = e.Cookie
	}
}

func started(t *Task, e Started) {
	if t.Started.IsZero() {
		t.Started = utc(e.At)
	}
	if t.Identity == nil && e.PID > 0 { // an older wrapper's whole identity: its job carries no cookie
		t.Identity = &wire.Identity{PID: e.PID}
	}
	found(t, t.State)
}

// found takes back what LostAt said. A kill that stands makes a task that runs
// one that is being stopped, from wherever it comes.
func found(t *Task, was State) {
	if was == Lost || (t.State == Running && t.ExitCode != nil) {
		t.ExitCode, t.Reason = nil, ""
	}
	if t.State == Running && t.Kill.Standing() {
		t.State = Stopping
	}
}

func killAsked(t *Task, was State, k Kill) {
	k.Asked, k.Settled, k.Withdrawn = utc(k.Asked), utc(k.Settled), utc(k.Withdrawn)
	k.Receipt = asJSON(k.Receipt)
	k.Asked = known(k.Asked, t.Queued)
	if t.Kill.Standing() {
		again := *t.Kill
		again.Signal, again.Grace = k.Signal, k.Grace
		t.Kill = &again
		return
	}
	t.Kill = &k
	if was == Queued {
		k.Settled = k.Asked // nothing is left to be carried out
		t.Kill = &k
		t.Ended, t.Reason = k.Asked, ReasonNever
		t.ExitCode = wire.Ptr(wire.ExitKilled)
		t.End = &wire.End{Cause: wire.CauseNever}
	}
}

func killSettled(t *Task, e KillSettled) error {
	if t.Kill == nil {
		return fmt.Errorf("cannot settle a kill that nobody asked for: %w", ErrUnlawful)
	}
	k := *t.Kill
	k.Receipt = asJSON(e.Receipt)
	if e.Final && k.Standing() {
		k.Settled = known(utc(e.At), k.Asked)
	}
	t.Kill = &k
	return nil
}

func killWithdrawn(t *Task, e KillWithdrawn) error {
	if !t.Kill.Standing() {
		return fmt.Errorf("cannot withdraw a kill: none stands: %w", ErrUnlawful)
	}
	k := *t.Kill
	k.Withdrawn = known(utc(e.At), k.Asked)
	t.Kill = &k
	if t.State == Running && t.Started.IsZero() { // it was asked for before the start was reported
		t.State = Launching
	}
	return nil
}

// settleEnd lets a recorded kill decide the end. One that stands always does; one
// that does not any more does if it stood when the job died.
func settleEnd(k *Kill, e Ended) Ended {
	if k == nil || e.Before || !slices.Contains(endStates, e.State) {
		return e
	}
	if !k.Standing() {
		before := !e.At.IsZero() && e.At.Before(k.Asked)
		after := !k.Withdrawn.IsZero() && e.At.After(k.Withdrawn)
		if before || after {
			return e
		}
	}
	if e.End.RealCode == nil && e.End.RealSignal == 0 && (e.State == Succeeded || e.State == Failed) {
		e.End.RealCode = wire.Ptr(e.ExitCode)
	}
	if e.State == TimedOut && e.End.Cause == wire.CauseTimeout {
		return e // the first cause wins, and the wrapper's clock says which that was
	}
	never := e.End.Cause == wire.CauseNever || e.End.Cause == wire.CauseLaunch || e.State == LaunchFailed
	switch {
	case k.Cause == wire.CauseTimeout:
		e.State, e.ExitCode, e.End.Cause = TimedOut, wire.ExitTimeout, wire.CauseTimeout
	case never: // it was killed before it could start
		e.State, e.ExitCode, e.End.Cause = Killed, wire.ExitKilled, wire.CauseNever
	default:
		e.State, e.ExitCode, e.End.Cause = Killed, wire.ExitKilled, wire.CauseKill
	}
	return e
}

func ended(t *Task, e Ended) {
	t.Ended, t.Reason, t.ExitCode = utc(e.At), e.Reason, wire.Ptr(e.ExitCode)
	if e.State == Skipped {
		t.ExitCode = nil // nothing ran that could have one
	}
	end := e.End
	t.End = &end
	t.Leftover = max(0, end.Leftover)
}

func amended(t *Task, was State, e Amended) error {
	if t.Amended {
		return fmt.Errorf("cannot amend an end twice: %w", ErrUnlawful)
	}
	t.Amended = true
	var end wire.End
	if t.End != nil {
		end = *t.End
	}
	byKill := was == Killed || was == TimedOut // a recorded kill stays the cause
	if !byKill && e.End.Cause != "" {
		end.Cause = e.End.Cause
	}
	if end.Phase != wire.PhaseKill { // who needed KILL on one road needed it
		fill(&end.Phase, e.End.Phase)
	}
	fill(&end.Proof, e.End.Proof)
	fill(&end.RealSignal, e.End.RealSignal)
	fill(&end.CoreDumped, e.End.CoreDumped)
	fill(&end.Leftover, e.End.Leftover)
	fill(&end.ElapsedMS, e.End.ElapsedMS)
	fill(&end.RealCode, e.End.RealCode)
	fill(&end.Length, e.End.Length)
	if e.ExitCode != nil && end.RealCode == nil && end.RealSignal == 0 {
		end.RealCode = wire.Ptr(*e.ExitCode)
	}
	if e.ExitCode != nil && was == Unknown {
		t.ExitCode = wire.Ptr(*e.ExitCode)
	}
	t.End = &end
	return nil
}

func fill[T comparable](dst *T, v T) {
	var zero T
	if v != zero {
		*dst = v
	}
}

// stateOfCode is what an unknown end turns out to have been.
func stateOfCode(e Amended) State {
	switch e.End.Cause {
	case wire.CauseKill, wire.CauseNever, wire.CauseTerminated:
		return Killed
	case wire.CauseTimeout:
		return TimedOut
	case wire.CauseLaunch:
		return LaunchFailed
	}
	switch {
	case e.ExitCode == nil:
		return Unknown
	case *e.ExitCode == 0 && e.End.RealSignal == 0:
		return Succeeded
	}
	return Failed
}

// unfinished reports whether somebody still has to do something for the task.
func (t *Task) unfinished() bool {
	return !t.State.Done() || t.State == Lost || t.Kill.Standing() || t.Leftover > 0
}

// known is the first of the times that is one. A kill is settled by having a time:
// an event without one must not leave it standing.
func known(times ...time.Time) time.Time {
	for _, t := range times {
		if !t.IsZero() {
			return t
		}
	}
	return time.Unix(0, 1).UTC()
}

// utc is t as it is read back: without zone and monotonic clock.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return time.Time{}
	}
	return t.UTC().Round(0)
}

// asJSON keeps an opaque document storable as JSON whatever it is.
func asJSON(data []byte) json.RawMessage {
	if len(data) == 0 {
		return nil
	}
	if json.Valid(data) {
		return slices.Clone(data)
	}
	text, err := json.Marshal(string(data))
	if err != nil {
		return nil // cannot be: a string always has its JSON
	}
	return text
}
