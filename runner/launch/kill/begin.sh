# begin.sh: what comes before anything is touched.

# k_sight: whether processes may be hidden from us. PID 1 is another's nearly
# everywhere: who can read that can read all. Who owns PID 1 itself has to look at how /proc is mounted.
k_sight() {
	k_myuid=
	while read -r k_x k_y k_z; do
		[ "$k_x" = Uid: ] && k_myuid=$k_y
	done <self/status
	k_look 1 || k_vis=partial
	if [ $k_vis = full ] && [ "$k_myuid" != 0 ] && [ -O 1 ]; then
		while read -r k_x k_y k_z k_w; do
			case "$k_y $k_w," in
			# Of several mounts on one place the last is the one that is seen.
			'/proc '*hidepid=0* | '/proc '*hidepid=off*) k_vis=full ;;
			'/proc '*hidepid=*) k_vis=partial ;;
			'/proc '*) k_vis=full ;;
			esac
		done <self/mounts
	fi
	# Without a brand, processes of another user are known by an environment that
	# only that user and root can read.
	if [ "$k_myuid" != 0 ] && [ -z "$k_brand" ] && [ "$k_uid" ] && [ "$k_uid" != "$k_myuid" ]; then
		k_vis=partial
	fi
}

# k_discover: with only a cookie, or an older wrapper's PID, to go by, what that
# leads to makes the other nets, and is still known when the process has ended.
k_discover() {
	[ "$k_f" ] || return 0
	k_pid=${k_f%%:*} k_x=${k_f#*:}
	k_start=${k_x%%:*} k_x=${k_x#*:}
	k_sid=${k_x%%:*} k_x=${k_x#*:}
	k_brand=${k_x%%:*} k_parent=${k_x#*:}
	k_look "$k_pid" && [ "$s_start" = "$k_start" ] || return 0
	k_y=0
	while read -r k_x k_z k_w; do
		[ "$k_x" = Uid: ] && k_y=$k_z
	done <"$k_pid/status"
	k_found=$k_pid:$k_start:$k_sid:$k_y:$k_brand
	# The parent is taken for the wrapper only if its second argument says so: an
	# orphan's parent is init or a session manager, whose tree is everybody's.
	if [ "$k_older" ]; then
		k_wpid=${k_at%%:*} k_wstart=${k_at#*:} k_foundwrap=$k_at
	elif tr '\n\000' '\001\n' <"$k_parent/cmdline" | {
		read -r k_x
		read -r k_x && [ "$k_x" = wrap ]
	} && k_look "$k_parent"; then
		k_wpid=$k_parent k_wstart=$s_start
		k_foundwrap=$k_wpid:$k_wstart
	fi
	k_scan
}

k_begin() {
	k_myboot='' k_myns=''
	cd /proc && read -r k_myboot <sys/kernel/random/boot_id || {
		k_reason=no_proc k_vis=partial
		return 1
	}
	if [ "$k_boot" ] && [ "$k_boot" != "$k_myboot" ]; then
		k_outcome=gone k_reason=rebooted k_proof=rebooted
		return 1
	fi
	# Another /proc than that of our own PIDs names strangers.
	if ! k_look self || [ "${k_st%% *}" != $$ ]; then
		k_reason=no_proc k_vis=partial
		return 1
	fi
	k_born=$s_start
	# The kernel tells the number of an open file; older ones do not.
	while read -r k_x k_y; do
		[ "$k_x" = ino: ] && k_myns="pid:[$k_y]"
	done 3<self/ns/pid <self/fdinfo/3
	if [ -z "$k_myns" ]; then
		k_myns=$(readlink self/ns/pid) || k_myns=$(ls -l self/ns/pid) && k_myns=${k_myns##* }
	fi
	if [ "$k_ns" ] && [ "$k_ns" != "$k_myns" ]; then
		k_reason=pid_ns
		return 1
	fi
	case $k_sig in
	TERM | INT | QUIT | KILL) ;;
	*)
		# A subshell, since a trap that is refused ends the shell.
		if ! (trap : "$k_sig"); then
			k_reason=bad_signal
			return 1
		fi
		;;
	esac
	k_cookie='' k_older=''
	if [ "$k_task" ]; then
		k_cookie=SP_TASK=$k_task
	elif [ "$k_run" ]; then
		k_cookie=SP_JOB_INSTANCE=$k_run k_older=yes
	fi
	if [ -z "$k_cookie$k_brand" ] && { [ -z "$k_pid" ] || [ -z "$k_start" ]; }; then
		k_reason=nothing_known
		return 1
	fi
	[ "$k_op" != kill ] || k_swift
	k_sight
	k_awk='' k_frac=yes k_zgrep='' k_many=''
	[ "$SP_NOAWK" ] || { command -v awk >/dev/null && k_awk=yes; }
	[ "$(printf 'a\0b\0' | grep -zxF b | tr -d '\000')" = b ] && k_zgrep=yes
	set -- [0-9]*
	[ $# -lt 30000 ] || k_many=yes
	# The root of the hierarchy has no events file: it is nobody's own.
	[ "$k_cgroup" ] && [ -f "$k_cgroup/cgroup.procs" ] && [ -f "$k_cgroup/cgroup.events" ] && k_usecg=yes
	k_scan
	if [ "$k_seen" != 1 ]; then
		k_reason=no_proc k_vis=partial k_n=0
		return 1
	fi
	k_discover
}
