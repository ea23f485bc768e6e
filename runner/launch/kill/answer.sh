# answer.sh: what is said in the end.

# k_enc TEXT: percent-encoded, in k_e.
k_enc() {
	k_e='' k_r=$1
	while [ "$k_r" ] && [ ${#k_e} -lt 64 ]; do
		k_t=${k_r#?}
		k_x=${k_r%"$k_t"}
		k_r=$k_t
		case $k_x in
		[A-Za-z0-9._/@+-]) k_e=$k_e$k_x ;;
		*)
			k_x=$(printf %02X "'$k_x")
			k_e=$k_e%${k_x#"${k_x%??}"}
			;;
		esac
	done
}

# k_check: says who is there now, by the last scan.
k_check() {
	[ $k_before -gt 0 ] || k_before=$k_n
	if [ "$k_n" = 0 ] && k_nobody; then
		k_gone
	else
		k_alive
	fi
}

k_gone() {
	if [ "$k_maybe" ]; then
		k_outcome=unknown k_reason=maybe_wrapper k_proof=''
		k_n=1 k_members=$k_maybe
		k_list_left maybe_wrapper
	elif [ $k_vis = partial ]; then
		k_outcome=unknown k_reason=partial
	else
		k_outcome=gone k_reason='' k_proof=scan
		k_empty
		case $k_v in
		0) k_proof=cgroup ;;
		1) k_outcome=unknown k_reason=partial k_proof='' ;;
		esac
	fi
}

# k_empty: what the kernel says of the cgroup, in k_v: 0 empty, 1 not, nothing if there is
# none. Who has just died counts for a moment longer.
k_empty() {
	k_v='' k_tries=0
	[ "$k_usecg" ] || return 0
	while k_event populated && [ "$k_v" = 1 ] && [ $k_tries -lt 50 ]; do
		k_nap 1
		k_tries=$((k_tries + 1))
	done
}

k_alive() {
	k_outcome=alive
	k_list_left
	case $k_op$k_cgfrozen in
	kill*)
		k_reason=$k_worst
		[ -z "$k_breeds" ] || k_reason=breeding
		;;
	check1) k_reason=frozen ;;
	esac
}

# k_list_left [REASON]: names the first of those who are left, with why.
k_list_left() {
	k_left='' k_worst='' k_v=
	[ -z "$k_usecg" ] || k_event frozen
	k_cgfrozen=$k_v k_count=0
	for k_m in $k_members; do
		k_split "$k_m"
		k_y=$1
		case $k_op$1 in
		kill)
			k_y=pending
			case $m_state in D) k_y=uninterruptible ;; esac
			[ "$k_cgfrozen$m_cg" = 11 ] && k_y=frozen
			k_v1frozen "$m_pid" && k_y=frozen
			k_same "$m_pid" "$m_start" && ! kill -s 0 "$m_pid" && k_y=eperm
			;;
		check)
			case $m_state in D) k_y=uninterruptible ;; esac
			;;
		esac
		k_worst=${k_worst:-$k_y}
		k_left="$k_left${k_left:+,}$m_pid:$m_state:$k_y:$m_comm"
		k_count=$((k_count + 1))
		[ $k_count -lt 32 ] || break
	done
}

# k_v1frozen PID: whether it sits in a frozen cgroup of the old freezer.
k_v1frozen() {
	k_cgv1=
	while IFS=: read -r k_x k_z k_w; do
		[ "$k_z" = freezer ] && k_cgv1=$k_w
	done <"$1/cgroup"
	[ "$k_cgv1" ] && [ "$k_cgv1" != / ] || return 1
	k_z=
	read -r k_z <"/sys/fs/cgroup/freezer$k_cgv1/freezer.state"
	case $k_z in FROZEN | FREEZING) return 0 ;; esac
	return 1
}

# k_say prints the one line that counts.
k_say() {
	if [ "$k_endfile" ] && [ -f "$k_endfile" ]; then
		k_end=$(od -An -v -tx1 -N 16384 <"$k_endfile" | tr -d ' \n')
	fi
	[ "$k_outcome" != gone ] || k_n=0 k_left=''
	[ $k_reused = 1 ] && k_reused=yes || k_reused=no
	[ $k_main = 1 ] && k_main=yes || k_main=no
	[ $k_wrap = 1 ] && k_wrap=yes || k_wrap=no
	k_enc "$k_myns"
	# An empty line first: a login's prompt may stand without its end.
	printf '\nSPR mark=%s op=%s outcome=%s reason=%s phase=%s proof=%s before=%s alive=%s acted=%s vis=%s reused=%s main=%s wrap=%s left=%s found=%s foundwrap=%s boot=%s ns=%s end=%s done=1\n' \
		"$k_mark" "$k_op" "$k_outcome" "$k_reason" "$k_phase" "$k_proof" "$k_before" "$k_n" "$k_acted" "$k_vis" \
		"$k_reused" "$k_main" "$k_wrap" "$k_left" "$k_found" "$k_foundwrap" "$k_myboot" "$k_e" "$k_end"
}
