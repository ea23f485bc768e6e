k_all() {
printf '\nSPR mark=%s op=%s outcome=unknown reason=no_proc phase= proof= before=0 alive=0 acted=0 vis=partial reused=no main=no wrap=no left= found= foundwrap= boot= ns= end= done=1\n' "$k_mark" "$k_op"
}
k_all </dev/null
