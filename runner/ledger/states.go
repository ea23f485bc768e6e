package ledger

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// What a rule can say instead of a state.
const (
	same   State = "=" // stays what it is
	asSaid State = "*" // the end that the event names
	byCode State = "?" // an unknown end becomes what its code says, if that is known now
)

var (
	liveStates  = []State{Queued, Launching, Running, Paused, Stopping}
	endStates   = []State{Succeeded, Failed, TimedOut, Killed, LaunchFailed, Unreachable, Skipped, Unknown}
	givenStates = slices.Concat(liveStates, endStates, []State{Lost})
)

// rule is one line of the table of lawful changes.
type rule struct {
	event string
	from  []State
	to    State
}

// lawful is the table. What is not in it is ErrUnlawful and changes nothing.
// Events that can come late or twice (a wrapper repeats its reports after a
// reconnect) stay lawful where they say nothing new.
var lawful = []rule{
	{"Launched", []State{Queued, Launching}, Launching},

	{"Started", []State{Launching, Running, Lost}, Running},
	{"Started", []State{Paused, Stopping}, same},

	{"PausedAt", []State{Running, Paused}, Paused},
	{"PausedAt", []State{Stopping}, same},
	{"ResumedAt", []State{Running, Paused}, Running},
	{"ResumedAt", []State{Stopping}, same},

	{"KillAsked", []State{Queued}, Killed},
	{"KillAsked", []State{Launching, Running, Paused, Stopping}, Stopping},
	{"KillAsked", endStates, same},
	{"KillAsked", []State{Lost}, same},
	{"KillSettled", givenStates, same},
	{"KillWithdrawn", []State{Stopping}, Running},
	{"KillWithdrawn", []State{Launching, Running, Paused, Lost}, same},
	{"KillWithdrawn", endStates, same},

	{"Ended", liveStates, asSaid},
	{"Ended", []State{Lost}, asSaid},
	{"Amended", []State{Unknown}, byCode},
	{"Amended", []State{Succeeded, Failed, TimedOut, Killed, LaunchFailed, Unreachable}, same},
	{"LeftoverNow", endStates, same},
	{"LeftoverNow", []State{Lost}, same},

	{"LostAt", liveStates, Lost},
	{"LostAt", []State{Lost}, same},
	{"FoundAt", []State{Lost}, Running},
	{"FoundAt", []State{Launching, Running, Paused, Stopping}, same},

	{"Identified", givenStates, same},
	{"NoteAdded", givenStates, same},
	{"TokenAdded", givenStates, same},
	{"NonceBound", givenStates, same},
}

// next says what becomes of a task's state by an event, or that it may not
// happen. It knows the table and nothing else; what a recorded kill makes of an
// end is decided before it is asked (see change).
func next(state State, e Event) (State, error) {
	name := kindOf(e)
	for _, r := range lawful {
		if r.event != name || !slices.Contains(r.from, state) {
			continue
		}
		switch r.to {
		case same:
			return state, nil
		case asSaid:
			said := e.(Ended).State
			if !slices.Contains(endStates, said) {
				return state, fmt.Errorf("cannot end a task as %q: %w", said, ErrUnlawful)
			}
			return said, nil
		case byCode:
			return stateOfCode(e.(Amended)), nil
		}
		return r.to, nil
	}
	return state, fmt.Errorf("cannot record %s for a task that is %s: %w", name, state, ErrUnlawful)
}

// kindOf is the name of an event as the table has it; a pointer has none.
func kindOf(e Event) string {
	if e == nil {
		return ""
	}
	return reflect.TypeOf(e).Name()
}

// Diagram draws the table as a mermaid state diagram, for the docs. Events that
// leave every state as it is are not drawn.
func Diagram() string {
	var b strings.Builder
	b.WriteString("stateDiagram-v2\n    [*] --> queued: Begun\n")
	for _, r := range lawful {
		to := []State{r.to}
		switch r.to {
		case same:
			continue
		case asSaid:
			to = []State{"done"}
		case byCode:
			to = []State{Succeeded, Failed, TimedOut, Killed, LaunchFailed}
		}
		for _, from := range r.from {
			for _, t := range to {
				if from != t {
					fmt.Fprintf(&b, "    %s --> %s: %s\n", from, t, r.event)
				}
			}
		}
	}
	b.WriteString("    state done {\n")
	for _, s := range endStates {
		fmt.Fprintf(&b, "        %s\n", s)
	}
	b.WriteString("    }\n    done --> [*]\n")
	return b.String()
}
