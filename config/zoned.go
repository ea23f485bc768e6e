package config

import (
	"fmt"
	"time"
)

// zoned is a set of wall-clock times in a zone. It implements Schedule and never
// changes, so any number of goroutines may ask it.
type zoned struct {
	times wallTimes
	loc   *time.Location
	// catchUp: a time that the clocks skip is made up for at the first instant
	// after the gap. Hourly jobs need none: their next run is near.
	catchUp bool
	// repeats: times that come twice are run twice, as for jobs that are meant to
	// run all the time.
	repeats bool
}

func newZoned(times wallTimes, loc *time.Location) *zoned {
	if loc == nil {
		loc = time.UTC
	}
	return &zoned{
		times:   times,
		loc:     loc,
		catchUp: !times.hourly,
		repeats: times.hourly || times.minStar || times.min == allSixty,
	}
}

const (
	// slack is more than any zone is away from UTC, so that a wall time and the
	// instant of the same number are never further apart.
	slack = 2 * daySeconds

	earliest = -slack                            // nothing matches before
	latest   = (130*366 + 2) * int64(daySeconds) // nothing matches after
)

// stretch is a piece of a zone's time with one offset from UTC: instants from
// start until before end. An edge need not be a change of the offset.
type stretch struct {
	start, end int64
	offset     int64
	before     int64 // the offset until start
}

func (z *zoned) stretchAt(instant int64) stretch {
	t := time.Unix(instant, 0).In(z.loc)
	_, offset := t.Zone()
	from, to := t.ZoneBounds()
	s := stretch{start: earliest - slack, end: latest + slack, offset: int64(offset), before: int64(offset)}
	if !from.IsZero() {
		s.start = from.Unix()
		_, before := from.Add(-time.Second).Zone()
		s.before = int64(before)
	}
	if !to.IsZero() {
		s.end = to.Unix()
		for s.end <= instant {
			// Where a zone goes on by rule, ZoneBounds gives every year 365 days, and
			// on 31 December of a leap year its end has already passed.
			s.end += daySeconds
		}
	}
	return s
}

// Next returns the first instant strictly after t at which the schedule is due,
// in the schedule's location; the zero time is never.
func (z *zoned) Next(t time.Time) time.Time {
	if z.times.never || t.Unix() >= latest {
		return time.Time{}
	}
	instant := max(t.Unix()+1, earliest)
	for {
		s := z.stretchAt(instant)
		if z.catchUp && instant == s.start && s.before < s.offset {
			if wall, ok := z.times.next(instant + s.before); ok && wall < instant+s.offset {
				return time.Unix(instant, 0).In(z.loc)
			}
		}
		from := instant + s.offset
		if !z.repeats {
			from = max(from, s.start+s.before) // the second pass of a fold
		}
		if wall, ok := z.times.next(from); ok && wall < s.end+s.offset {
			return time.Unix(wall-s.offset, 0).In(z.loc)
		}
		instant = s.end
		// Leap over the years without a match rather than going from one change of
		// the clocks to the next.
		wall, ok := z.times.next(instant - slack)
		if !ok {
			return time.Time{}
		}
		instant = max(instant, wall-slack)
	}
}

// Note says what the clocks have done to a firing of s at t: "" normally, else
// for example "clocks go forward: 02:30 does not exist that day".
func Note(s Schedule, t time.Time) string {
	z, ok := s.(*zoned)
	if !ok || t.Unix() < earliest || t.Unix() >= latest {
		return ""
	}
	instant := t.Unix()
	now := z.stretchAt(instant)
	wall := instant + now.offset
	switch {
	case instant == now.start && now.before < now.offset:
		return z.skipped(instant+now.before, wall)
	case wall < now.start+now.before:
		return fmt.Sprintf("clocks go back: %s comes a second time that day", clock(wall))
	}
	after := z.stretchAt(now.end)
	if after.start != now.end || wall < now.end+after.offset {
		return ""
	}
	if z.repeats {
		return fmt.Sprintf("clocks go back: %s comes twice that day, this is the first time", clock(wall))
	}
	return fmt.Sprintf("clocks go back: %s comes twice that day, it runs the first time only", clock(wall))
}

// skipped says which times of the schedule are in the gap [from, to).
func (z *zoned) skipped(from, to int64) string {
	first, ok := z.times.next(from)
	if !z.catchUp || !ok || first >= to {
		return ""
	}
	last := first
	for n := 0; n < daySeconds; n++ {
		wall, ok := z.times.next(last + 1)
		if !ok || wall >= to {
			break
		}
		last = wall
	}
	day := ""
	if to-from >= daySeconds {
		day = time.Unix(first, 0).UTC().Format("2006-01-02") + " "
	}
	if first == last {
		return fmt.Sprintf("clocks go forward: %s%s does not exist that day", day, clock(first))
	}
	return fmt.Sprintf("clocks go forward: %s%s to %s do not exist that day", day, clock(first), clock(last))
}

// clock writes a wall time as people do, seconds only where there are some.
func clock(wall int64) string {
	if wall%60 != 0 {
		return time.Unix(wall, 0).UTC().Format("15:04:05")
	}
	return time.Unix(wall, 0).UTC().Format("15:04")
}
