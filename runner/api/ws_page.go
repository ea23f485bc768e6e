package api

import (
	"math"
	"slices"
)

// The page of the program that came before keeps one text for each machine of the
// job that is looked at. It empties it when the machine is new among those that
// run, drops a chunk that begins below what it expects, and takes one that begins
// above it without a word about the gap. Where it is visited a second time over
// one connection, each status empties its texts. So what it shows is what one
// sends only if one knows what it expects; page is what can be known of that.
//
// A text may be one of several lengths: whether the page emptied it is not always
// certain. Then the text is sent again from the shortest, with an end of a chunk
// at each of the others: whichever is true, one chunk fits and the rest follow.

// spot is where a page shows a text.
type spot struct{ job, machine string }

// copyOf is what a page may hold of one machine's output.
type copyOf struct {
	run      string  // whose output
	expect   []point // where the page may expect the next chunk, ascending; never empty
	final    int64   // bytes stored when the end of the output was sent, -1 before
	complete bool    // the page was told that it has all
	spoiled  bool    // what was sent as the end was none: the text must be emptied
}

var start = []point{{}}

func newCopy(run string) *copyOf { return &copyOf{run: run, expect: start, final: -1} }

// at is where the next chunk begins, stop where it must end at the latest.
func (c *copyOf) at() point { return c.expect[0] }
func (c *copyOf) stop() int64 {
	if len(c.expect) > 1 {
		return c.expect[1].offset
	}
	return math.MaxInt64
}

// sent takes the news of a chunk that ended at next. ends says that it told the page
// that this is all: one that expected next all the while did not take it.
func (c *copyOf) sent(next point, ends bool) {
	rest := c.expect[1:]
	if len(rest) == 0 || rest[0] != next {
		c.expect, c.complete = append([]point{next}, rest...), ends
		return
	}
	c.expect, c.complete = rest, false
}

// mayBeEmpty: the text may have been emptied, or not.
func (c *copyOf) mayBeEmpty() {
	if c.expect[0] != (point{}) {
		c.expect = append([]point{{}}, c.expect...)
	}
	c.complete = false
}

// behind reports whether the page may lack something that was sent before.
func (c *copyOf) behind() bool { return len(c.expect) > 1 }

// page is one client as far as its texts go. Its goroutine owns it.
type page struct {
	// own is a page that goes by run and position: nothing is guessed about it.
	own    bool
	open   map[string]bool // jobs that are looked at
	fresh  map[string]bool // those that were opened since the last status
	visits map[string]int  // how often each was
	copies map[spot]*copyOf
	shown  map[spot][]string // runs by which each machine was among the running in the last status
}

func newPage(own bool) *page {
	return &page{own: own, open: map[string]bool{}, fresh: map[string]bool{}, visits: map[string]int{}, copies: map[spot]*copyOf{}, shown: map[spot][]string{}}
}

// twice reports whether a job is visited again, so that each status empties texts.
func (p *page) twice(job string) bool { return !p.own && p.open[job] && p.visits[job] > 1 }

// status takes the news that a status with these runs was sent.
func (p *page) status(running []runView) {
	shown := make(map[spot][]string, len(p.shown))
	for _, r := range running {
		for _, machine := range r.Machines {
			at := spot{r.Name, machine}
			shown[at] = append(shown[at], r.id)
		}
	}
	was := p.shown
	p.shown = shown
	if p.own {
		return
	}
	for at, c := range p.copies {
		isNew := len(shown[at]) > 0 && len(was[at]) == 0
		other := slices.ContainsFunc(shown[at], func(run string) bool { return !slices.Contains(was[at], run) })
		switch {
		case isNew && p.open[at.job]:
			*c = *newCopy(c.run)
		case other, p.twice(at.job):
			c.mayBeEmpty()
		}
	}
}

// visit opens a job.
func (p *page) visit(job string) {
	if !p.open[job] {
		p.open[job], p.fresh[job] = true, true
		p.visits[job]++
	}
}

// owes lists the machines of open jobs whose text must be emptied before the
// output of the run that they are to show can be sent. It makes the copies of
// those that need nothing.
func (p *page) owes(views map[string]*jobView) []*runningTask {
	var owed []*runningTask
	for job := range p.open {
		view := views[job]
		if view == nil {
			continue
		}
		for i := range view.texts {
			t := &view.texts[i]
			at := spot{job, t.status.Machine}
			c := p.copies[at]
			switch {
			case c == nil && (p.own || p.fresh[job]):
				p.copies[at] = newCopy(t.status.Run)
			case c == nil:
				// It has begun since: the page learns that before its output.
				p.copies[at] = newCopy(t.status.Run)
				owed = append(owed, t)
			case c.run == t.status.Run && !c.spoiled:
			case p.own:
				p.copies[at] = newCopy(t.status.Run)
			default:
				c.run, c.spoiled = t.status.Run, true
				owed = append(owed, t)
			}
		}
	}
	clear(p.fresh)
	return owed
}
