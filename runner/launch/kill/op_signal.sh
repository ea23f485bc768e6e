# op_signal.sh: the operation signal.

k_signal() {
	k_before=$k_n
	if [ "$k_scope" = main ]; then
		if [ "$k_main" = 0 ]; then
			k_check
			[ "$k_outcome" = gone ] || k_reason=no_main
			return
		fi
		k_list=$k_members k_members=
		for k_m in $k_list; do
			case $k_m in "$k_pid":*) k_members=$k_m ;; esac
		done
		k_each "$k_sig"
	elif [ $k_n = 0 ] && k_nobody; then
		k_gone
		return
	else
		k_each "$k_sig"
	fi
	k_acted=$k_took
	k_scan
	k_check
	[ $k_refused = 0 ] || k_reason=eperm
}
