package api

import (
	"bytes"
	"context"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"saltpeter/runner"
	"saltpeter/wsx"
)

const (
	// mostAtOnce bounds what one page may have under way.
	mostAtOnce = 32
	// toldRefusals is how many refusals of one page are logged.
	toldRefusals = 20
)

// ask is a message of a page. Each has one key.
type ask struct {
	Subscribe   json.RawMessage `json:"subscribe"`
	Unsubscribe json.RawMessage `json:"unsubscribe"`
	Ack         json.RawMessage `json:"ack"`
	Run         json.RawMessage `json:"run"`
	KillCron    json.RawMessage `json:"killCron"`
	KillMachine json.RawMessage `json:"killMachine"`
	GetTimeline json.RawMessage `json:"getTimeline"`
}

// result answers what a page asked for.
type result struct {
	Type  string `json:"type"`
	For   string `json:"for"`
	Cron  string `json:"cron,omitempty"`
	Run   string `json:"run_id,omitempty"`
	OK    bool   `json:"ok"`
	Error string `json:"error,omitempty"`
	Code  string `json:"code,omitempty"`
	Hint  string `json:"hint,omitempty"`
}

// hear takes what the page says until its connection ends. Kills and runs are
// carried out from here, never behind what waits to be sent.
func (c *uiClient) hear(ctx context.Context, wg *sync.WaitGroup) error {
	h := hearing{c: c, ctx: ctx, wg: wg, turns: make(chan struct{}, mostAtOnce)}
	for {
		kind, data, err := c.conn.Read()
		if err != nil {
			return err
		}
		if kind != wsx.Text {
			h.refuse("", "", badRequest("/ws takes text frames, and this is a binary one"))
			continue
		}
		h.message(data)
	}
}

// hearing is the state of the goroutine that hears a page.
type hearing struct {
	c       *uiClient
	ctx     context.Context
	wg      *sync.WaitGroup
	turns   chan struct{}
	refused int
}

func (h *hearing) message(data []byte) {
	var a ask
	if err := json.Unmarshal(data, &a); err != nil {
		h.refuse("", "", badRequest("a frame is one object of JSON, and this is none that /ws takes: %s", jsonFault(err, a)))
		return
	}
	known := false
	for _, part := range []struct {
		what string
		raw  json.RawMessage
		do   func(what string, raw json.RawMessage)
	}{
		{"killCron", a.KillCron, h.killJob},
		{"killMachine", a.KillMachine, h.killMachine},
		{"run", a.Run, h.run},
		{"subscribe", a.Subscribe, h.subscribe},
		{"unsubscribe", a.Unsubscribe, h.unsubscribe},
		{"ack", a.Ack, h.ack},
		{"getTimeline", a.GetTimeline, h.timeline},
	} {
		if part.raw != nil {
			known = true
			part.do(part.what, part.raw)
		}
	}
	if !known {
		h.refuse("", "", badRequest("it asks for nothing that /ws knows; the keys are %s", strings.Join(keysOf(reflect.TypeFor[ask]()), ", ")))
	}
}

// refuse logs what was refused and says so to the page.
func (h *hearing) refuse(what, job string, err error) {
	e := toError(err)
	if h.refused++; h.refused <= toldRefusals {
		h.c.s.o.Log.Warn("refused what a page asked for", "what", what, "job", clipText(job), "err", e.Text, "who", h.c.who.who, "from", h.c.who.from)
	} else if h.refused == toldRefusals+1 {
		h.c.s.o.Log.Warn("no more refusals of this page are logged", "who", h.c.who.who, "from", h.c.who.from)
	}
	h.answer(refusal(what, job, e))
}

// refusal is the answer to what is refused, in the words of a page.
func refusal(what, job string, e *Error) result {
	return result{For: what, Cron: clipText(job), Error: e.Text, Code: e.Code, Hint: pageHint(e)}
}

