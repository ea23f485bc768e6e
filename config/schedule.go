package config

import (
	"strings"
	"time"
	_ "time/tzdata" // a machine without zone files must not turn a night job into a UTC one
)

// FieldError is what is wrong with one field of a schedule.
type FieldError struct {
	Field  string // "hour"
	Text   string // what is wrong
	Hint   string // what to write
	Offset int    // characters before the fault within the field; 0 if unknown
}

func (e *FieldError) Error() string {
	if e.Hint == "" {
		return e.Field + ": " + e.Text
	}
	return e.Field + ": " + e.Text + "; " + e.Hint
}

// FieldErrors are the faults of several fields of one schedule, in the order in
// which the fields are written. errors.As finds the first *FieldError of them.
type FieldErrors []*FieldError

func (e FieldErrors) Error() string {
	texts := make([]string, len(e))
	for i, err := range e {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "\n")
}

// Unwrap gives the single faults to errors.As.
func (e FieldErrors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, err := range e {
		errs[i] = err
	}
	return errs
}

// ParseFields makes a Schedule of the seven fields; empty Sec is "0", empty Year
// "*". The error is a *FieldError, or FieldErrors where several fields are wrong;
// each names the field and how to mend it. A nil loc is UTC.
func ParseFields(f FieldTexts, loc *time.Location) (Schedule, error) {
	times, err := parseTimes(f)
	if err != nil {
		return nil, err
	}
	return newZoned(times, loc), nil
}

// parseTimes reads all seven fields, so that all their faults are told at once.
func parseTimes(f FieldTexts) (wallTimes, error) {
	texts := [...]string{f.Sec, f.Min, f.Hour, f.Dom, f.Mon, f.Dow, f.Year}
	var sets [len(texts)]fieldSet
	var errs FieldErrors
	for i, text := range texts {
		rule := fieldRules[i]
		if strings.TrimSpace(text) == "" {
			text = rule.preset
		}
		set, err := rule.parse(text)
		if err != nil {
			errs = append(errs, err)
		}
		sets[i] = set
	}
	switch len(errs) {
	case 0:
	case 1:
		return wallTimes{}, errs[0]
	default:
		return wallTimes{}, errs
	}
	dom, dow := sets[3], sets[5]
	times := wallTimes{
		sec:     sets[0].bits[0],
		min:     sets[1].bits[0],
		hour:    sets[2].bits[0],
		dom:     dom.bits[0],
		domLast: dom.last,
		mon:     sets[4].bits[0],
		dow:     dow.bits[0] | dow.bits[0]>>7&1, // 7 is Sunday too
		dowLast: dow.last | dow.last>>7&1,
		year:    sets[6].bits,
		minStar: sets[1].star,
	}
	return times.ready(), nil
}

// NextN returns the next n firings after from; fewer where the schedule ends.
func NextN(s Schedule, from time.Time, n int) []time.Time {
	if s == nil {
		return nil
	}
	var next []time.Time
	for len(next) < n {
		from = s.Next(from)
		if from.IsZero() {
			break
		}
		next = append(next, from)
	}
	return next
}
