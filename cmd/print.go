package cmd

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"golang.org/x/term"

	"saltpeter/runner/ledger"
	"saltpeter/wsx/wire"
)

// json prints one value as the only thing on standard output.
func (a *app) json(v any) error {
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// jsonLine prints one value of a stream.
func (a *app) jsonLine(v any) error { return json.NewEncoder(a.out).Encode(v) }

// say writes to standard error: what is not a result.
func (a *app) say(format string, args ...any) { fmt.Fprintf(a.err, format+"\n", args...) }

// table prints aligned columns; rows are tab-separated cells.
func (a *app) table(rows [][]string) { writeTable(a.out, rows) }

func writeTable(w io.Writer, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = printable(cell)
		}
		fmt.Fprintln(t, strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	t.Flush()
}

// printable keeps text of others from moving the cursor or breaking a row.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || unicode.IsControl(r) {
			return '?'
		}
		return r
	}, s)
}

// isTerminal reports whether a stream is one.
func isTerminal(v any) bool {
	f, ok := v.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// colours reports whether standard output may be coloured.
func (a *app) colours() bool {
	return !a.noColor && os.Getenv("NO_COLOR") == "" && isTerminal(a.out) && os.Getenv("TERM") != "dumb"
}

const (
	red    = "31"
	green  = "32"
	yellow = "33"
	dim    = "2"
)

func (a *app) colour(code, s string) string {
	if !a.colours() {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// clock renders an instant for a table: local time, with the date where it is
// not today.
func clock(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	t, now = t.Local(), now.Local()
	if t.Year() == now.Year() && t.YearDay() == now.YearDay() {
		return t.Format("15:04:05")
	}
	return t.Format("2006-01-02 15:04:05")
}

// span renders a duration for a table.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "-"
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}

// lasted is how long a task has run, or ran.
func lasted(t ledger.Task, now time.Time) string {
	from := t.Started
	if from.IsZero() {
		from = t.Launched
	}
	switch {
	case from.IsZero():
		return "-"
	case t.Ended.IsZero():
		return span(now.Sub(from))
	}
	return span(t.Ended.Sub(from))
}

// code renders a task's exit code, and what is behind it where the two differ.
func code(t ledger.Task) string {
	if t.ExitCode == nil {
		return "-"
	}
	text := fmt.Sprint(*t.ExitCode)
	if t.End == nil {
		return text
	}
	switch {
	case t.End.RealSignal > 0 && *t.ExitCode != 128+t.End.RealSignal:
		text += fmt.Sprintf(" (signal %d)", t.End.RealSignal)
	case t.End.RealCode != nil && *t.End.RealCode != *t.ExitCode:
		text += fmt.Sprintf(" (itself %d)", *t.End.RealCode)
	}
	return text
}

// runState computes a run's state from its tasks.
func runState(r ledger.Run) string {
	if len(r.Tasks) == 0 {
		if r.Reason != "" {
			return r.Reason
		}
		return "empty"
	}
	counts := map[ledger.State]int{}
	for _, t := range r.Tasks {
		counts[t.State]++
	}
	// The most telling state first: what lives, then what failed.
	for _, s := range []ledger.State{ledger.Stopping, ledger.Running, ledger.Paused, ledger.Launching, ledger.Queued, ledger.Lost,
		ledger.Unknown, ledger.Failed, ledger.TimedOut, ledger.LaunchFailed, ledger.Unreachable, ledger.Killed, ledger.Succeeded, ledger.Skipped} {
		if n := counts[s]; n == len(r.Tasks) {
			return string(s)
		} else if n > 0 && s != ledger.Succeeded && s != ledger.Skipped {
			return fmt.Sprintf("%s %d/%d", s, n, len(r.Tasks))
		} else if n > 0 {
			return string(s)
		}
	}
	return "?"
}

// stateColour tells ends apart at a glance; the word itself is always there.
func stateColour(state string) string {
	word, _, _ := strings.Cut(state, " ")
	switch ledger.State(word) {
	case ledger.Succeeded:
		return green
	case ledger.Failed, ledger.TimedOut, ledger.LaunchFailed, ledger.Unreachable, ledger.Unknown, ledger.Lost:
		return red
	case ledger.Killed, ledger.Stopping, ledger.Paused:
		return yellow
	}
	return dim
}

// mirrored is the exit code that run --wait and --follow hand on.
func mirrored(r ledger.Run) int {
	common, first := 0, true
	for _, t := range r.Tasks {
		c := wire.ExitUnreachable
		switch {
		case t.State == ledger.Skipped:
			continue
		case t.ExitCode != nil:
			c = *t.ExitCode
		}
		if len(r.Tasks) == 1 {
			return c
		}
		if c == 0 {
			continue
		}
		if first {
			common, first = c, false
		} else if c != common {
			return exitFailed
		}
	}
	if len(r.Tasks) == 0 {
		return exitFailed
	}
	return common
}
