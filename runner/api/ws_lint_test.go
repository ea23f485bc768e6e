package api

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// linter checks every frame that one page is sent against what docs/ui.md promises.
// It knows nothing of how the server works.
type linter struct {
	frames  int
	owed    string // the type that must come next
	statusN int
	ends    map[spot]int64 // where the last chunk ended
	runs    map[spot]string
	resets  map[spot]int               // statuses seen when the text was last begun
	targets map[string]map[string]bool // as of the last details
	known   map[string]bool            // jobs of the last config
	secrets []string
}

func newLinter(secrets ...string) *linter {
	return &linter{owed: "config", ends: map[spot]int64{}, runs: map[spot]string{}, resets: map[spot]int{}, targets: map[string]map[string]bool{}, known: map[string]bool{}, secrets: secrets}
}

var (
	withOffset = regexp.MustCompile(`[+-]\d\d:\d\d$`)
	surrogate  = regexp.MustCompile(`\\u[dD][89a-fA-F]`)
)

// faults of one frame.
type faults []string

func (f *faults) add(format string, args ...any) { *f = append(*f, fmt.Sprintf(format, args...)) }

// look checks a frame.
func (l *linter) look(data []byte) faults {
	var f faults
	l.frames++
	for _, secret := range l.secrets {
		if strings.Contains(string(data), secret) {
			f.add("it shows %s", secret)
		}
	}
	var v map[string]any
	if err := json.Unmarshal(data, &v); err != nil {
		f.add("it is no JSON object: %v", err)
		return f
	}
	nulls(&f, "", v)
	kind, _ := v["type"].(string)
	// Answers come when they come; the rest has its order.
	if kind != "result" && kind != "receipt" && kind != "timeline" || l.owed == "config" {
		if l.owed != "" && kind != l.owed {
			f.add("%s where %s must come", kind, l.owed)
		}
		l.owed = ""
	}
	switch kind {
	case "config":
		l.owed = "status"
		l.config(&f, v)
	case "status":
		l.statusN++
		l.status(&f, v)
	case "details":
		l.details(&f, v)
	case "output_chunk":
		if surrogate.Match(data) {
			f.add("half a character")
		}
		l.chunk(&f, v)
	case "timeline":
		l.timeline(&f, v)
	case "result":
		wording(&f, v, "for")
		boolean(&f, v, "ok")
		if v["ok"] == false {
			wording(&f, v, "error")
		}
	case "receipt":
		for _, key := range []string{"cron", "run", "machine", "outcome"} {
			wording(&f, v, key)
		}
	default:
		f.add("unknown type %q", kind)
	}
	return f
}

func nulls(f *faults, where string, v any) {
	switch v := v.(type) {
	case nil:
		f.add("null at %s", where)
	case map[string]any:
		for key, value := range v {
			if key == "saltpeter_config" {
				f.add("saltpeter_config at %s", where)
			}
			nulls(f, where+"."+key, value)
		}
	case []any:
		for i, value := range v {
			nulls(f, fmt.Sprintf("%s[%d]", where, i), value)
		}
	}
}

func wording(f *faults, v map[string]any, key string) string {
	s, ok := v[key].(string)
	if !ok {
		f.add("%s is no text", key)
	}
	return s
}

func boolean(f *faults, v map[string]any, key string) {
	if _, ok := v[key].(bool); !ok {
		f.add("%s is neither true nor false", key)
	}
}

func object(f *faults, v map[string]any, key string) map[string]any {
	m, ok := v[key].(map[string]any)
	if !ok {
		f.add("%s is no object", key)
	}
	return m
}

func wordings(f *faults, v map[string]any, key string) []string {
	l, ok := v[key].([]any)
	if !ok {
		f.add("%s is no list", key)
	}
	var out []string
	for _, e := range l {
		s, ok := e.(string)
		if !ok {
			f.add("%s holds something that is no text", key)
		}
		out = append(out, s)
	}
	return out
}

func whole64(f *faults, v map[string]any, key string) int64 {
	n, ok := v[key].(float64)
	if !ok || n != float64(int64(n)) || n < 0 {
		f.add("%s is no whole number from 0", key)
	}
	return int64(n)
}

func moment(f *faults, v map[string]any, key string) time.Time {
	s := wording(f, v, key)
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || !withOffset.MatchString(s) {
		f.add("%s is %q, no time with an offset", key, s)
	}
	return t
}