// pageHints say what a client of /ws can do, where the hint of the command line names
// its own verbs and flags.
var pageHints = map[string]string{
	"unauthorized":            "offer a token, see docs/ui.md; who runs the server can make one",
	"forbidden":               "offer a token of the role operate, see docs/ui.md; or let everybody in who can reach the server, with this line in saltpeter_config: api_anonymous_role: operate",
	runner.CodeNoSuchJob:      "the jobs are the keys of crons in the config frame",
	runner.CodeNoSuchRun:      "the status frames list what runs",
	runner.CodeNothingRunning: "the status frames list what runs",
	runner.CodeNoMachines:     "the details frames list the job's machines as targets",
	runner.CodeMaintenance:    "maintenance in the config frame tells what is held back; try again when it is over",
	runner.CodeOverlap:        `wait for its end, or end it with {"killCron":JOB}`,
	runner.CodeBadRequest:     "mend the job in its file",
}

func pageHint(e *Error) string {
	if strings.Contains(e.Hint, "`saltpeter ") || strings.Contains(e.Hint, "--") {
		return pageHints[e.Code]
	}
	return e.Hint
}

// answer sends a result. It waits for the page, as long as a write may take.
func (h *hearing) answer(r result) {
	r.Type = "result"
	h.c.send(frameOf(r)) // an error ends the connection, which run sees
}

