#!/bin/sh
# Passes go test's benchmark lines on and closes with a table of ratios: a
# benchmark named X/ours beside X/baseline, both of the same run.
awk '
{ print }
/^Benchmark/ && NF >= 4 {
	name = $1; sub(/-[0-9]+$/, "", name)
	for (i = 3; i < NF; i += 2) if ($(i+1) == "ns/op") value[name] = $i
	order[++n] = name
}
END {
	for (i = 1; i <= n; i++) {
		name = order[i]
		if (name !~ /\/ours(\/|$|=)/ ) continue
		base = name; sub(/\/ours/, "/baseline", base)
		if (!(base in value) || !(value[base] > 0) || seen[name]++) continue
		if (!head++) printf "\n%-58s %14s %14s %8s\n", "time for each operation", "ours ns", "baseline ns", "ratio"
		label = name; sub(/\/ours/, "", label); sub(/^Benchmark/, "", label)
		printf "%-58s %14.0f %14.0f %8.2f\n", label, value[name], value[base], value[name] / value[base]
	}
}'
