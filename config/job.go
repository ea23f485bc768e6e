package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"saltpeter/config/targets"
)

// draft is a job as its file alone gives it. What other files have a say in
// (default zone, default transport, wrapper paths) is added by finish, so that a
// draft of an unchanged file is used again at the next reload.
type draft struct {
	job  Job
	loc  *time.Location // nil: the default zone
	utc  bool           // utc: true was written
	pos  [posCount]pos
	list bool // targets is a YAML list of more than one
	bad  bool // the file alone shows an error; the rest is checked all the same
}

type pos struct{ line, col int }

// Positions that messages of the second step need.
const (
	posSec = iota
	posMin
	posHour
	posDom
	posMon
	posDow
	posYear
	posSchedule
	posTargets
	posUTC
	posName
	posCount
)

func (d *draft) mark(at int, v *value) { d.pos[at] = pos{v.line, v.col} }

// jobReader reads one job.
type jobReader struct {
	scope
	d     *draft
	zones *zoneTable

	timeout, hardTimeout *value
	overlapText          *value // allow_overlap
	overlapSet           bool   // on_overlap was written
	badTargets           bool   // targets or their type are wrong, and said to be
}

// maxCommand is what the kernel takes as one argument (MAX_ARG_STRLEN), with its
// closing NUL.
const maxCommand = 128<<10 - 1

func newDraft(group, file string, key *value) *draft {
	d := &draft{job: Job{
		Name: key.text, Group: group, File: file, Line: key.line,
		TargetType: "glob", Timeout: time.Hour,
		OnStop: "finish", OnOverlap: "skip", OnLost: "wait", UseWrapper: true,
		CatchUp: "none", KillGrace: 5 * time.Second, KillSignal: "TERM", Leftover: "leave",
		Drain: 2 * time.Second, LostAfter: 5 * time.Minute, OnSpoolFull: "gap",
		MaxOutput: 1 << 30, Enabled: true,
	}}
	d.mark(posName, key)
	return d
}

// readJob gives a bad draft where something in the job is an error, and nil
// where there is nothing to look at any further.
func readJob(s scope, group, file string, key, body *value, zones *zoneTable) *draft {
	r := &jobReader{scope: s, d: newDraft(group, file, key), zones: zones}
	r.job, r.bad = key.text, false
	if why, hint := badName(key); why != "" {
		r.job = cut(key.text)
		r.fail(key, "", why, hint)
	}
	r.faults(key, "")
	r.faults(body, "")
	switch {
	case isNull(body):
		r.fail(key, "", "has no keys", "give it at least a schedule, a command and targets")
	case body.kind != mappingKind:
		r.fail(body, "", "is not a mapping of keys", "write the keys of the job indented below its name")
	}
	if r.bad {
		return nil
	}
	r.nameAsWritten(key)
	r.doubled(body)
	for _, p := range body.pairs {
		if read := jobKeys.get()[p.key.text]; read != nil {
			read(r, p.val)
		} else {
			r.unknown(p.key, jobKeyNames.get())
		}
	}
	r.together(key, body)
	r.notYet(body)
	r.d.bad = r.bad
	r.d.job.Raw, _ = plainAny(body).(map[string]any)
	return r.d
}

func badName(key *value) (why, hint string) {
	name := key.text
	switch {
	case isNull(key):
		return "a job must have a name", ""
	case name == "" || name == "." || name == "..":
		return fmt.Sprintf("%q cannot be the name of a job", name), "choose another"
	case strings.ContainsRune(name, '/'):
		return "a job's name must not hold a /", "use - or . instead"
	case strings.ContainsFunc(name, unicode.IsControl):
		return "a job's name must not hold control characters", "take them out"
	case len(name) > 200:
		return fmt.Sprintf("the job's name is %d bytes long, and 200 is the most", len(name)), "choose a shorter one"
	}
	return "", ""
}

func (r *jobReader) nameAsWritten(key *value) {
	if was := pythonText(key); key.plain && was != key.text {
		r.warn(key, "", fmt.Sprintf("the name %s is %s to YAML; taken as the text %q", key.text, was, key.text), "quote it")
	}
}

