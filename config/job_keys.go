package config

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// jobKeys has a reader for every key that a job may have.
var jobKeys = lazy[map[string]func(*jobReader, *value)]{make: func() map[string]func(*jobReader, *value) {
	return map[string]func(*jobReader, *value){
		"sec":      func(r *jobReader, v *value) { r.field(posSec, "sec", v, &r.d.job.Fields.Sec) },
		"min":      func(r *jobReader, v *value) { r.field(posMin, "min", v, &r.d.job.Fields.Min) },
		"hour":     func(r *jobReader, v *value) { r.field(posHour, "hour", v, &r.d.job.Fields.Hour) },
		"dom":      func(r *jobReader, v *value) { r.field(posDom, "dom", v, &r.d.job.Fields.Dom) },
		"mon":      func(r *jobReader, v *value) { r.field(posMon, "mon", v, &r.d.job.Fields.Mon) },
		"dow":      func(r *jobReader, v *value) { r.field(posDow, "dow", v, &r.d.job.Fields.Dow) },
		"year":     func(r *jobReader, v *value) { r.field(posYear, "year", v, &r.d.job.Fields.Year) },
		"schedule": func(r *jobReader, v *value) { r.field(posSchedule, "schedule", v, &r.d.job.Fields.Crontab) },

		"timezone": func(r *jobReader, v *value) {
			if loc, ok := r.zone("timezone", v, r.zones); ok {
				r.d.loc = loc
			}
		},
		"utc": func(r *jobReader, v *value) {
			r.d.mark(posUTC, v)
			r.d.utc, _ = r.boolean("utc", v)
		},

		"command":     (*jobReader).command,
		"targets":     (*jobReader).targets,
		"target_type": (*jobReader).targetType,
		"user":        func(r *jobReader, v *value) { set(&r.d.job.User)(r.trimmed("user", v)) },
		"cwd": func(r *jobReader, v *value) {
			cwd, ok := r.trimmed("cwd", v)
			if ok && cwd != "" && !strings.HasPrefix(cwd, "/") {
				r.fail(v, "cwd", fmt.Sprintf("%q does not begin with a /", cut(cwd)), "write the whole path")
				return
			}
			set(&r.d.job.Cwd)(cwd, ok)
		},
		"env": (*jobReader).env,

		"timeout": func(r *jobReader, v *value) {
			if d, ok := r.duration("timeout", v); ok {
				r.timeout, r.d.job.Timeout = v, d
			}
		},
		"hard_timeout": func(r *jobReader, v *value) { r.hardTimeout = v },
		"soft_timeout": func(r *jobReader, v *value) {
			r.warn(v, "soft_timeout", "is ignored", "take it out; the limit is timeout")
		},
		"number_of_targets": func(r *jobReader, v *value) {
			set(&r.d.job.NumberOfTargets)(r.integer("number_of_targets", v, 0, math.MaxInt32))
		},
		"batch_size":   func(r *jobReader, v *value) { set(&r.d.job.Batch)(r.size("batch_size", v)) },
		"canary":       func(r *jobReader, v *value) { set(&r.d.job.Canary)(r.integer("canary", v, 0, math.MaxInt32)) },
		"max_failures": func(r *jobReader, v *value) { set(&r.d.job.MaxFailures)(r.size("max_failures", v)) },
		"on_stop":      func(r *jobReader, v *value) { set(&r.d.job.OnStop)(r.word("on_stop", v, "finish", "kill")) },

		"allow_overlap": func(r *jobReader, v *value) { r.overlapText = v },
		"on_overlap": func(r *jobReader, v *value) {
			if w, ok := r.word("on_overlap", v, "skip", "allow", "replace", "wait"); ok {
				r.overlapSet, r.d.job.OnOverlap = true, w
			}
		},
		"on_lost":    func(r *jobReader, v *value) { set(&r.d.job.OnLost)(r.word("on_lost", v, "wait", "start", "replace")) },
		"lost_after": func(r *jobReader, v *value) { set(&r.d.job.LostAfter)(r.positive("lost_after", v)) },
		"lockfile":   func(r *jobReader, v *value) { set(&r.d.job.Lockfile)(r.trimmed("lockfile", v)) },

		"use_wrapper":  func(r *jobReader, v *value) { set(&r.d.job.UseWrapper)(r.boolean("use_wrapper", v)) },
		"wrapper_path": func(r *jobReader, v *value) { set(&r.d.job.WrapperPath)(r.trimmed("wrapper_path", v)) },
		"wrapper_loglevel": func(r *jobReader, v *value) {
			set(&r.d.job.WrapperLogLevel)(r.word("wrapper_loglevel", v, "normal", "debug", "off"))
		},
		"wrapper_logdir": func(r *jobReader, v *value) { set(&r.d.job.WrapperLogDir)(r.trimmed("wrapper_logdir", v)) },
		"saltpeter_server_host": func(r *jobReader, v *value) {
			set(&r.d.job.ServerHost)(r.trimmed("saltpeter_server_host", v))
		},

		"catch_up": func(r *jobReader, v *value) { set(&r.d.job.CatchUp)(r.word("catch_up", v, "none", "one", "all")) },
		"catch_up_window": func(r *jobReader, v *value) {
			set(&r.d.job.CatchUpWindow)(r.duration("catch_up_window", v))
		},
		"splay":       func(r *jobReader, v *value) { set(&r.d.job.Splay)(r.duration("splay", v)) },
		"kill_grace":  func(r *jobReader, v *value) { set(&r.d.job.KillGrace)(r.duration("kill_grace", v)) },
		"kill_signal": (*jobReader).signal,
		"leftover":    func(r *jobReader, v *value) { set(&r.d.job.Leftover)(r.word("leftover", v, "leave", "wait", "kill")) },
		"drain":       func(r *jobReader, v *value) { set(&r.d.job.Drain)(r.duration("drain", v)) },
		"pause_stops_timeout": func(r *jobReader, v *value) {
			set(&r.d.job.PauseStopsTimeout)(r.boolean("pause_stops_timeout", v))
		},
		"retries":     func(r *jobReader, v *value) { set(&r.d.job.Retries)(r.integer("retries", v, 0, 1000)) },
		"retry_delay": func(r *jobReader, v *value) { set(&r.d.job.RetryDelay)(r.duration("retry_delay", v)) },
		"transport": func(r *jobReader, v *value) {
			set(&r.d.job.Transport)(r.word("transport", v, "auto", "local", "ssh", "salt"))
		},
		"streams":       func(r *jobReader, v *value) { set(&r.d.job.Streams)(r.word("streams", v, "separate")) },
		"on_spool_full": func(r *jobReader, v *value) { set(&r.d.job.OnSpoolFull)(r.word("on_spool_full", v, "gap", "block")) },
		"max_output":    func(r *jobReader, v *value) { set(&r.d.job.MaxOutput)(r.bytes("max_output", v)) },
		"notify":        (*jobReader).notify,
		"enabled":       func(r *jobReader, v *value) { set(&r.d.job.Enabled)(r.boolean("enabled", v)) },
		"description":   func(r *jobReader, v *value) { set(&r.d.job.Description)(r.text("description", v)) },
	}
}}

