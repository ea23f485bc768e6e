package api

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"saltpeter/config"
	"saltpeter/runner"
	"saltpeter/runner/ledger"
)

// runView is one run among the running.
type runView struct {
	id       string
	Name     string   `json:"name"`
	Started  string   `json:"started"`
	Machines []string `json:"machines"`
}

// lastView is when a job last began to run, and what its last run came to.
type lastView struct {
	LastRun  string `json:"last_run"`
	ResultOK bool   `json:"result_ok"`
}

// runningTask is a task whose output is shown, with where that is read.
type runningTask struct {
	status  *runner.TaskStatus
	started string // of its run, as the status tells it
	text    *text
}

// jobView is one job at one moment. It is never changed, but for the frame that is
// made of it.
type jobView struct {
	change  int64 // grows with each start and end
	head    *ledger.Run
	running []runView
	last    *lastView
	targets []string
	texts   []runningTask // one for each machine that has an output to show

	frameMu sync.Mutex
	frame   []byte // the details
	frameAt time.Time
}

// snapshot is everything that pages show at one moment. It is never changed.
type snapshot struct {
	rev     int64
	set     *config.Set
	jobs    map[string]*jobView
	running []runView
	status  []byte // the frame
}

// stampOf is how times go over the wire: RFC 3339 with an offset in figures, which
// every reader of ISO 8601 takes.
func stampOf(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000-07:00") }

// live: it runs, or is about to. Queued ones wait for their turn, and lost ones have
// a provisional end.
func live(s ledger.State) bool { return !s.Done() && s != ledger.Queued }

// viewJob makes a view of the tasks of a job: those of its newest run, and those of
// older ones that have not been taken out since. failedBefore is what came of the last
// run that ended beside the newest one.
func viewJob(head *ledger.Run, tasks map[ledger.TaskID]*runner.TaskStatus, failedBefore bool, change int64, textOf func(ledger.TaskID) *text) *jobView {
	v := &jobView{change: change, head: head, targets: []string{}}
	all := make([]*runner.TaskStatus, 0, len(tasks))
	for _, t := range tasks {
		all = append(all, t)
	}
	slices.SortFunc(all, func(a, b *runner.TaskStatus) int {
		return strings.Compare(a.Run+"\x00"+a.Machine, b.Run+"\x00"+b.Machine)
	})
	runs := map[string]*runView{}
	began := map[string]time.Time{}
	chosen := map[string]*runner.TaskStatus{}
	for _, t := range all {
		if b, there := began[t.Run]; !there || t.Queued.Before(b) {
			began[t.Run] = t.Queued
		}
		if !t.State.Done() {
			r := runs[t.Run]
			if r == nil {
				r = &runView{id: t.Run, Name: t.Job, Machines: []string{}}
				runs[t.Run] = r
			}
			if live(t.State) {
				r.Machines = append(r.Machines, t.Machine)
			}
		}
		ofHead := head != nil && t.Run == head.ID
		if ofHead || live(t.State) {
			v.targets = append(v.targets, t.Machine)
		}
		if t.State == ledger.Queued || t.State == ledger.Skipped {
			continue
		}
		if c := chosen[t.Machine]; c == nil || !t.Queued.Before(c.Queued) {
			chosen[t.Machine] = t
		}
	}
	for id, r := range runs {
		r.Started = stampOf(began[id])
		v.running = append(v.running, *r)
	}
	for _, t := range chosen {
		v.texts = append(v.texts, runningTask{status: t, started: stampOf(began[t.Run]), text: textOf(t.TaskID)})
	}
	for machine := range chosen { // what has a result must be a target, or it is not seen
		v.targets = append(v.targets, machine)
	}
	slices.Sort(v.targets)
	v.targets = slices.Compact(v.targets)
	slices.SortFunc(v.texts, func(a, b runningTask) int { return strings.Compare(a.status.Machine, b.status.Machine) })
	if head != nil {
		v.last = &lastView{LastRun: stampOf(head.Fired), ResultOK: verdictOf(head, tasks, failedBefore)}
	}
	return v
}

// statusFrame is the running ones without some machines, and with others as if they
// ran: that is how a page is made to empty a text.
func (s *snapshot) statusFrame(version string, running []runView) []byte {
	shown := make(map[string]runView, len(running))
	for _, r := range running {
		shown[r.id] = r
	}
	last := make(map[string]*lastView, len(s.jobs))
	for name, v := range s.jobs {
		if v.last != nil && s.set.Jobs[name] != nil {
			last[name] = v.last
		}
	}
	return frameOf(map[string]any{"type": "status", "running": shown, "last_state": last, "sp_version": version})
}

// without is the running ones but for some.
func without(running []runView, some []*runningTask) []runView {
	out := make([]runView, 0, len(running))
	for _, r := range running {
		r.Machines = slices.DeleteFunc(slices.Clone(r.Machines), func(machine string) bool {
			return slices.ContainsFunc(some, func(t *runningTask) bool { return t.status.Job == r.Name && t.status.Machine == machine })
		})
		out = append(out, r)
	}
	return out
}

// with is the running ones and some more.
func with(running []runView, some []*runningTask) []runView {
	out := slices.Clone(running)
	for _, t := range some {
		i := slices.IndexFunc(out, func(r runView) bool { return r.id == t.status.Run })
		if i < 0 {
			out = append(out, runView{id: t.status.Run, Name: t.status.Job, Started: t.started, Machines: []string{}})
			i = len(out) - 1
		}
		if !slices.Contains(out[i].Machines, t.status.Machine) {
			out[i].Machines = append(slices.Clone(out[i].Machines), t.status.Machine)
		}
	}
	return out
}

// frameOf encodes a frame. What is put into one can always be encoded.
func frameOf(v any) []byte {
	data, err := json.Marshal(v)
	if err != nil {
		return []byte(`{"type":"error"}`)
	}
	return data
}

// cronsOf is the jobs as people wrote them, without what may be secret. The order of
// the keys is the order of the list, so the object is written by hand.
func cronsOf(set *config.Set) json.RawMessage {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, name := range set.Order {
		if i > 0 {
			b.WriteByte(',')
		}
		j := set.Jobs[name]
		job, _ := withoutNulls(redacted(j.Raw, false)).(map[string]any)
		if job == nil {
			job = map[string]any{}
		}
		job["command"], job["group"] = j.Command, j.Group
		b.Write(frameOf(name))
		b.WriteByte(':')
		b.Write(frameOf(job))
	}
	b.WriteByte('}')
	return b.Bytes()
}

// withoutNulls leaves out what is empty: pages count on what is there.
func withoutNulls(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for key, value := range v {
			if value != nil {
				m[key] = withoutNulls(value)
			}
		}
		return m
	case []any:
		l := make([]any, 0, len(v))
		for _, value := range v {
			if value != nil {
				l = append(l, withoutNulls(value))
			}
		}
		return l
	}
	return v
}

// uiConfig is what /config answers, and what config frames carry.
type uiConfig struct {
	Crons       json.RawMessage    `json:"crons"`
	Maintenance config.Maintenance `json:"maintenance"`
	Serial      string             `json:"serial"`
}

func configOf(set *config.Set) uiConfig {
	return uiConfig{
		Crons: cronsOf(set), Serial: set.Serial,
		Maintenance: config.Maintenance{Global: set.Maintenance.Global, Machines: list(set.Maintenance.Machines)},
	}
}
