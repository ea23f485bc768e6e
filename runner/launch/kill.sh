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

# --- what a process is -------------------------------------------------------

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

# --- the nets ----------------------------------------------------------------

# With very many processes one command line would not hold all their names.
k_stats() {
	if [ "$k_many" ]; then
		for k_d in 0 1 2 3 4 5 6 7 8 9; do cat *"$k_d"/stat; done
	else
		cat [0-9]*/stat
	fi
}

k_grep() {
	if [ "$k_many" ]; then
		for k_d in 0 1 2 3 4 5 6 7 8 9; do printf '%s\n' "$k_cookie" | grep "$@" -f - *"$k_d"/environ; done
	else
		printf '%s\n' "$k_cookie" | grep "$@" -f - [0-9]*/environ
	fi
}

# k_environs: PID/environ of all that carry the exact cookie. A grep that knows
# lines ended by NUL decides by itself; else a look for the text comes first and
# the few that have it are compared variable by variable (x-1 is no x-11).
k_environs() {
	[ "$k_cookie" ] || return 0
	if [ "$k_zgrep" ]; then
		k_grep -lszxF
		return 0
	fi
	k_grep -lsF | while read -r k_f; do
		tr '\n\000' '\001\n' <"$k_f" | {
			while IFS= read -r k_l; do
				[ "$k_l" = "$k_cookie" ] && exit 0
			done
			exit 1
		} && echo "$k_f"
	done
}

# k_cgpids: the PIDs in the task's cgroup and those below it.
k_cgpids() {
	[ "$k_usecg" ] || return 0
	(cd "$k_cgroup" && find . -name cgroup.procs -exec cat {} +)
}

