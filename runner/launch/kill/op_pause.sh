# op_pause.sh: the operations pause and resume.

# k_pause: the cgroup is frozen, who is outside it is stopped; never both to one,
# since its own stop would then be undone by our resume.
k_pause() {
	k_before=$k_n
	if [ "$k_n" = 0 ] && k_nobody; then
		k_gone
		return
	fi
	k_frozen=
	k_clock
	k_until=$((k_now + 200))
	if [ "$k_usecg" ] && echo 1 >"$k_cgroup/cgroup.freeze"; then
		k_frozen=1
		while k_event frozen && [ "$k_v" != 1 ] && [ "$k_now" -lt $k_until ]; do
			k_nap 1
			k_clock
		done
	fi
	# Who waits in the kernel (the parent of a vfork whose child is stopped, say) stops
	# before it runs another line of its own: once told, it counts as stopped.
	k_told=' '
	k_calm=0
	while [ $k_calm -lt 2 ]; do
		k_new=0 k_acted=0 k_refused=0
		for k_m in $k_members; do
			k_split "$k_m"
			case $k_frozen$m_cg$m_state in
			11* | *[Tt]) k_acted=$((k_acted + 1)) ;;
			*)
				case $m_state$k_told in
				D*" $m_pid:$m_start "*)
					k_acted=$((k_acted + 1))
					continue
					;;
				esac
				k_hit "$m_pid" "$m_start" STOP
				case $? in
				0) k_new=$((k_new + 1)) k_told="$k_told$m_pid:$m_start " ;;
				1) k_refused=$((k_refused + 1)) ;;
				esac
				;;
			esac
		done
		[ $k_new = 0 ] && k_calm=$((k_calm + 1)) || k_calm=0
		k_clock
		[ "$k_now" -lt $((k_until + 300)) ] || break
		k_scan
	done
	k_check
	if [ $k_refused != 0 ]; then
		k_reason=eperm
	elif [ $k_calm -lt 2 ]; then
		k_reason=pending
	fi
}

# k_untimer: nobody thaws any more what is paused now. A timer is known by its
# environment; without its sleep it ends.
k_untimer() {
	k_keep=$k_cookie k_cookie=SP_THAW=${k_task:-$k_run}
	for p in $(k_environs); do
		p=${p%/environ}
		k_look "$p" || continue
		k_x=$s_start
		case " $(k_environs) " in *"$p/environ"*) k_hit "$p" "$k_x" KILL ;; esac
	done
	k_cookie=$k_keep
}

# k_timer: a process that belongs to nobody, and is in no net of the job, lets go of
# those who are paused now when the time is over, whoever is there then. It is a
# second late: a server that is there comes before it. It is a program of its own,
# since a subshell would hold the caller's pipes open until then.
k_thawer='
list=$(cat)
sleep "$k_late" </dev/null || exit
[ -z "$k_freezer" ] || echo 0 >"$k_freezer/cgroup.freeze"
echo "$list" | while read -r pid start; do
	stat=
	while IFS= read -r l; do stat=$stat$l; done <"/proc/$pid/stat" || continue
	set -- ${stat##*") "}
	[ "${20}" = "$start" ] && kill -s CONT "$pid"
done'
k_timer() {
	for k_m in $k_members; do
		k_split "$k_m"
		echo "$m_pid $m_start"
	done | SP_THAW=${k_task:-$k_run} k_late=$(((k_ttl + 199) / 100)) k_freezer=${k_frozen:+$k_cgroup} \
		sh -c "$k_thawer" >/dev/null &
}

k_resume() {
	k_before=$k_n
	if [ "$k_n" = 0 ] && k_nobody; then
		k_gone
		return
	fi
	k_v=
	if [ "$k_usecg" ]; then
		k_event frozen
		k_thaw
	fi
	# What stopped itself inside a cgroup that we froze stays as it was.
	k_list=$k_members k_members=
	for k_m in $k_list; do
		k_split "$k_m"
		case $k_v$m_cg in
		11) k_acted=$((k_acted + 1)) ;;
		*) k_members="$k_members $k_m" ;;
		esac
	done
	k_each CONT
	k_acted=$((k_acted + k_took))
	k_scan
	k_check
	[ $k_refused = 0 ] || k_reason=eperm
}
