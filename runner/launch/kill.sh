#!/bin/sh
# kill.sh: the other road. It runs on the machine of a task under `sh -s`, read
# from standard input: the caller's assignments (k_op, k_pid, k_brand, ...) come
# first, then this one function, then its call. A link that is cut in the middle
# leaves a function that nobody calls. It needs a POSIX shell, cat, grep and
# /proc; awk makes it fast, and a sleep with fractions makes it prompt, but it
# works without either. Nothing of the task appears in an argument list: patterns
# go by pipe, values by environment, paths by redirection.
#
# What it promises:
#  - No PID is signalled for its number. Every process found is named by PID and
#    start time, and its start time is read again right before each signal.
#    Another boot id, or other PIDs than the recorded ones (namespace): no signal.
#  - The members of a task are the union of nets, since each has holes: the trees
#    below the verified main process and wrapper, the task's cgroup, the brand
#    (field 25 of stat, compared as text: awk would round it), the session while
#    its verified leader is there, the exact cookie in the environment, whatever
#    descends from one of those, and whoever this call has found before.
#  - Never signalled: its own ancestors and helpers, the wrapper (the one who
#    reports must live), the ancestors of the main process.
#  - "gone" is said after two scans in a row found nobody and a look at the
#    newest PIDs found no chain of forks that runs ahead of the scans, and never
#    where processes may be hidden from us.
#  - Command names are hostile text: they may hold ") S 1" and line breaks. A
#    record of stat is complete when enough numbers follow its last parenthesis,
#    which no name is long enough to imitate; names leave here percent-encoded.
#  - HUP and PIPE are ignored: a kill goes on when the link that asked is cut.
#
# The main process that was recorded, and who is below it, get the first signal
# before all of /proc is read (k_swift): that takes longer the more processes a
# machine has, and this takes no program at all.
#
# Order in a scan: stat of all first, then environments and cgroup. What was born
# between the two has no start time and is left to the next scan; a PID that
# changed hands in between fails the comparison before the signal.
#
# Its answer is one line, `SPR key=value ... done=1`, in the order of answer.go.
#
# Its functions are in kill/, and only what an operation needs is sent.

k_all() {

LC_ALL=C
export LC_ALL
PATH=${PATH:-/usr/local/sbin:/usr/local/bin}:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
unset IFS
set +e +u
trap '' HUP PIPE

k_outcome=unknown k_reason='' k_phase='' k_proof='' k_before=0 k_acted=0
k_vis=full k_left='' k_found='' k_foundwrap='' k_end=''
k_n=0 k_members='' k_main=0 k_wrap=0 k_reused=0 k_again=0 k_cg=0 k_maybe='' k_now=0 k_napped=0
k_gen=0 k_usecg='' k_chased='' k_chasedcomm='' k_breeds='' k_seen=0 k_f=''
k_swift='' k_told=' ' k_led=''

# PARTS

# Who waits knows from here on that somebody is at work.
printf '\nSPB mark=%s\n' "$k_mark"
if k_begin; then
	case $k_op in
	check) k_check ;;
	kill) k_kill ;;
	signal) k_signal ;;
	pause)
		k_untimer
		k_pause
		[ -z "$k_ttl" ] || [ "$k_outcome" = gone ] || k_timer
		;;
	resume)
		k_untimer
		k_resume
		;;
	esac
fi
k_say
}

k_all </dev/null 2>/dev/null