# The scan in awk. It prints facts, a bar, then members as
# PID:START:STATE:IN_CGROUP:COMMAND.
k_prog='
function enc(s,   i, c, out) {
	out = ""
	for (i = 1; i <= length(s) && i <= 64; i++) {
		c = substr(s, i, 1)
		if (c ~ /[A-Za-z0-9._\/@+-]/) out = out c
		else out = out ((c in ord) ? sprintf("%%%02X", ord[c]) : "_")
	}
	return out
}
function record(rec,   n, f, head, i, p) {
	n = match(rec, /\)[^)]*$/)
	if (!n || split(substr(rec, n + 1), f, " ") < 31) return 0
	head = substr(rec, 1, n - 1)
	i = index(head, " (")
	p = substr(head, 1, i - 1)
	if (p !~ /^[0-9]+$/) return 1
	st[p] = f[1]; pp[p] = f[2]; sid[p] = f[4]; nth[p] = f[18]; born[p] = f[20]; rss[p] = f[23]
	comm[p] = substr(head, i + 2)
	kids[f[2]] = kids[f[2]] " " p
	return 1
}
function alive(p) { return !(st[p] ~ /^[ZXx]$/ && nth[p] <= 1) }
function add(p) {
	if (!(p in st)) { if (!(p in spare)) again = 1; return }
	if (p in member || p in spare || p + 0 <= 1) return
	member[p] = 1; queue[++last] = p
}
function spareup(p) { for (; (p in st) && !(p in climbed); p = pp[p]) { spare[p] = 1; climbed[p] = 1 } }
function sparedown(p,   q, n, i, k, at, end) {
	q[end = 1] = p
	for (at = 1; at <= end; at++) {
		n = split(kids[q[at]], k, " ")
		for (i = 1; i <= n; i++) if (!(k[i] in below)) { below[k[i]] = 1; spare[k[i]] = 1; q[++end] = k[i] }
	}
}
function addkids(p,   n, i, k) {
	n = split(kids[p], k, " ")
	for (i = 1; i <= n; i++) add(k[i])
}
BEGIN {
	for (i = 1; i < 256; i++) ord[sprintf("%c", i)] = i
	self = ENVIRON["k_self"]; pid = ENVIRON["k_pid"]; start = ENVIRON["k_start"]; s = ENVIRON["k_sid"]
	wpid = ENVIRON["k_wpid"]; wstart = ENVIRON["k_wstart"]; brand = ENVIRON["k_brand"]
	older = ENVIRON["k_older"]; known = ENVIRON["k_known"]; led = ENVIRON["k_led"]
}
!nets {
	if (buf == "" && $0 == "=") { nets = 1; next }
	buf = (buf == "") ? $0 : buf "\n" $0
	if (record(buf) || buf !~ /^[0-9]+ \(/ || length(buf) > 8192) buf = ""
	next
}
/^[0-9]+\/environ$/ { sub(/\/environ$/, ""); env[$0] = 1; next }
/^[1-9][0-9]*$/ { cg[$0] = 1; next }
/^[1-9][0-9]*:[0-9]+:/ { split($0, part, ":"); was[part[1]] = part[2] }
END {
	spareup(self); sparedown(self); spare[1] = 1
	main = ""; wrap = ""
	if (pid in st) {
		if (start != "" ? ("x" born[pid]) == ("x" start) : (older != "" && (pid in env))) main = pid
		else if (known != "") reused = 1
	}
	if (wpid != "" && (wpid in st) && ("x" born[wpid]) == ("x" wstart) && alive(wpid)) wrap = wpid
	if (older != "" && wrap == "" && main != "" && (pp[main] in env)) wrap = pp[main]
	if (main != "") spareup(pp[main])
	if (wrap != "") spareup(wrap)
	if (older != "" && main == "") {
		# The older wrapper carries the cookie as well, and was born before its job.
		first = ""
		for (p in env) if ((p in st) && alive(p) && !(p in spare)) {
			if (start != "") { if (born[p] + 0 < start + 0) { spare[p] = 1; wrap = p } }
			else if (!(pp[p] in env) && (first == "" || born[p] + 0 < born[first] + 0 || (born[p] + 0 == born[first] + 0 && p + 0 < first + 0))) first = p
		}
		if (first != "") { spare[first] = 1; maybe = first ":" born[first] ":" st[first] ":0:" enc(comm[first]) }
	}
	cgok = 1
	for (p in cg) if (p in spare) cgok = 0
	if (main != "") add(main)
	if (wrap != "") addkids(wrap)
	if (main != "" && (s == main || (s == "" && sid[main] == main))) for (p in st) if (sid[p] == main) add(p)
	if (main == "" && led != "") for (p in st) if (sid[p] == pid && born[p] + 0 < led + 0) add(p)
	for (p in was) if ((p in st) && ("x" born[p]) == ("x" was[p])) add(p)
	if (brand != "") for (p in st) if (("x" rss[p]) == ("x" brand)) add(p)
	for (p in env) add(p)
	if (cgok) for (p in cg) add(p)
	for (at = 1; at <= last; at++) addkids(queue[at])
	n = 0; list = ""
	found = ""
	for (at = 1; at <= last; at++) {
		p = queue[at]
		if (!alive(p)) continue
		n++
		print p ":" born[p] ":" st[p] ":" ((p in cg) ? 1 : 0) ":" enc(comm[p])
		if (known == "" && (p in env) && !(pp[p] in env) && (found == "" || born[p] + 0 < born[found] + 0)) found = p
	}
	# An older wrapper said only a PID: what that is now is kept from here on.
	if (older != "" && start == "" && main != "") found = main
	if (found != "") f = found ":" born[found] ":" sid[found] ":" ((rss[found] ~ /^[456]/ && length(rss[found]) == 19) ? rss[found] : "") ":" pp[found]
	print "| n=" n " main=" ((main != "" && alive(main)) ? 1 : 0) " wrap=" (wrap != "" ? 1 : 0) " reused=" reused + 0 " again=" again + 0 " cg=" cgok " maybe=" maybe " at=" ((older != "" && wrap != "") ? wrap ":" born[wrap] : "") " found=" f " self=" ((self in st) ? 1 : 0)
}'

# k_scan: one look at everything. It leaves the members in k_members, their
# number in k_n, and the facts in their variables. Who was in k_members before is
# a member still: the tree or the session that led there may have lost its head.
k_scan() {
	k_self=$$
	k_out=
	if [ "$k_awk" ]; then
		k_out=$({
			k_stats
			echo =
			k_environs
			k_cgpids
			printf '%s\n' $k_members
		} | k_self=$k_self k_pid=$k_pid k_start=$k_start k_sid=$k_sid k_wpid=$k_wpid k_wstart=$k_wstart \
			k_brand=$k_brand k_older=$k_older k_known=$k_known k_led=$k_led awk "$k_prog")
		# An awk that does not even see this shell is not to be trusted.
		case $k_out in
		*' self=1') ;;
		*) k_awk='' ;;
		esac
	fi
	[ "$k_awk" ] || k_scansh
	k_members=${k_out%%'|'*}
	k_maybe='' k_f='' k_at=''
	for k_x in ${k_out#*'|'}; do
		case $k_x in
		n=*) k_n=${k_x#*=} ;;
		main=*) k_main=${k_x#*=} ;;
		wrap=*) k_wrap=${k_x#*=} ;;
		reused=*) k_reused=${k_x#*=} ;;
		again=*) k_again=${k_x#*=} ;;
		cg=*) k_cg=${k_x#*=} ;;
		maybe=*) k_maybe=${k_x#*=} ;;
		at=*) k_at=${k_x#*=} ;;
		found=*) k_f=${k_x#*=} ;;
		self=*) k_seen=${k_x#*=} ;;
		esac
	done
	# Someone who must not be touched sits in the cgroup: it is not the task's own.
	[ "$k_cg" = 1 ] || k_usecg=
}

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

