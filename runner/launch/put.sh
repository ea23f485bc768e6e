# put.sh finds the place of our binary on a machine, and moves it there once it has
# come. POSIX sh; runs under `sh -s` with these assigned above:
#
#	p_mark     what marks our lines among what a login prints
#	p_op       find | finish
#	p_make     find: yes = make folders and try them, empty = only look
#	p_n, p_place1 …  places, best first; ~/ is the login's home
#	p_h_ARCH   the name of the build for an architecture, where there is one
#	p_dir, p_tmp, p_name, p_size, p_sha  finish: what came, and what it has to be
#
# See kill.sh for why all of it is one function.
p_all() {
	LC_ALL=C
	export LC_ALL
	umask 022

	# p_say WORDS: an empty line first, since a prompt may stand without its end.
	p_say() { printf '\nSPW mark=%s %s\n' "$p_mark" "$1"; }

	# p_safe DIR: nobody but us and root may put something in the binary's place.
	p_safe() {
		set -- $(ls -ldn "$1/.")
		case $1 in d????w*) return 1 ;; d???????w*) return 1 ;; esac
		[ "$3" = "$p_uid" ] || [ "$3" = 0 ]
	}

	# p_runs FILE: whether it is a wrapper of ours that this machine can execute;
	# p_code says how it ended.
	p_runs() {
		p_v=$("$1" wrap --version </dev/null)
		p_code=$?
		p_v=${p_v%%"$p_nl"*}
		case $p_v in 'Saltpeter Wrapper version '*) return 0 ;; esac
		return 1
	}

	# p_try DIR: whether programs may be executed from it.
	p_try() {
		p_x=$1/.saltpeter-try.$$
		printf '#!/bin/sh\nexit 42\n' >"$p_x" || return 2
		chmod 0700 "$p_x"
		"$p_x" </dev/null
		p_code=$?
		rm -f "$p_x"
		[ $p_code = 42 ]
	}

	# p_older DIR: whether a build of another version lies there.
	p_older() {
		for p_x in "$1"/saltpeter-*; do
			case ${p_x##*/saltpeter-} in *[!0-9a-f]*) continue ;; esac
			[ ! -f "$p_x" ] || return 0
		done
		return 1
	}

	# p_look DIR: what is there, in p_state.
	p_look() {
		[ -d "$1" ] || { [ "$p_make" ] && mkdir -p "$1"; }
		if [ ! -d "$1" ]; then
			p_state=absent
			[ -z "$p_make" ] || p_state=denied
		elif ! p_safe "$1"; then
			p_state=unsafe
		elif [ "$p_name" ] && [ -f "$1/$p_name" ] && p_runs "$1/$p_name"; then
			p_state=has
		elif [ ! -w "$1" ]; then
			p_state=denied
		elif [ -z "$p_make" ]; then
			p_state=free
		else
			p_try "$1"
			case $? in
			0) p_state=free ;;
			2) p_state=denied ;;
			*) p_state=noexec ;;
			esac
		fi
	}

	p_find() {
		p_say "machine=$(uname -s) $(uname -m)"
		case $(uname -m) in
		x86_64 | amd64) p_arch=amd64 ;;
		aarch64 | arm64) p_arch=arm64 ;;
		arm*) p_arch=arm ;;
		i?86) p_arch=386 ;;
		*) p_arch=$(uname -m | tr -cd 'a-zA-Z0-9_') ;;
		esac
		p_say "arch=$p_arch"
		p_say "time=$(date +%s)"
		p_say "from=${SSH_CONNECTION%% *}"
		eval "p_name=\$p_h_$p_arch"
		p_i=0
		while [ $p_i -lt "$p_n" ]; do
			p_i=$((p_i + 1))
			eval "p_d=\$p_place$p_i"
			case $p_d in '~/'*)
				p_d=$HOME/${p_d#??}
				[ "$HOME" ] && [ "$HOME" != / ] || p_d=
				;;
			esac
			[ "$p_d" ] || continue
			p_look "$p_d"
			p_say "$p_state=$p_d"
			if [ $p_state != has ]; then
				p_older "$p_d" && p_say "older=$p_d"
				continue
			fi
			p_say "version=$p_v"
			# It is in use: who cleans up sees so.
			touch -c "$p_d/$p_name"
			return
		done
	}

	p_finish() {
		p_new=$p_dir/$p_tmp
		if [ "$(($(wc -c <"$p_new") + 0))" != "$p_size" ]; then
			p_say "short=$(wc -c <"$p_new")"
		elif command -v sha256sum >/dev/null && [ "$(sha256sum <"$p_new" | tr -cd 0-9a-f)" != "$p_sha" ]; then
			p_say damaged=
		elif ! chmod 0755 "$p_new" || ! p_runs "$p_new"; then
			p_say "norun=$p_code"
		elif ! mv -f "$p_new" "$p_dir/$p_name"; then
			p_say denied=
		else
			p_say "put=$p_v"
			p_clean
			return
		fi
		rm -f "$p_new"
	}

	# p_clean: builds of earlier versions go once nobody has used them for a week and
	# nothing runs from them; what half came, after a day.
	p_clean() {
		p_exes=$(ls -l /proc/[0-9]*/exe)
		for p_x in "$p_dir"/saltpeter-*; do
			case ${p_x##*/saltpeter-} in *[!0-9a-f]* | "${p_name#saltpeter-}") continue ;; esac
			[ "$(find "$p_x" -prune -type f -mtime +7)" ] || continue
			case $p_exes in *"-> $p_x"*) continue ;; esac
			rm -f "$p_x"
		done
		for p_x in "$p_dir"/.saltpeter-*; do
			[ ! "$(find "$p_x" -prune -type f -mtime +0)" ] || rm -f "$p_x"
		done
	}

	p_uid=$(id -u)
	p_nl='
'
	case $p_op in
	find) p_find ;;
	finish) p_finish ;;
	esac
	p_say done=
}

p_all </dev/null 2>/dev/null