var jobKeyNames = lazy[[]string]{make: func() []string { return slices.Sorted(maps.Keys(jobKeys.get())) }}

// set stores what a reader returned, where it was good.
func set[T any](to *T) func(T, bool) {
	return func(v T, ok bool) {
		if ok {
			*to = v
		}
	}
}

func (s *scope) trimmed(key string, v *value) (string, bool) {
	text, ok := s.text(key, v)
	return strings.TrimSpace(text), ok
}

// signals are those that end or tell a process something; by Linux's numbers.
var signals = lazy[map[string]int]{make: func() map[string]int {
	return map[string]int{
		"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "BUS": 7, "FPE": 8, "KILL": 9, "USR1": 10, "SEGV": 11,
		"USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "XCPU": 24, "XFSZ": 25, "VTALRM": 26, "PROF": 27, "WINCH": 28, "IO": 29, "PWR": 30, "SYS": 31,
	}
}}

func (r *jobReader) signal(v *value) {
	if !r.scalar("kill_signal", v, "the name of a signal") {
		return
	}
	text := r.number("kill_signal", v)
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if n, err := strconv.Atoi(text); err == nil {
		for s, number := range signals.get() {
			if number == n {
				name = s
			}
		}
	}
	if _, ok := signals.get()[name]; !ok {
		hint := "write a name such as TERM, INT, HUP, QUIT, USR1"
		if near := nearest(name, slices.Sorted(maps.Keys(signals.get()))); near != "" {
			hint = fmt.Sprintf("did you mean %s?", near)
		}
		r.fail(v, "kill_signal", fmt.Sprintf("%q is not a signal that can end a job", cut(v.text)), hint)
		return
	}
	r.d.job.KillSignal = name
}
