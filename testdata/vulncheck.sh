#!/bin/sh
# govulncheck, where it can reach its data. Without a network it cannot say
# anything: that is told, and is no failure. What it finds is one.
go=${1:-go}
out=$("$go" tool govulncheck ./... 2>&1)
code=$?
case $code in
0) echo "govulncheck: no known vulnerability is called" ;;
3) printf '%s\n' "$out"; exit 1 ;;
*) echo "govulncheck: left out, its data cannot be reached from here" ;;
esac
exit 0