func clipText(s string) string {
	if len(s) > 200 {
		return strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}

// jobName reads the name of a job.
func jobName(raw json.RawMessage) (string, error) {
	var name string
	if err := json.Unmarshal(raw, &name); err != nil {
		return "", badRequest("it names no job: %s", jsonFault(err, name))
	}
	if name == "" {
		return "", badRequest("it names no job: the name is empty")
	}
	return name, nil
}

// jobNames reads one name or a list of them.
func jobNames(raw json.RawMessage) ([]string, error) {
	if name, err := jobName(raw); err == nil {
		return []string{name}, nil
	}
	var names []string
	if err := json.Unmarshal(raw, &names); err != nil || names == nil || slices.Contains(names, "") {
		return nil, badRequest(`it is neither the name of a job nor a list of names: write "job" or ["job"]`)
	}
	return names, nil
}

// own hands something to the page's own goroutine, which may be waiting for the
// page.
func (h *hearing) own(what, job string, f func() error) {
	select {
	case h.c.asked <- f:
	default:
		h.refuse(what, job, &Error{Code: "busy", Text: "too much is asked for at once", Hint: "read what was sent first"})
	}
}

// apart does something in a goroutine of its own, some at a time.
func (h *hearing) apart(what, job string, f func()) {
	select {
	case h.turns <- struct{}{}:
		h.wg.Go(func() {
			defer func() { <-h.turns }()
			defer h.c.caught()
			f()
		})
	default:
		h.refuse(what, job, &Error{Code: "busy", Text: "too much is asked for at once", Hint: "wait for the answers"})
	}
}

func (h *hearing) subscribe(what string, raw json.RawMessage) {
	names, err := jobNames(raw)
	if err != nil {
		h.refuse(what, "", err)
		return
	}
	for _, name := range names {
		if h.c.s.set().Jobs[name] == nil {
			if err := h.c.s.board.bring(h.ctx, name); err != nil {
				h.refuse(what, name, err)
				continue
			}
		}
		h.own(what, name, func() error { return h.c.openJob(name) })
	}
}

func (h *hearing) unsubscribe(what string, raw json.RawMessage) {
	names, err := jobNames(raw)
	if err != nil {
		h.refuse(what, "", err)
		return
	}
	for _, name := range names {
		h.own(what, name, func() error { return h.c.closeJob(name) })
	}
}

func noSuchJob(name string) error {
	return &runner.Refusal{Code: runner.CodeNoSuchJob, Text: "there is no job " + quote(clipText(name)), Hint: "`saltpeter status` lists the jobs"}
}

// openJob begins to show a job.
func (c *uiClient) openJob(job string) error {
	c.page.visit(job)
	if _, watched := c.changes[job]; !watched {
		c.changes[job] = 0
	}
	if c.statusAt.IsZero() {
		return nil // the first status is about to come
	}
	return c.look()
}

// closeJob ends that.
func (c *uiClient) closeJob(job string) error {
	delete(c.page.open, job)
	delete(c.page.fresh, job)
	delete(c.changes, job)
	if c.statusAt.IsZero() {
		return nil
	}
	return c.look()
}

// ack is flow control only: which chunk it is about does not matter.
func (h *hearing) ack(what string, raw json.RawMessage) {
	var a map[string]json.RawMessage
	if err := json.Unmarshal(raw, &a); err != nil || a == nil {
		h.refuse(what, "", badRequest("an ack is an object with cron, machine and position"))
		return
	}
	select {
	case h.c.acks <- struct{}{}:
	default:
	}
}

// may reports whether the page may operate, as things are now: its token may have
// been revoked since it came.
func (h *hearing) may() error {
	who, err := h.c.again()
	if err == nil && who.role < Operate {
		err = refuse(who, Operate)
	}
	return err
}

// operate does something to the job that the page names, if it may.
func (h *hearing) operate(what string, raw json.RawMessage, f func(job string)) {
	name, err := jobName(raw)
	if err == nil {
		err = h.may()
	}
	if err != nil {
		h.refuse(what, name, err)
		return
	}
	h.apart(what, name, func() { f(name) })
}

func (h *hearing) run(what string, raw json.RawMessage) {
	h.operate(what, raw, func(name string) {
		run, err := h.c.s.o.Runner.Start(context.WithoutCancel(h.ctx), h.c.who.actor(), runner.StartRequest{Job: name})
		if err != nil {
			h.refuseLater(what, name, err)
			return
		}
		h.answer(result{For: what, Cron: name, OK: true, Run: run.ID})
	})
}

// refuseLater is refuse from another goroutine than the hearing one.
func (h *hearing) refuseLater(what, job string, err error) {
	e := toError(err)
	h.c.s.o.Log.Warn("refused what a page asked for", "what", what, "job", clipText(job), "err", e.Text, "who", h.c.who.who, "from", h.c.who.from)
	h.answer(refusal(what, job, e))
}

func (h *hearing) killJob(what string, raw json.RawMessage) {
	h.operate(what, raw, func(name string) { h.kill(what, name, runner.Selector{Job: name}) })
}

// machineKill names one task, or, without a run, all of a job on one machine.
type machineKill struct {
	Cron     string `json:"cron"`
	Machine  string `json:"machine"`
	Instance string `json:"job_instance"`
}

func (h *hearing) killMachine(what string, raw json.RawMessage) {
	var q machineKill
	err := json.Unmarshal(raw, &q)
	switch {
	case err != nil:
		err = badRequest("%s; it needs cron and machine, and may have job_instance", jsonFault(err, q))
	case q.Cron == "" || q.Machine == "":
		err = badRequest("it needs cron and machine, and may have job_instance")
	default:
		err = h.may()
	}
	if err != nil {
		h.refuse(what, q.Cron, err)
		return
	}
	s := runner.Selector{Job: q.Cron, Run: q.Instance, Machine: exactly(q.Machine)}
	h.apart(what, q.Cron, func() { h.kill(what, q.Cron, s) })
}

// exactly is the pattern that matches a name and nothing else.
func exactly(name string) string {
	return strings.NewReplacer("*", "[*]", "?", "[?]", "[", "[[]").Replace(name)
}

// kill asks for the end of tasks and sends their receipts as they come. The kill
// stands also when the page has gone.
func (h *hearing) kill(what, job string, s runner.Selector) {
	receipts, err := h.c.s.o.Runner.Kill(h.ctx, h.c.who.actor(), s, runner.KillOptions{})
	if err != nil {
		h.refuseLater(what, job, err)
		return
	}
	h.answer(result{For: what, Cron: job, OK: true})
	for r := range receipts {
		h.c.send(frameOf(receiptFrame{Type: "receipt", Cron: job, Receipt: r}))
	}
}

type receiptFrame struct {
	Type string `json:"type"`
	Cron string `json:"cron"`
	runner.Receipt
}

func (h *hearing) timeline(what string, raw json.RawMessage) {
	var q timelineAsk
	if err := json.Unmarshal(raw, &q); err != nil {
		h.refuse(what, "", badRequest("%s; it needs start_date, end_date and id", jsonFault(err, q)))
		return
	}
	if bytes.Equal(raw, []byte("null")) {
		h.refuse(what, "", badRequest("it needs start_date, end_date and id"))
		return
	}
	h.apart(what, "", func() {
		answer, err := h.c.s.timelineOf(h.ctx, q, time.Now())
		if err != nil {
			h.refuseLater(what, "", err)
			return
		}
		h.c.send(frameOf(map[string]any{"type": "timeline", "timeline": answer}))
	})
}