# k_chase [SIGNAL]: looks at the newest PIDs for the brand. A chain of processes,
# each of which starts the next and ends, can run ahead of every scan; its newest
# link is the newest PID of the machine. No fork of ours may come in between.
# 0: one was seen (and signalled), 1: none.
k_chase() {
	k_chased=
	[ "$k_brand" ] || return 1
	k_i=0 k_j=0 k_prev=''
	while [ $k_i -lt 300 ] && [ $k_j -lt 30 ]; do
		k_i=$((k_i + 1))
		read -r k_x k_x k_x k_x k_newest <loadavg || return 1
		[ "$k_newest" != "$k_prev" ] || continue
		k_prev=$k_newest k_j=$((k_j + 1))
		k_look "$k_newest" && [ "$s_rss" = "$k_brand" ] && [ "$k_newest" != "$k_wpid" ] || continue
		case $s_state in [ZXx]) continue ;; esac
		k_chased="$k_newest:$s_start:$s_state:0:" k_chasedcomm=$s_c
		[ -z "$1" ] || kill -s "$1" "$k_newest"
	done
	[ "$k_chased" ]
}

# k_nobody [SIGNAL]: scans again after an empty scan, until two in a row were empty and no
# chain was seen, or somebody was. 0: nobody is there. A parent that forks and
# ends between the listing and the reading is missed by one scan, with its child.
k_nobody() {
	k_calm=1 k_tries=0 k_breeds=
	while [ "$k_n" = 0 ]; do
		if k_chase "$1"; then
			k_enc "$k_chasedcomm"
			k_n=1 k_members=$k_chased$k_e k_breeds=yes
			return 1
		fi
		[ $k_calm -lt 2 ] || return 0
		[ "$k_again" = 1 ] && k_tries=$((k_tries + 1)) || k_calm=$((k_calm + 1))
		if [ $k_tries -gt 20 ]; then
			k_n=1 k_members='' k_breeds=yes
			return 1
		fi
		k_scan
	done
	return 1
}

# --- the operations ----------------------------------------------------------

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

# --- the answer --------------------------------------------------------------

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

# --- before anything is touched ----------------------------------------------

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