// together checks what several keys say about each other.
func (r *jobReader) together(key, body *value) {
	j := &r.d.job
	var missing []string
	for _, k := range []string{"command", "targets"} {
		if v := body.get(k); v == nil || isNull(v) {
			missing = append(missing, k)
		}
	}
	fields := []string{"min", "hour", "dom", "mon", "dow"}
	if r.d.pos[posSchedule].line > 0 {
		for _, k := range append([]string{"sec", "year"}, fields...) {
			if v := body.get(k); v != nil {
				r.fail(v, k, "cannot stand beside schedule", "take one of the two out")
			}
		}
	} else {
		for _, k := range fields {
			if body.get(k) == nil {
				missing = append(missing, k)
			}
		}
	}
	if len(missing) > 0 {
		hint := "add " + strings.Join(missing, ", ")
		if len(missing) >= len(fields) && body.get("schedule") == nil {
			hint += `; instead of the fields, schedule: '0 2 * * *' will do`
		}
		r.fail(key, "", "required keys are missing: "+strings.Join(missing, ", "), hint)
	}
	r.limits()
	if v := r.overlapText; v != nil {
		r.allowOverlap(v)
	}
	if r.badTargets {
		j.Targets = ""
	} else if r.d.list && j.TargetType != "list" {
		r.targetList(body.get("targets"), body.get("target_type") != nil)
	}
}

// limits settles the three keys that name one.
func (r *jobReader) limits() {
	j := &r.d.job
	if v := r.hardTimeout; v != nil {
		if r.timeout == nil {
			if d, ok := r.duration("hard_timeout", v); ok {
				j.Timeout = d
			}
		}
		write := "timeout: " + seconds(j.Timeout)
		in := write
		if j.Timeout == 0 {
			in = "no timeout"
		}
		if r.timeout != nil {
			r.warn(v, "hard_timeout", "is ignored beside timeout; in effect is "+in, "take it out")
		} else {
			r.warn(v, "hard_timeout", "is an old name; in effect is "+in, "write "+write)
		}
	}
}

func seconds(d time.Duration) string {
	if d%time.Second == 0 {
		return fmt.Sprint(int64(d / time.Second))
	}
	return d.String()
}

const overlapPhrase = "i know what i am doing!"

// allowOverlap: every other text has always meant no, so it cannot be an error.
func (r *jobReader) allowOverlap(v *value) {
	allowed := v.kind == scalarKind && v.text == overlapPhrase
	is, isBool := yamlBool(v.text)
	switch {
	case r.overlapSet && (allowed && r.d.job.OnOverlap != "allow"):
		r.warn(v, "allow_overlap", "is ignored: on_overlap: "+r.d.job.OnOverlap+" is in effect", "take it out")
	case r.overlapSet:
	case allowed:
		r.d.job.OnOverlap = "allow"
	case v.kind == scalarKind && (isNull(v) || v.text == "" || isBool && !is):
	default:
		r.warn(v, "allow_overlap", "does not allow overlaps: only the exact text "+overlapPhrase+" does",
			fmt.Sprintf("write allow_overlap: '%s', or on_overlap: allow", overlapPhrase))
	}
}

// targetList: a YAML list with the default type is a list of names.
func (r *jobReader) targetList(v *value, typed bool) {
	j := &r.d.job
	if !typed && !strings.ContainsAny(j.Targets, "*?[") {
		j.TargetType = "list"
		return
	}
	defer func() { j.Targets = "" }()
	r.fail(v, "targets", fmt.Sprintf("is a list, and target_type %s takes one expression", j.TargetType),
		fmt.Sprintf("write target_type: list for a list of names, or target_type: compound and targets: '%s'",
			strings.ReplaceAll(j.Targets, ",", " or ")))
}

