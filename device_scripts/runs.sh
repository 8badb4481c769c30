# The runs on a device: second copies of what is being measured (see edgekit/probing/recovery.py).
# Run as `sh -c SCRIPT sh COMMAND RUNS ...`; must work with toybox (Android), busybox and dash.
#   begin RUNS RUN LINE     makes the run's folder and leaves in it who measures: LINE is "WORD MINUTES NAME"
#   launch FOLDER           makes a launch's folder and keeps in it what is on stdin: the launch's record
#   look RUNS               tells who measures each run, and of every process its arguments
#   end RUNS RUN            nobody measures it any longer
#   remove RUNS RUN         removes it
# RUNS is an absolute path.
set -u
command=$1 runs=$2
shift 2

begin() { # RUN LINE
    mkdir -p "$runs/$1" && echo "$2" >"$runs/$1/host"
}
launch() {
    mkdir -p "$runs" && cat >"$runs/launch.json"
}
look() {
    for mark in "$runs"/*/host; do
        [ -f "$mark" ] || continue
        run=${mark%/host}
        # No more than ours has: what lies there may have been made by anybody.
        line=$(head -c 400 "$mark" | head -n 1)
        minutes=${line#* }
        minutes=${minutes%% *}
        case $minutes in '' | *[!0-9]* | ??????*) continue ;; esac
        fresh=no
        [ -z "$(find "$run" -mmin "-$minutes" 2>/dev/null | head -n 1)" ] || fresh=yes
        echo "mark ${run##*/} $fresh $line"
    done
    # Of every process its arguments, each with a zero byte behind it: a probe was told where its plan lies.
    echo processes
    cat /proc/[0-9]*/cmdline 2>/dev/null
    return 0
}
end() { # RUN
    rm -f "$runs/$1/host"
}
remove() { # RUN
    # Out of sight first: what is half removed must not be taken for a run.
    if [ -e "$runs/$1" ]; then mv "$runs/$1" "$runs/.$1.part" || exit 1; fi
    rm -rf "$runs"/.*.part
}

case $command in
begin | launch | look | end | remove) "$command" "$@" ;;
*)
    echo "unknown command $command" >&2
    exit 1
    ;;
esac
