package api

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"saltpeter/wsx"
)

// pageKind is how an old page behaves where one cannot know. What the server does
// must be right for all of them.
type pageKind struct {
	name       string
	byInstance bool // a machine is new when its instance is; otherwise when it did not run at all
	awayToo    bool // what runs is also followed while the page is not open
	wipeShown  bool // on a second visit only the texts of running machines are emptied
	neverWiped bool // a second visit is as good as the first
}

var pageKinds = []pageKind{
	{name: "by machine"},
	{name: "by instance", byInstance: true},
	{name: "follows while away", awayToo: true},
	{name: "empties what runs", wipeShown: true, byInstance: true, awayToo: true},
	{name: "well behaved", neverWiped: true, awayToo: true},
}

// oldPage is the page of the program that came before, as far as it is told in
// docs/ui.md: it keeps one text for each machine of the job that it shows.
type oldPage struct {
	kind    pageKind
	job     string
	visits  map[string]int
	running map[string]map[string]bool // job/machine -> instances, as it remembers them
	texts   map[spot]string
	expects map[spot]int64
	config  map[string]any
	order   []string
	dropped int
	gaps    int
	seen    map[string]map[string]bool // instances that it was ever told of, and with which machines
	runNow  map[string]bool            // instances in the last status
	last    map[string]any
	details map[string]any
	runs    map[spot]string // run_id of the last chunk; the page itself does not look at it
	done    map[spot]bool
}

func newOldPage(kind pageKind) *oldPage {
	return &oldPage{kind: kind, visits: map[string]int{}, running: map[string]map[string]bool{}, texts: map[spot]string{}, expects: map[spot]int64{},
		seen: map[string]map[string]bool{}, runs: map[spot]string{}, done: map[spot]bool{}}
}

func (p *oldPage) frame(data []byte) (ack map[string]any) {
	var f struct {
		Type    string
		Config  struct{ Crons json.RawMessage }
		Running map[string]struct {
			Name     string
			Machines []string
		}
		LastState map[string]any `json:"last_state"`
		Cron      string
		Machine   string
		Chunk     string
		Position  int64
		RunID     string `json:"run_id"`
		Complete  bool   `json:"is_complete"`
		Data      map[string]any
	}
	if json.Unmarshal(data, &f) != nil {
		return nil
	}
	switch f.Type {
	case "config":
		json.Unmarshal(f.Config.Crons, &p.config)
		p.order = keysInOrder(f.Config.Crons)
	case "status":
		p.last = f.LastState
		p.runNow = map[string]bool{}
		now := map[string]map[string]bool{}
		for instance, r := range f.Running {
			p.runNow[instance] = true
			for _, machine := range r.Machines {
				key := r.Name + "/" + machine
				if now[key] == nil {
					now[key] = map[string]bool{}
				}
				now[key][instance] = true
				if p.seen[instance] == nil {
					p.seen[instance] = map[string]bool{}
				}
				p.seen[instance][machine] = true
			}
		}
		p.status(now)
	case "details":
		if f.Cron == p.job {
			p.details = f.Data
		}
	case "output_chunk":
		if f.Cron == p.job {
			at := spot{f.Cron, f.Machine}
			switch {
			case f.Position < p.expects[at]:
				p.dropped++
			default:
				if f.Position > p.expects[at] {
					p.gaps++
				}
				p.texts[at] += f.Chunk
				p.expects[at] = f.Position + units16(f.Chunk)
				p.runs[at] = f.RunID
				p.done[at] = f.Complete
			}
		}
		return map[string]any{"ack": map[string]any{"cron": f.Cron, "machine": f.Machine, "position": f.Position}}
	}
	return nil
}

// status empties the texts of machines that are new in it.
func (p *oldPage) status(now map[string]map[string]bool) {
	if p.job == "" && !p.kind.awayToo {
		return
	}
	empty := func(at spot) { p.texts[at], p.expects[at], p.done[at] = "", 0, false }
	for key, instances := range now {
		job, machine, _ := strings.Cut(key, "/")
		isNew := len(p.running[key]) == 0
		for instance := range instances {
			isNew = isNew || p.kind.byInstance && !p.running[key][instance]
		}
		if isNew && job == p.job {
			empty(spot{job, machine})
		}
	}
	if p.job != "" && p.visits[p.job] > 1 && !p.kind.neverWiped {
		for at := range p.texts {
			if at.job == p.job && (!p.kind.wipeShown || len(now[at.job+"/"+at.machine]) > 0) {
				empty(at)
			}
		}
	}
	p.running = now
}

