#!/usr/bin/env bash
# Trains on several machines that see one folder, a process for each GPU, started by torchrun.
#
#   NODES=2 HEAD=node1 PORT=29500 launch/multi_node.sh run.id=1 …     # the same line on every machine
#   HOSTFILE=hosts PORT=29500 launch/multi_node.sh run.id=1 …         # on one machine: starts all of them by ssh
#
# HEAD is one of the machines, by the name or address at which the others reach it, and PORT is free there. A hostfile
# names a machine in each line; ssh must reach them without a password. NPROC is the number of processes of each machine.
# Other variables that a machine needs are its own affair: ssh brings none along.
# Ctrl-C, on any of them or where the hostfile is, lets all ranks save.
set -euo pipefail
python=${DISTMLP_PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}

refuse() {
    echo "${0##*/}: $1" >&2
    exit 2
}

# The status of process $1 once it has really ended: a signal that is trapped here ends `wait` too early.
ended() {
    local status
    while :; do
        status=0
        wait "$1" || status=$?
        kill -0 "$1" 2>/dev/null || return "$status"
    done
}

# Every host keeps reading from its ssh. When this script is stopped or killed, the input of all of them ends.
start_on_hosts() {
    local hosts host line settings pids=() status=0
    [ -r "$HOSTFILE" ] || refuse "HOSTFILE=$HOSTFILE cannot be read"
    mapfile -t hosts < <(sed 's/#.*//' "$HOSTFILE" | awk 'NF { print $1 }')
    [ "${#hosts[@]}" -gt 0 ] || refuse "HOSTFILE=$HOSTFILE names no host: write one in each line"
    line=$(mktemp -d)
    mkfifo "$line/fifo"
    exec 9<>"$line/fifo"
    exec 8<"$line/fifo"
    rm -r "$line"
    trap 'exec 9>&-' INT TERM HUP
    settings=$(quoted HOSTFILE= UNTIL_INPUT_ENDS=1 "NODES=${#hosts[@]}" "HEAD=${HEAD:-${hosts[0]}}" "PORT=$PORT" \
        "NPROC=${NPROC:-}" "DISTMLP_PYTHON=$python")
    for host in "${hosts[@]}"; do
        {
            trap '' INT QUIT # Ctrl-C goes to ssh too, which shall stay to show how the ranks end
            status=0
            ssh -o BatchMode=yes "$host" "cd $(quoted "$PWD") && env $settings $(quoted "$0" "$@")" \
                <&8 || status=$?
            [ "$status" = 0 ] || kill -TERM $$ # the other hosts would wait for this one
            exit "$status"
        } 9>&- &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do
        ended "$pid" || status=$?
    done
    exit "$status"
}

quoted() { printf '%q ' "$@"; }

[ -n "${PORT:-}" ] || refuse "PORT is missing: a free port of HEAD, as PORT=29500"
[ -z "${HOSTFILE:-}" ] || start_on_hosts "$@"
[ -n "${NODES:-}" ] || refuse "NODES is missing: the number of machines, as NODES=2; or HOSTFILE, which names them"
[ -n "${HEAD:-}" ] || refuse "HEAD is missing: the name of one of the machines, as HEAD=node1"

NPROC=${NPROC:-$("$python" -c 'import torch; print(torch.cuda.device_count())')}
[ "$NPROC" != 0 ] || refuse "torch sees no GPU here: NPROC=2 starts two processes on the CPU of each machine"

# How long after the first signal torchrun kills what has not ended; its own 30 s are little for a large checkpoint.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}
torchrun=("$python" -m torch.distributed.run --nnodes "$NODES" --nproc-per-node "$NPROC" --rdzv-backend c10d
    --rdzv-id "distmlp-$PORT" --rdzv-endpoint "$HEAD:$PORT"
    --signals-to-handle "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2" -m distmlp train "$@")
[ -n "${UNTIL_INPUT_ENDS:-}" ] || exec "${torchrun[@]}"

# Where the other end of ssh is gone there is nobody to read what the ranks print, which must not end them.
kept() { cat || true; cat >/dev/null; }
exec 8<&0
"${torchrun[@]}" </dev/null 8<&- > >(kept 8<&-) 2> >(kept >&2 8<&-) &
agent=$!
{ read -r -u 8 || kill -TERM "$agent"; } &
reader=$!
status=0
ended "$agent" || status=$?
kill "$reader" 2>/dev/null || true
exit "$status"
