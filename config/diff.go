package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// changed names the keys in which two versions of a job differ. Where it stands
// in its file is no difference, and no value is shown: env holds secrets.
func changed(old, now *Job) []string {
	if old == now {
		return nil
	}
	var keys []string
	differ := func(key string, different bool) {
		if different {
			keys = append(keys, key)
		}
	}
	a, b := reflect.ValueOf(*old), reflect.ValueOf(*now)
	for i := range a.NumField() {
		field := a.Type().Field(i)
		key, ok := jobFieldKeys.get()[field.Name]
		if !ok || !field.IsExported() {
			continue
		}
		differ(key, !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()))
	}
	x, y := old.Fields, now.Fields
	differ("sec", x.Sec != y.Sec)
	differ("min", x.Min != y.Min)
	differ("hour", x.Hour != y.Hour)
	differ("dom", x.Dom != y.Dom)
	differ("mon", x.Mon != y.Mon)
	differ("dow", x.Dow != y.Dow)
	differ("year", x.Year != y.Year)
	differ("schedule", x.Crontab != y.Crontab)
	differ("timezone", old.Location.String() != now.Location.String())
	differ("notify", !reflect.DeepEqual(old.Notify, now.Notify))
	return keys
}

// jobFieldKeys are the keys of those fields that can be compared as they are.
var jobFieldKeys = lazy[map[string]string]{make: func() map[string]string {
	return map[string]string{
		"Group": "group", "Command": "command", "Targets": "targets", "TargetType": "target_type", "User": "user", "Cwd": "cwd",
		"Env": "env", "Timeout": "timeout", "NumberOfTargets": "number_of_targets", "Batch": "batch_size", "Canary": "canary",
		"MaxFailures": "max_failures", "OnStop": "on_stop", "OnOverlap": "on_overlap", "OnLost": "on_lost", "Lockfile": "lockfile",
		"UseWrapper": "use_wrapper", "WrapperPath": "wrapper_path", "WrapperLogLevel": "wrapper_loglevel", "WrapperLogDir": "wrapper_logdir",
		"ServerHost": "saltpeter_server_host", "CatchUp": "catch_up", "CatchUpWindow": "catch_up_window", "Splay": "splay",
		"KillGrace": "kill_grace", "KillSignal": "kill_signal", "Leftover": "leftover", "Drain": "drain",
		"PauseStopsTimeout": "pause_stops_timeout", "LostAfter": "lost_after", "Retries": "retries", "RetryDelay": "retry_delay",
		"Transport": "transport", "Streams": "streams", "OnSpoolFull": "on_spool_full", "MaxOutput": "max_output",
		"Enabled": "enabled", "Description": "description",
	}
}}

// Diff says in one line each what a new Set changes: jobs added, removed and
// changed, the machines that a job hits, maintenance, and settings that need a
// restart. old may be nil.
func Diff(old, now *Set) []string {
	if old == nil {
		old = &Set{Settings: now.Settings, Machines: now.Machines}
	}
	var lines []string
	for _, name := range old.Order {
		if now.Jobs[name] == nil {
			lines = append(lines, fmt.Sprintf("job %q removed (was in %s)", name, old.Jobs[name].File))
		}
	}
	sameMachines := reflect.DeepEqual(old.Machines, now.Machines)
	for _, name := range now.Order {
		j, was := now.Jobs[name], old.Jobs[name]
		if was == nil {
			lines = append(lines, fmt.Sprintf("job %q added (%s:%d)", name, j.File, j.Line))
			continue
		}
		keys := changed(was, j)
		if len(keys) > 0 {
			lines = append(lines, fmt.Sprintf("job %q changed: %s", name, strings.Join(keys, ", ")))
		}
		if !sameMachines || slices.Contains(keys, "targets") || slices.Contains(keys, "target_type") {
			lines = append(lines, hits(old, now, was, j)...)
		}
	}
	lines = append(lines, diffMaintenance(old.Maintenance, now.Maintenance)...)
	for _, r := range needsRestart {
		if a, b := r.get(&old.Settings), r.get(&now.Settings); a != b {
			lines = append(lines, fmt.Sprintf("%s.%s changed from %s to %s: needs a restart", settingsKey, r.key, orNone(a), orNone(b)))
		}
	}
	return lines
}

func orNone(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// hits says how the machines of a job change; beyond ten it counts.
func hits(old, now *Set, was, j *Job) []string {
	before, _, err1 := old.Matching(was)
	after, _, err2 := now.Matching(j)
	if err1 != nil || err2 != nil {
		return nil
	}
	a, b := map[string]bool{}, map[string]bool{}
	for _, m := range before {
		a[m.Name] = true
	}
	for _, m := range after {
		b[m.Name] = true
	}
	if maps.Equal(a, b) {
		return nil
	}
	var parts []string
	if more := names(after, a); more != "" {
		parts = append(parts, "now also "+more)
	}
	if less := names(before, b); less != "" {
		parts = append(parts, "no longer "+less)
	}
	return []string{fmt.Sprintf("job %q runs on other machines: %s (%d instead of %d)", j.Name, strings.Join(parts, "; "), len(b), len(a))}
}

func names(list []Machine, without map[string]bool) string {
	var out []string
	for _, m := range list {
		if !without[m.Name] {
			out = append(out, m.Name)
		}
	}
	if n := len(out); n > 10 {
		out = append(out[:10], fmt.Sprintf("%d more", n-10))
	}
	return strings.Join(out, ", ")
}

func diffMaintenance(old, now Maintenance) []string {
	var lines []string
	if old.Global != now.Global {
		what := map[bool]string{true: "begins: no new run starts", false: "ends"}[now.Global]
		lines = append(lines, "maintenance of everything "+what)
	}
	for _, m := range now.Machines {
		if !slices.Contains(old.Machines, m) {
			lines = append(lines, fmt.Sprintf("maintenance of machine %s begins", m))
		}
	}
	for _, m := range old.Machines {
		if !slices.Contains(now.Machines, m) {
			lines = append(lines, fmt.Sprintf("maintenance of machine %s ends", m))
		}
	}
	return lines
}