// keysInOrder lists the keys of a JSON object as they stand.
func keysInOrder(raw json.RawMessage) []string {
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.Token()
	var keys []string
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil
		}
		name, _ := key.(string)
		keys = append(keys, name)
		var skip json.RawMessage
		if d.Decode(&skip) != nil {
			return nil
		}
	}
	return keys
}

// viewer is a page at the other end of a connection. Every frame is linted.
type viewer struct {
	t      *testing.T
	conn   *wsx.Conn
	done   chan struct{}
	silent bool // sends no acks

	mu     sync.Mutex
	lint   *linter
	page   *oldPage
	frames []map[string]any // all but chunks
	types  []string         // of all frames, in order
	end    error
}

// view opens a page.
func (r *rig) view(kind pageKind, header ...string) *viewer {
	r.t.Helper()
	v, err := r.tryView(r.tcp, kind, header...)
	if err != nil {
		r.t.Fatal(err)
	}
	return v
}

func (r *rig) tryView(addr string, kind pageKind, header ...string) (*viewer, error) {
	h := http.Header{}
	for i := 0; i < len(header); i += 2 {
		h.Add(header[i], header[i+1])
	}
	conn, err := wsx.Dial(r.t.Context(), wsx.DialOptions{URL: "ws://" + addr + "/ws", Header: h})
	if err != nil {
		return nil, err
	}
	v := &viewer{t: r.t, conn: conn, done: make(chan struct{}), lint: newLinter(secrets...), page: newOldPage(kind)}
	go v.read()
	r.t.Cleanup(func() { conn.Close(""); <-v.done })
	return v, nil
}

func (v *viewer) read() {
	defer close(v.done)
	for {
		_, data, err := v.conn.Read()
		if err != nil {
			v.mu.Lock()
			v.end = err
			v.mu.Unlock()
			return
		}
		v.mu.Lock()
		if f := v.lint.look(data); len(f) > 0 {
			v.t.Errorf("a frame is wrong: %v: %.2000s", f, data)
		}
		ack := v.page.frame(data)
		var frame map[string]any
		json.Unmarshal(data, &frame)
		kind, _ := frame["type"].(string)
		v.types = append(v.types, kind)
		if kind != "output_chunk" {
			v.frames = append(v.frames, frame)
		}
		v.mu.Unlock()
		if ack != nil && !v.silent {
			v.say(ack)
		}
	}
}

func (v *viewer) say(m any) {
	data, err := json.Marshal(m)
	if err != nil {
		v.t.Error(err)
	}
	v.conn.Write(wsx.Text, data)
}

// open shows a job, leave goes back to the list.
func (v *viewer) open(job string) {
	v.mu.Lock()
	v.page.job = job
	v.page.visits[job]++
	v.page.details = nil
	v.mu.Unlock()
	v.say(map[string]any{"subscribe": []string{job}})
}

func (v *viewer) leave(job string) {
	v.mu.Lock()
	v.page.job = ""
	v.mu.Unlock()
	v.say(map[string]any{"unsubscribe": []string{job}})
}

// until waits for something that the page shows.
func (v *viewer) until(what string, is func(p *oldPage) bool) {
	v.t.Helper()
	deadline := time.Now().Add(testWait)
	for {
		v.mu.Lock()
		ok := is(v.page)
		end := v.end
		v.mu.Unlock()
		if ok {
			return
		}
		if end != nil || time.Now().After(deadline) {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.t.Fatalf("the page never showed %s (its connection: %v); texts %.300q, frames %v", what, end, v.page.texts, v.types[max(len(v.types)-40, 0):])
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// shows waits until the page shows exactly this text of a run.
func (v *viewer) shows(at spot, run, text string) {
	v.t.Helper()
	v.until("the output of "+run, func(p *oldPage) bool { return p.texts[at] == text && p.runs[at] == run })
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.page.gaps > 0 {
		v.t.Errorf("%d gaps in the texts", v.page.gaps)
	}
}

// answer waits for a frame that answers something.
func (v *viewer) answer(kind string, is func(map[string]any) bool) map[string]any {
	v.t.Helper()
	var found map[string]any
	v.until("an answer "+kind, func(*oldPage) bool {
		for _, f := range v.frames {
			if f["type"] == kind && (is == nil || is(f)) {
				found = f
				return true
			}
		}
		return false
	})
	return found
}

func (v *viewer) count(kind string) int {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := 0
	for _, t := range v.types {
		if t == kind {
			n++
		}
	}
	return n
}

func tokenOffer(token string) string {
	return uiProtocol + ", " + tokenProtocol + base64.RawURLEncoding.EncodeToString([]byte(token))
}
