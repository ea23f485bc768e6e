#!/bin/sh
# The main job, start to end, on a scratch folder: a server, a job that fires by
# its schedule and streams, another that is killed from the shell with a receipt,
# and the history of both. No root, nothing left behind.
set -eu
bin=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
scratch=$(mktemp -d "${TMPDIR:-/tmp}/saltpeter-demo.XXXXXX")
server=
clean() {
	code=$?
	trap - EXIT
	if [ -n "$server" ]; then
		"$bin" --addr "unix://$scratch/sock" kill --all --yes --grace 1s >/dev/null 2>&1 || true
		kill "$server" 2>/dev/null || true
		wait "$server" 2>/dev/null || true
	fi
	[ $code -eq 0 ] || { echo "--- the server's log:"; tail -n 30 "$scratch/log" 2>/dev/null; }
	rm -rf "$scratch"
	exit $code
}
trap clean EXIT
trap 'exit 130' INT TERM

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
run() { printf '$ saltpeter %s\n' "$*"; "$bin" "$@"; }

mkdir "$scratch/jobs" "$scratch/home"
export SALTPETER_ADDR="unix://$scratch/sock" HOME="$scratch/home" XDG_STATE_HOME="$scratch/home"
cat >"$scratch/jobs/demo.yaml" <<'YAML'
greeting:
  command: for i in 1 2 3; do echo "hello number $i"; sleep 0.3; done
  sec: '*/3'
  min: '*'
  hour: '*'
  dom: '*'
  mon: '*'
  dow: '*'
  targets: '*'
YAML

say "A server on a scratch folder"
"$bin" serve -c "$scratch/jobs" --state-dir "$scratch/state" --socket "$scratch/sock" --machines-port 0 >"$scratch/log" 2>&1 &
server=$!
waited=0
until "$bin" version >/dev/null && "$bin" status >/dev/null 2>&1; do
	kill -0 "$server" 2>/dev/null || { echo "the server did not start"; exit 1; }
	waited=$((waited + 1))
	[ $waited -lt 100 ] || { echo "the server did not answer in 10 s"; exit 1; }
	sleep 0.1
done
run next greeting -c "$scratch/jobs" -n 3

say "The job fires by its schedule, and its output streams"
waited=0
until [ -n "$("$bin" history greeting -o json 2>/dev/null)" ]; do
	waited=$((waited + 1))
	[ $waited -lt 150 ] || { echo "nothing fired in 15 s"; exit 1; }
	sleep 0.1
done
run logs greeting -f

say "A job is added to the folder while the server runs"
cat >"$scratch/jobs/long.yaml" <<'YAML'
endless:
  command: |
    trap 'echo "I would rather not"' TERM
    setsid sleep 1000 &
    while :; do echo "still here"; sleep 0.5; done
  schedule: '@yearly'
  targets: '*'
  kill_grace: 1s
YAML
waited=0
until "$bin" status endless >/dev/null 2>&1; do
	waited=$((waited + 1))
	[ $waited -lt 50 ] || { echo "the new job was not seen in 5 s"; exit 1; }
	sleep 0.1
done
run run endless
sleep 1
run status endless

say "It ignores TERM and has a process that left its session: kill it"
run kill endless

say "What became of both"
run history -n 6
