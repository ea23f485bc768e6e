# nets.sh: who belongs to the task.

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
