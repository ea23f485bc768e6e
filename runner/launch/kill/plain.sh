# plain.sh: the nets where there is no awk.

# The same scan in the shell alone: a variable per process and property, marked
# with the number of the scan, since there is no other array here. k_G: seen, k_K: spared,
# k_M: member. k_W is the start time of who was one before.
k_scansh() {
	k_gen=$((k_gen + 1)) k_pids='' k_seen=0 k_m=''
	for p in [0-9]*; do
		k_look "$p" || continue
		k_dead=0
		case $s_state in
		[ZXx]) [ "$s_nth" -gt 1 ] || k_dead=1 ;;
		esac
		eval "k_G$p=$k_gen k_T$p=$s_start k_P$p=$s_ppid k_S$p=$s_sid k_R$p=$s_rss k_D$p=$k_dead k_Z$p=$s_state k_C$p=\$s_c"
		k_pids="$k_pids $p"
	done
	k_env=' '
	for p in $(k_environs); do k_env="$k_env${p%/environ} "; done
	k_cgp=' '
	for p in $(k_cgpids); do
		# 0 stands for who is in no PID namespace that we can see.
		[ "$p" = 0 ] || k_cgp="$k_cgp$p "
	done
	for k_y in $k_members; do
		k_split "$k_y"
		eval "k_W$m_pid=$m_start"
	done
	k_again=0 k_main=0 k_wrap=0 k_reused=0 k_cg=1 k_maybe='' k_mp='' k_wp=''
	k_spareup $$
	k_is G $$ && k_seen=1
	eval "k_K1=$k_gen"
	if [ "$k_pid" ] && k_is G "$k_pid"; then
		eval "k_x=\$k_T$k_pid"
		if [ "$k_start" ]; then
			[ "$k_x" = "$k_start" ] && k_mp=$k_pid
		elif [ "$k_older" ]; then
			case $k_env in *" $k_pid "*) k_mp=$k_pid ;; esac
		fi
		[ "$k_mp" ] || [ -z "$k_known" ] || k_reused=1
	fi
	if [ "$k_wpid" ] && k_is G "$k_wpid"; then
		eval "k_x=\$k_T$k_wpid:\$k_D$k_wpid"
		[ "$k_x" = "$k_wstart:0" ] && k_wp=$k_wpid
	fi
	if [ "$k_mp" ]; then
		eval "k_x=\$k_P$k_mp k_main=\$((1 - k_D$k_mp))"
		if [ "$k_older" ] && [ -z "$k_wp" ]; then
			case $k_env in *" $k_x "*) k_wp=$k_x ;; esac
		fi
		k_spareup "$k_x"
	fi
	[ -z "$k_wp" ] || k_spareup "$k_wp"
	[ -z "$k_older" ] || [ "$k_mp" ] || k_spareolder
	[ -z "$k_wp" ] || k_wrap=1
	for p in $k_cgp; do k_is K "$p" && k_cg=0; done
	[ "$k_cg" = 1 ] || k_cgp=' '
	for p in $k_env $k_cgp; do
		k_is G "$p" || k_is K "$p" || k_again=1
	done
	# Own helpers come and go as children of this shell.
	k_grew=1
	while [ "$k_grew" ]; do
		k_grew=
		for p in $k_pids; do
			k_is M "$p" || k_is K "$p" || ! k_belongs "$p" || {
				eval "k_M$p=$k_gen"
				k_m="$k_m $p"
				k_grew=1
			}
		done
	done
	k_report
}

# k_is MARK PID: whether this scan has set that mark.
k_is() { eval "[ \"\$k_$1$2\" = $k_gen ]"; }

k_spareup() {
	k_u=$1
	while k_is G "$k_u" && ! k_is K "$k_u"; do eval "k_K$k_u=$k_gen k_u=\$k_P$k_u"; done
}

k_spareolder() {
	k_first='' k_fborn=''
	for p in $k_env; do
		k_is G "$p" && ! k_is K "$p" || continue
		eval "k_x=\$k_T$p k_d=\$k_D$p k_u=\$k_P$p"
		[ "$k_d" = 0 ] || continue
		if [ "$k_start" ]; then
			[ "$k_x" -lt "$k_start" ] && eval "k_K$p=$k_gen" && k_wp=$p
			continue
		fi
		case $k_env in *" $k_u "*) continue ;; esac
		if [ -z "$k_first" ] || [ "$k_x" -lt "$k_fborn" ] || { [ "$k_x" = "$k_fborn" ] && [ "$p" -lt "$k_first" ]; }; then
			k_first=$p k_fborn=$k_x
		fi
	done
	[ "$k_first" ] || return 0
	eval "k_K$k_first=$k_gen k_x=\$k_Z$k_first k_u=\$k_C$k_first"
	k_y=$k_x
	k_enc "$k_u"
	k_maybe="$k_first:$k_fborn:$k_y:0:$k_e"
}

# k_belongs PID: whether a net, or a member that is its parent, holds it.
k_belongs() {
	eval "k_u=\$k_P$1 k_x=\$k_S$1 k_y=\$k_R$1 k_d=\$k_T$1 k_was=\$k_W$1"
	[ "$k_u" != $$ ] || return 1
	k_is M "$k_u" && return 0
	[ "$1" = "$k_mp" ] && return 0
	[ "$k_wp" ] && [ "$k_u" = "$k_wp" ] && return 0
	[ "$k_was" = "$k_d" ] && return 0
	[ "$k_brand" ] && [ "$k_y" = "$k_brand" ] && return 0
	[ "$k_mp" ] && [ "$k_x" = "$k_mp" ] && [ "${k_sid:-$k_mp}" = "$k_mp" ] && return 0
	[ "$k_led" ] && [ -z "$k_mp" ] && [ "$k_x" = "$k_pid" ] && [ "$k_d" -lt "$k_led" ] && return 0
	case $k_env$k_cgp in *" $1 "*) return 0 ;; esac
	return 1
}

# k_report prints what awk would have printed, into k_out.
k_report() {
	k_out='' k_n=0 k_f='' k_fborn=''
	for p in $k_m; do
		eval "k_d=\$k_D$p k_u=\$k_C$p k_y=$p:\$k_T$p:\$k_Z$p"
		[ "$k_d" = 0 ] || continue
		k_n=$((k_n + 1))
		k_enc "$k_u"
		k_in=0
		case $k_cgp in *" $p "*) k_in=1 ;; esac
		k_out="$k_out$k_y:$k_in:$k_e
"
		[ "$k_known" ] && continue
		eval "k_u=\$k_P$p k_x=\$k_T$p k_y=\$k_R$p"
		case $k_env in *" $k_u "*) continue ;; *" $p "*) ;; *) continue ;; esac
		[ -z "$k_fborn" ] || [ "$k_x" -lt "$k_fborn" ] || continue
		case ${#k_y}$k_y in 19[456]*) ;; *) k_y='' ;; esac
		k_fborn=$k_x
		eval "k_f=$p:\$k_T$p:\$k_S$p:$k_y:\$k_P$p"
	done
	k_at=
	if [ "$k_older" ]; then
		[ -z "$k_wp" ] || eval "k_at=$k_wp:\$k_T$k_wp"
		[ -z "$k_mp" ] || [ "$k_start" ] || eval "k_f=$k_mp:\$k_T$k_mp:\$k_S$k_mp::\$k_P$k_mp"
	fi
	k_out="$k_out| n=$k_n main=$k_main wrap=$k_wrap reused=$k_reused again=$k_again cg=$k_cg maybe=$k_maybe at=$k_at found=$k_f self=$k_seen"
}