func (l *linter) config(f *faults, v map[string]any) {
	wording(f, v, "sp_version")
	c := object(f, v, "config")
	maintenance := object(f, c, "maintenance")
	boolean(f, maintenance, "global")
	wordings(f, maintenance, "machines")
	wording(f, c, "serial")
	clear(l.known)
	for name, job := range object(f, c, "crons") {
		j, ok := job.(map[string]any)
		if !ok {
			f.add("job %s is no object", name)
			continue
		}
		wording(f, j, "command")
		wording(f, j, "group")
		l.known[name] = true
	}
}

func (l *linter) status(f *faults, v map[string]any) {
	wording(f, v, "sp_version")
	for instance, run := range object(f, v, "running") {
		r, ok := run.(map[string]any)
		if !ok {
			f.add("%s is no object", instance)
			continue
		}
		if name := wording(f, r, "name"); !strings.HasPrefix(instance, name+"_") {
			f.add("%s is no instance of %s", instance, name)
		}
		moment(f, r, "started")
		wordings(f, r, "machines")
	}
	for job, last := range object(f, v, "last_state") {
		s, ok := last.(map[string]any)
		if !ok || !l.known[job] {
			f.add("the last state of %s", job)
			continue
		}
		moment(f, s, "last_run")
		boolean(f, s, "result_ok")
	}
}

func (l *linter) details(f *faults, v map[string]any) {
	job := wording(f, v, "cron")
	d := object(f, v, "data")
	for _, key := range []string{"next_run", "last_run"} {
		if _, there := d[key]; there {
			moment(f, d, key)
		}
	}
	wording(f, d, "group")
	boolean(f, d, "overlap")
	l.targets[job] = map[string]bool{}
	for _, machine := range wordings(f, d, "targets") {
		l.targets[job][machine] = true
	}
	for machine, result := range object(f, d, "results") {
		r, ok := result.(map[string]any)
		if !ok {
			f.add("the result of %s is no object", machine)
			continue
		}
		if !l.targets[job][machine] {
			f.add("%s has a result and is no target", machine)
		}
		wording(f, r, "ret")
		moment(f, r, "starttime")
		whole64(f, r, "output_length")
		if _, there := r["last_heartbeat"]; there {
			moment(f, r, "last_heartbeat")
		}
		if r["retcode"] == "" {
			if r["endtime"] != "" {
				f.add("%s ended without a code", machine)
			}
			continue
		}
		if _, ok := r["retcode"].(float64); !ok {
			f.add("the code of %s is no number", machine)
		}
		moment(f, r, "endtime")
	}
}

func (l *linter) chunk(f *faults, v map[string]any) {
	at := spot{wording(f, v, "cron"), wording(f, v, "machine")}
	run := wording(f, v, "run_id")
	position := whole64(f, v, "position")
	end := position + units16(wording(f, v, "chunk"))
	if total := whole64(f, v, "total_length"); total < end {
		f.add("it ends at %d of %d", end, total)
	}
	boolean(f, v, "is_complete")
	if !l.targets[at.job][at.machine] {
		f.add("output of %s on %s, which no details have named", at.job, at.machine)
	}
	if !strings.HasPrefix(run, at.job+"_") {
		f.add("run_id %s is no run of %s", run, at.job)
	}
	last, went := l.ends[at]
	switch {
	case position == 0:
		if went && last > 0 && l.resets[at] == l.statusN {
			f.add("it begins anew without a status before it")
		}
		l.resets[at] = l.statusN
	case !went || position != last:
		f.add("position %d follows %d", position, last)
	case l.runs[at] != run:
		f.add("run %s goes on where %s was", run, l.runs[at])
	}
	l.ends[at], l.runs[at] = end, run
}

func (l *linter) timeline(f *faults, v map[string]any) {
	t := object(f, v, "timeline")
	wording(f, t, "id")
	whole64(f, t, "serial")
	content, ok := t["content"].([]any)
	if !ok {
		f.add("content is no list")
	}
	var last time.Time
	for _, entry := range content {
		e, ok := entry.(map[string]any)
		if !ok {
			f.add("an entry is no object")
			continue
		}
		for _, key := range []string{"cron", "job_instance", "machine"} {
			wording(f, e, key)
		}
		at := moment(f, e, "timestamp")
		if at.Before(last) {
			f.add("the entries are not in order")
		}
		last = at
		_, number := e["ret_code"].(float64)
		if kind := wording(f, e, "msg_type"); !slices.Contains([]string{"machine_start", "machine_result"}, kind) || number != (kind == "machine_result") {
			f.add("an entry %s with code %v", kind, e["ret_code"])
		}
	}
}

// units16 is the length of a text as JavaScript counts it.
func units16(s string) int64 {
	n := int64(0)
	for _, r := range s {
		n++
		if r > 0xFFFF {
			n++
		}
	}
	return n
}
