# op_kill.sh: the operation kill.

# k_swift: the first signal of a kill, for the recorded main process and who is below
# it and its wrapper. Both may end by it, so what hangs by them alone is noted before:
# the trees as members, the session by the time of the signal. (A number that names a
# session is given to nobody while it does: who has it, and was born before the verified
# leader got the signal, belongs to it.) Where we, or the wrapper, are below, or the
# trees are large, a scan comes first.
k_swift() {
	[ -z "$k_older" ] && [ "$k_pid" ] && [ "$k_pid" -gt 1 ] && k_same "$k_pid" "$k_start" || return 0
	[ -r "$k_pid/task/$k_pid/children" ] || return 0
	[ "${k_sid:-$k_pid}" = "$k_pid" ] && [ "$s_sid" = "$k_pid" ] && k_led=yes
	k_members=$k_pid:$k_start:$s_state:0:
	k_x=$s_ppid k_u=
	[ "$k_wpid" ] && k_same "$k_wpid" "$k_wstart" && k_u=$k_wpid
	[ -z "$k_cgroup" ] || {
		k_above ' ' $k_x $k_u
		k_foreign "$k_cgroup" && k_cgroup=
	}
	k_tree "$k_pid" $k_u || {
		k_members='' k_led=''
		return 0
	}
	k_begun
	for k_m in $k_members; do
		k_split "$k_m"
		k_hit "$m_pid" "$m_start" "$k_sig" || continue
		kill -s CONT "$m_pid"
		k_told="$k_told$m_pid:$m_start "
		k_acted=$((k_acted + 1))
	done
	[ $k_acted = 0 ] || k_swift=yes k_phase=term
	case $k_told in
	" $k_pid:"*) k_led=${k_led:+$k_t0} ;;
	*) k_led='' ;;
	esac
}

# k_tree PID...: puts who is below into k_members. 1: that must not be, or is too much.
k_tree() {
	k_i=0
	while [ $# -gt 0 ]; do
		for k_x in "$1"/task/*/children; do
			k_i=$((k_i + 1)) k_kids=
			[ $k_i -lt 64 ] || return 1
			read -r k_kids <"$k_x"
			for p in $k_kids; do
				k_i=$((k_i + 1))
				[ $k_i -lt 64 ] && [ "$p" != $$ ] && [ "$p" != "$k_wpid" ] || return 1
				# Who is another's child by now is another process.
				[ "$p" != "$k_pid" ] && k_look "$p" && [ "$s_ppid" = "$1" ] && k_lives || continue
				k_members="$k_members $p:$s_start:$s_state:0:"
				set -- "$@" "$p"
			done
		done
		shift
	done
}

# k_above PIDS PID...: adds each and its ancestors to those, in k_up.
k_above() {
	k_up=$1
	shift
	for p in "$@"; do
		while [ "$p" != 0 ]; do
			k_up="$k_up$p "
			k_look "$p" && p=$s_ppid || p=0
		done
	done
}

# k_foreign CGROUP: whether one of k_up sits in it or below.
k_foreign() {
	while read -r p; do
		case $k_up in *" $p "*) return 0 ;; esac
	done <"$1/cgroup.procs"
	for k_d in "$1"/*/; do
		[ -f "${k_d}cgroup.procs" ] && k_foreign "${k_d%/}" && return 0
	done
	return 1
}

# k_wait UNTIL: until nobody is there (0) or the time has come (1). Who was seen is
# looked at without a fork; only when all of them have ended is there a new scan,
# which finds what they started meanwhile. Of those only who was born before the kill gets
# the signal.
k_wait() {
	k_len=1
	while :; do
		k_there=
		for k_m in $k_members; do
			k_split "$k_m"
			if k_same "$m_pid" "$m_start"; then
				k_there=1
				break
			fi
		done
		if [ -z "$k_there" ]; then
			k_scan
			k_nobody && return 0
			for k_m in $k_members; do
				k_split "$k_m"
				[ "$m_start" -ge "$k_t0" ] || { k_hit "$m_pid" "$m_start" "$k_sig" && kill -s CONT "$m_pid"; }
			done
		fi
		k_clock
		[ "$k_now" -lt "$1" ] || return 1
		k_x=$(($1 - k_now))
		[ $k_x -lt $k_len ] || k_x=$k_len
		k_nap $k_x
		[ $k_len -ge 20 ] || k_len=$((k_len * 2))
	done
}

k_kill() {
	k_before=$k_n
	if [ "$k_swift" ]; then
		k_before=$k_acted
		for k_m in $k_members; do
			k_split "$k_m"
			k_passed || k_before=$((k_before + 1))
		done
	else
		k_begun
	fi
	if [ "$k_n" = 0 ] && k_nobody; then
		k_gone
		return
	fi
	[ $k_before -gt 0 ] || k_before=$k_n
	k_phase=term
	k_thaw
	k_each "$k_sig" CONT
	k_acted=$((k_acted + k_took))
	if [ $k_acted -gt 0 ] || [ $k_refused = 0 ]; then
		k_clock
		k_wait $((k_now + k_grace)) && {
			k_gone
			return
		}
	fi
	k_phase=kill k_swift=
	k_clock
	k_until=$((k_now + k_hard)) k_len=1
	while :; do
		[ -z "$k_usecg" ] || echo 1 >"$k_cgroup/cgroup.kill"
		k_scan
		k_nobody KILL && {
			k_gone
			return
		}
		k_each KILL
		# Nothing more can be done to those who are left, waiting would not help.
		[ $k_took = 0 ] && [ $k_refused -gt 0 ] && [ $k_refused = "$k_n" ] && break
		k_clock
		[ "$k_now" -lt $k_until ] || break
		k_nap $k_len
		[ $k_len -ge 20 ] || k_len=$((k_len * 2))
	done
	k_alive
}
