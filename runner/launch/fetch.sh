# fetch.sh sends a piece of a plain file over a login's standard output: one marked
# line that says how many bytes come, then the bytes. POSIX sh; runs under `sh -s`
# with f_mark, f_path, f_offset and f_max assigned above. See kill.sh for why all
# of it is one function.
f_all() {
	LC_ALL=C
	export LC_ALL

	# f_say WORDS: an empty line first, since a prompt may stand without its end.
	f_say() { printf '\nSPF mark=%s %s\n' "$f_mark" "$1"; }

	if [ -h "$f_path" ]; then
		f_say why=odd
	elif [ ! -e "$f_path" ]; then
		# What lies in a folder that may not be searched looks like nothing at all.
		f_dir=${f_path%/*}
		while [ "$f_dir" ] && [ ! -e "$f_dir" ]; do
			f_dir=${f_dir%/*}
		done
		if [ "$f_dir" ] && [ ! -x "$f_dir" ]; then
			f_say why=denied
		else
			f_say why=missing
		fi
	elif [ ! -f "$f_path" ]; then
		f_say why=odd
	elif [ ! -r "$f_path" ]; then
		f_say why=denied
	else
		f_size=$(($(wc -c <"$f_path") + 0))
		f_n=$((f_size - f_offset))
		[ $f_n -lt "$f_max" ] || f_n=$f_max
		[ $f_n -gt 0 ] || f_n=0
		f_say "send=$f_n"
		# The file may grow meanwhile: no more than was said.
		[ $f_n = 0 ] || tail -c +$((f_offset + 1)) "$f_path" | head -c $f_n
	fi
}

f_all </dev/null 2>/dev/null
