# process.sh: what a process is, and how one is signalled.

# k_look PID: reads its stat without a fork, since it runs once per signal.
# s_c keeps the command name as it is.
k_look() {
	k_st=
	while IFS= read -r k_l; do
		k_st="$k_st$k_l
"
	done <"$1/stat" || return 1
	case $k_st in
	*') '*) ;;
	*) return 1 ;;
	esac
	s_c=${k_st#*'('}
	s_c=${s_c%') '*}
	# Only numbers and one letter follow the last parenthesis: splitting is safe.
	set -- ${k_st##*') '}
	[ $# -gt 30 ] || return 1
	s_state=$1 s_ppid=$2 s_sid=$4 s_nth=${18} s_start=${20} s_rss=${23}
}

# k_same PID START: that very process is there and not dead. A zombie leader
# with living threads is alive.
k_same() {
	k_look "$1" && [ "$s_start" = "$2" ] && k_lives
}

# k_lives: whether who was looked at last does.
k_lives() {
	case $s_state in
	[ZXx]) [ "$s_nth" -gt 1 ] ;;
	esac
}

# k_hit PID START SIGNAL: 0 taken, 1 refused, 2 not there any more.
k_hit() {
	k_same "$1" "$2" || return 2
	kill -s "$3" "$1" && return 0
	k_same "$1" "$2" && return 1
	return 2
}

# k_clock: centiseconds since boot in k_now. The wall clock may jump, this does not.
k_clock() {
	if read -r k_up k_x <uptime; then
		k_now=${k_up%.*}${k_up#*.}
		k_now=${k_now#"${k_now%%[!0]*}"}
		k_now=${k_now:-0}
	else
		k_now=$((k_now + k_napped))
	fi
}

# k_begun: the time of the first signal in k_t0, by the clock of start times. A
# container may be told another uptime than that, and we were born before.
k_begun() {
	k_clock
	k_t0=$k_now
	[ "$k_t0" -ge "$k_born" ] || k_t0=$k_born
}

# k_nap CENTISECONDS: at least that long, a second where sleep takes no fractions.
k_nap() {
	k_napped=$1
	if [ "$k_frac" ]; then
		k_x=$(($1 % 100))
		[ $k_x -gt 9 ] || k_x=0$k_x
		sleep "$(($1 / 100)).$k_x" && return 0
		k_frac=
	fi
	k_napped=100
	sleep 1
}

k_split() { # MEMBER: m_pid, m_start, m_state, m_cg, m_comm
	m_pid=${1%%:*} k_x=${1#*:}
	m_start=${k_x%%:*} k_x=${k_x#*:}
	m_state=${k_x%%:*} k_x=${k_x#*:}
	m_cg=${k_x%%:*} m_comm=${k_x#*:}
}

# k_passed: whether a swift signal has reached this member, or went out before it was
# born: the children of a handler that cleans up are to finish their work.
k_passed() {
	[ "$k_swift" ] || return 1
	case $k_told in *" $m_pid:$m_start "*) return 0 ;; esac
	[ "$m_start" -ge "$k_t0" ]
}

# k_each SIGNAL [CONT]: every member gets it once. k_took and k_refused count.
k_each() {
	k_took=0 k_refused=0
	for k_m in $k_members; do
		k_split "$k_m"
		k_passed && continue
		k_hit "$m_pid" "$m_start" "$1"
		case $? in
		0)
			k_took=$((k_took + 1))
			# Stopped processes act on the signal only once they go on.
			[ -z "$2" ] || kill -s CONT "$m_pid"
			;;
		1) k_refused=$((k_refused + 1)) ;;
		esac
	done
}

# k_thaw: the cgroup goes on.
k_thaw() { [ -z "$k_usecg" ] || echo 0 >"$k_cgroup/cgroup.freeze"; }

k_event() { # KEY: its value in cgroup.events, in k_v
	k_v=
	while read -r k_x k_y; do
		[ "$k_x" = "$1" ] && k_v=$k_y
	done <"$k_cgroup/cgroup.events"
}
