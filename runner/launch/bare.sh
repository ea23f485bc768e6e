#!/bin/sh
# bare.sh: a command without a wrapper. It runs on the machine under `sh -s`, read from
# standard input behind its assignments: it says who it is, waits for one line there,
# and becomes the command, under the same PID. The end of its input instead of that line
# means that nobody has recorded it: it ends without having run anything.
w_all() {
w_no() {
	printf '\nSPW mark=%s no=%s\n' "$w_mark" "$1"
	exit 97
}
[ ! "$w_cwd" ] || cd -- "$w_cwd" || w_no cwd
w_uid=$(id -u)
set --
if [ "$w_user" ] && [ "$w_user" != "$(id -un)" ]; then
	w_uid=$(id -u "$w_user") || w_no user
	w_gid=$(id -g "$w_user") || w_no user
	[ "$(id -u)" = 0 ] || w_no root
	command -v setpriv >/dev/null || w_no setpriv
	HOME=$(getent passwd "$w_user" | cut -d: -f6)
	HOME=${HOME:-/} USER=$w_user LOGNAME=$w_user
	export HOME USER LOGNAME
	set -- setpriv "--reuid=$w_uid" "--regid=$w_gid" --init-groups
fi
if [ "$w_lock" ]; then
	command -v flock >/dev/null || w_no flock
	exec 9>>"$w_lock" || w_no lock
	flock -n 9 || [ "$w_overlap" ] || w_no held
fi
read -r w_boot </proc/sys/kernel/random/boot_id || w_no proc
w_ns=$(readlink /proc/self/ns/pid)
read -r w_st </proc/$$/stat || w_no proc
w_st=${w_st##*') '}
# state ppid pgrp session … : the start time is the 20th behind the name
w_sid=$(printf '%s\n' "$w_st" | cut -d' ' -f4)
w_start=$(printf '%s\n' "$w_st" | cut -d' ' -f20)
printf '\nSPW mark=%s pid=%s start=%s sid=%s uid=%s boot=%s ns=%s\n' "$w_mark" "$$" "$w_start" "$w_sid" "$w_uid" "$w_boot" "$w_ns"
w_go=
read -r w_go
[ "$w_go" = "$w_mark" ] || exit 97
exec "$@" /bin/sh -c "$w_command" sh </dev/null
}
w_all
