#!/bin/sh
# saltpeter-only lets an SSH key do what a saltpeter server does on a machine, and
# nothing else: no login, no copying, no other command. Put it on the machine and
# name it in authorized_keys; see docs/machines.md.
#
# What a server sends has these forms, each with `sudo -n` in front where the machine
# has sudo: true:
#
#	sh -s                                        questions, kills and files, as a script on standard input
#	PLACE/saltpeter-HASH wrap                    a job, its order on standard input
#	PLACE/saltpeter-HASH wrap --probe            machines --check
#	dd 'of=PLACE/.saltpeter-HASH.WORD.new' 'bs=65536'   the program, on its way there
#
# For a wrapper_path of your own add its line in the same way.

refuse() {
	echo "saltpeter-only: refused: $SSH_ORIGINAL_COMMAND" >&2
	exit 126
}

# Plain characters alone, so that the words below are the words that were meant.
case $SSH_ORIGINAL_COMMAND in
'' | *[!a-zA-Z0-9\ ./=_\'-]* | *..*) refuse ;;
esac
set -f
set -- $(printf '%s\n' "$SSH_ORIGINAL_COMMAND" | tr -d \')

sudo=
if [ "$1 $2" = 'sudo -n' ]; then
	sudo='sudo -n'
	shift 2
fi

# ours PATH: a file of ours in one of the places.
ours() {
	case $1 in
	/var/lib/saltpeter/*/* | /run/saltpeter/*/* | "$HOME"/.local/lib/saltpeter/*/*) return 1 ;;
	/var/lib/saltpeter/*saltpeter-* | /run/saltpeter/*saltpeter-* | "$HOME"/.local/lib/saltpeter/*saltpeter-*) return 0 ;;
	esac
	return 1
}

case "$#:$*" in
'2:sh -s') ;;
'2:'*' wrap' | '3:'*' wrap --probe') ours "$1" || refuse ;;
'3:dd of='*'.new bs=65536') ours "${2#of=}" || refuse ;;
*) refuse ;;
esac
exec $sudo "$@"