func (r *jobReader) targetType(v *value) {
	t, ok := r.text("target_type", v)
	if t = strings.TrimSpace(t); !ok {
		r.badTargets = r.badTargets || !isNull(v)
		return
	}
	if known := slices.Concat(targets.Types, targets.SaltOnly); !slices.Contains(known, t) {
		hint := "write one of " + strings.Join(known, ", ")
		if near := nearest(t, known); near != "" {
			hint = fmt.Sprintf("did you mean %s? Known are %s", near, strings.Join(known, ", "))
		}
		r.badTargets = true
		r.fail(v, "target_type", fmt.Sprintf("unknown target type %q", cut(t)), hint)
		return
	}
	r.d.job.TargetType = t
}

func (r *jobReader) targets(v *value) {
	r.d.mark(posTargets, v)
	list, ok := r.texts("targets", v)
	if !ok {
		r.badTargets = true
		return
	}
	if len(list) == 0 {
		r.badTargets = true
		r.fail(v, "targets", "names no machine", "write '*' for all of them")
		return
	}
	r.d.list = v.kind == listKind && len(list) > 1
	r.d.job.Targets = strings.Join(list, ",")
}

func (r *jobReader) command(v *value) {
	text, ok := r.text("command", v)
	switch {
	case !ok:
	case strings.TrimSpace(text) == "":
		r.fail(v, "command", "is empty", "write what is to be run")
	case len(text) > maxCommand:
		r.fail(v, "command", fmt.Sprintf("is %d bytes long, and the system takes %d", len(text), maxCommand), "put it in a script")
	default:
		r.d.job.Command = text
	}
}

// env makes every value the text that the old program made of it.
func (r *jobReader) env(v *value) {
	if isNull(v) {
		return
	}
	if v.kind != mappingKind {
		r.fail(v, "env", "is not a mapping of names to values", "write NAME: 'value' indented below env")
		return
	}
	in := r.inside("env.")
	in.doubled(v)
	env := make(map[string]string, len(v.pairs))
	for _, p := range v.pairs {
		name, text := p.key.text, pythonText(p.val)
		switch {
		case name == "" || strings.ContainsAny(name, "=\x00"):
			in.fail(p.key, "", fmt.Sprintf("%q cannot be the name of a variable", cut(name)), "take the = out")
			continue
		case p.val.kind != scalarKind:
			in.fail(p.val, cut(name), "is a list or a mapping, and a variable must be text", "quote it")
			continue
		case strings.ContainsRune(text, 0):
			in.fail(p.val, cut(name), "holds a NUL character", "take it out")
			continue
		case p.val.plain && text != p.val.text:
			in.warn(p.val, cut(name), fmt.Sprintf("%s becomes the text %q", orEmpty(p.val.text), text), fmt.Sprintf("quote it: '%s'", cut(p.val.text)))
		}
		env[name] = text
	}
	r.bad = r.bad || in.bad
	r.d.job.Env = env
}

func orEmpty(s string) string {
	if s == "" {
		return "the empty value"
	}
	return s
}

// field keeps a schedule field as text; its grammar is checked when the zone is
// known.
func (r *jobReader) field(at int, key string, v *value, to *string) {
	r.d.mark(at, v)
	const every = "write '*' for every value"
	switch {
	case v.kind == listKind:
		r.fail(v, key, "is a list, and must be text", listHint(v))
	case v.kind == mappingKind:
		r.fail(v, key, "is a mapping, and must be text", every)
	case v.meaning() == boolMeaning:
		r.fail(v, key, v.text+" is a YAML boolean, put it in quotes", every)
	case v.meaning() == nullMeaning && v.text != "":
		r.fail(v, key, v.text+" is YAML's word for nothing, put it in quotes", every)
	case strings.TrimSpace(v.text) == "":
		r.fail(v, key, "is empty", every)
	default:
		*to = r.number(key, v)
	}
}

func listHint(v *value) string {
	var items []string
	for _, item := range v.items {
		if item.kind != scalarKind || len(items) > 20 {
			return "write the values in one text, with commas"
		}
		items = append(items, item.text)
	}
	return fmt.Sprintf("write '%s'", cut(strings.Join(items, ",")))
}
