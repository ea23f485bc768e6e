package runner

import (
	"strings"
	"time"

	"saltpeter/config"
)

// dues answers how many due times lie between two instants without walking
// through all of them: a month of a job that is due every second is 2.7 million,
// and a server that was away has to tell them for each of its jobs.
//
// It rests on what config's schedules are: a set of wall-clock times whose
// seconds, minutes, hours and days are chosen independently of each other, so
// that any two minutes (hours, days) with a due time have equally many of them,
// but where the clocks change; or, for @every, equal steps.
type dues struct {
	next  func(time.Time) time.Time
	loc   *time.Location
	every bool

	known [3]int64 // how many a day, an hour, a minute has that has some; 0: not known yet
}

// blocks are the pieces of wall-clock time that are counted at once.
var blocks = [3]int64{86400, 3600, 60}

// duesOf makes the dues of a job that has a schedule.
func duesOf(job *config.Job) *dues {
	return &dues{next: job.Schedule.Next, loc: job.Location, every: strings.HasPrefix(job.Fields.Crontab, "@every")}
}

// dueSpan is what lies between two instants of a schedule.
type dueSpan struct {
	first, last time.Time
	beforeLast  time.Time // zero where there is only one
	count       int64
}

// in tells of the due times in (after, until].
func (d *dues) in(after, until time.Time) dueSpan {
	first := d.next(after)
	if first.IsZero() || first.After(until) {
		return dueSpan{}
	}
	if d.every {
		return d.steps(first, until)
	}
	span := dueSpan{first: first, last: d.lastUntil(first, until)}
	span.count = d.count(first.Unix(), until.Unix()+1)
	if span.count > 1 {
		span.beforeLast = d.lastUntil(first, span.last.Add(-time.Second))
	}
	return span
}

// steps is in for @every, which counts from the due time before.
func (d *dues) steps(first, until time.Time) dueSpan {
	second := d.next(first)
	if second.IsZero() || second.After(until) {
		return dueSpan{first: first, last: first, count: 1}
	}
	step := second.Sub(first)
	more := int64(until.Sub(first) / step)
	last := first.Add(time.Duration(more) * step)
	return dueSpan{first: first, last: last, beforeLast: last.Add(-step), count: more + 1}
}

// latest are the last n due times in (after, until], in order.
func (d *dues) latest(after, until time.Time, n int) []time.Time {
	span := d.in(after, until)
	switch {
	case n <= 0 || span.count == 0:
		return nil
	case span.count <= int64(n):
	case d.every:
		step := span.last.Sub(span.beforeLast)
		after = span.last.Add(-time.Duration(n) * step)
	default:
		// Each due time is a second of its own: there is a second behind which
		// exactly n of them are left.
		low, high := span.first.Unix(), span.last.Unix()
		for low < high {
			middle := low + (high-low)/2
			if d.count(middle+1, span.last.Unix()+1) <= int64(n) {
				high = middle
			} else {
				low = middle + 1
			}
		}
		after = time.Unix(low, 0)
	}
	all := make([]time.Time, 0, min(int64(n), span.count))
	for t := d.next(after); !t.IsZero() && !t.After(until) && len(all) < n; t = d.next(t) {
		all = append(all, t)
	}
	return all
}

// lastUntil is the last due time up to until, where known is one. Next never goes
// back as its argument grows, so halving finds it.
func (d *dues) lastUntil(known, until time.Time) time.Time {
	low, high, end := known.Unix(), until.Unix(), until.Unix()
	for low < high {
		middle := low + (high-low)/2
		if n := d.next(time.Unix(middle, 0)); !n.IsZero() && n.Unix() <= end {
			low, known = n.Unix(), n
		} else {
			high = middle
		}
	}
	return known
}

// count is how many due times lie in [from, to), in seconds since 1970.
func (d *dues) count(from, to int64) int64 {
	return d.countIn(from, to, 0)
}

// countIn is count with blocks of at most a size, by its place in blocks.
func (d *dues) countIn(from, to int64, largest int) int64 {
	n := int64(0)
	for from < to {
		t := d.next(time.Unix(from-1, 0))
		if t.IsZero() || t.Unix() >= to {
			return n
		}
		due := t.Unix()
		i, start := d.block(due, from, to, largest)
		if i == len(blocks) {
			n++
			from = due + 1
			continue
		}
		if d.known[i] == 0 {
			d.known[i] = d.countIn(start, start+blocks[i], i+1)
		}
		n += d.known[i]
		from = start + blocks[i]
	}
	return n
}

// block is the largest block around a due time that lies within [from, to) and
// where the clocks do not change; len(blocks) if there is none.
func (d *dues) block(due, from, to int64, largest int) (i int, start int64) {
	t := time.Unix(due, 0).In(d.loc)
	_, offset := t.Zone()
	begins, ends := t.ZoneBounds()
	low, high := from, to
	if !begins.IsZero() {
		// Behind a change of the clocks what was skipped is made up for, or what
		// comes a second time is left out.
		_, before := begins.Add(-time.Second).Zone()
		low = max(low, begins.Unix()+int64(max(offset-before, before-offset))+1)
	}
	if !ends.IsZero() {
		high = min(high, ends.Unix())
	}
	for i = largest; i < len(blocks); i++ {
		wall := due + int64(offset)
		start = due - ((wall%blocks[i])+blocks[i])%blocks[i]
		if start >= low && start+blocks[i] <= high {
			break
		}
	}
	return i, start
}
