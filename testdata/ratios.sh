#!/bin/sh
# Passes go test's benchmark lines on and closes with a table of ratios. A row is
#   a benchmark X/ours beside X/baseline, by rows/s, MB/s or else the time; or
#   two figures of one benchmark, ours-UNIT and baseline-UNIT, measured in turns;
#   with a word and a colon before both where it has several such rows.
# The figure "reach" (or WORD:reach) is the ratio that the row has to keep.
# UNIT:reach is the bound of a figure that has no baseline; those come last, with
# the benchmarks that have none. A row that misses its reach is a figure and no
# failure; a line of go test that says FAIL is one, and so is no line at all: then
# the exit code is 1.
awk '
function label(name) { sub(/^Benchmark/, "", name); sub(/\/ours/, "", name); return name }
function row(name, unit, ours, base, reach,    ratio, more, verdict) {
	if (!head++) printf "\n%-44s %-7s %12s %12s %7s  %s\n", "beside the baseline of the same run", "unit", "ours", "baseline", "ratio", "reach"
	ratio = ours / base
	more = unit ~ /\/s$/
	if (reach > 0) verdict = sprintf("%s %-5.4g %s", more ? ">=" : "<=", reach, (more ? ratio >= reach : ratio <= reach) ? "" : "MISSED")
	else if (more) verdict = "more is better"
	printf "%-44s %-7s %12.6g %12.6g %7.2f  %s\n", name, unit, ours, base, ratio, verdict
}
function single(name, unit, value, reach) {
	rest[++r] = sprintf("%-44s %-16s %12.6g  %s", name, unit, value, reach > 0 ? sprintf("<= %-5.4g %s", reach, value <= reach ? "" : "MISSED") : "")
}
{ print }
/^[ \t]*(--- )?FAIL([: \t]|$)/ { failed = 1 }
/^Benchmark/ && NF >= 4 {
	name = $1; sub(/-[0-9]+$/, "", name)
	if (!(name in seen)) order[++n] = name
	seen[name] = 1
	for (i = 3; i < NF; i += 2) {
		if (!((name, $(i+1)) in value)) units[name] = units[name] " " $(i+1)
		value[name, $(i+1)] = $i
	}
}
END {
	for (i = 1; i <= n; i++) {
		name = order[i]
		base = name
		if (sub(/\/ours/, "/baseline", base) && (base in seen)) {
			paired[base] = 1
			m = split("rows/s MB/s ns/op", choice, " ")
			for (j = 1; j <= m; j++) {
				u = choice[j]
				if (!((name, u) in value) || !(value[base, u] > 0)) continue
				shown = u == "ns/op" ? "ns" : u
				row(label(name), shown, value[name, u], value[base, u], value[name, "reach"])
				break
			}
			paired[name] = 1
		}
	}
	for (i = 1; i <= n; i++) {
		name = order[i]
		m = split(units[name], unit, " ")
		for (j = 1; j <= m; j++) {
			u = unit[j]
			if (u !~ /(^|:)(ours|baseline)-/) continue
			b = u
			if (!sub(/ours-/, "baseline-", b) || !(value[name, b] > 0)) continue
			word = u; sub(/(:|^)ours-.*/, "", word)
			plain = u; sub(/.*ours-/, "", plain)
			row(label(name) (word == "" ? "" : " " word), plain, value[name, u], value[name, b], value[name, (word == "" ? "" : word ":") "reach"])
		}
	}
	for (i = 1; i <= n; i++) {
		name = order[i]
		m = split(units[name], unit, " ")
		for (j = 1; j <= m; j++) {
			u = unit[j]
			if (u ~ /(^|:)(ours|baseline)-/ || u ~ /(^|:)reach$/ || u == "B/op" || u == "allocs/op") continue
			if ((name in paired) && (u == "ns/op" || u == "MB/s" || u == "rows/s")) continue
			single(label(name), u, value[name, u], value[name, u ":reach"])
		}
	}
	if (r) printf "\n%-44s %-16s %12s  %s\n", "without a baseline", "unit", "value", "reach"
	for (i = 1; i <= r; i++) print rest[i]
	exit failed || !NR
}'
