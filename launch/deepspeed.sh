#!/usr/bin/env bash
# Trains on all GPUs of this machine, a process for each, started by DeepSpeed's own launcher. CUDA_VISIBLE_DEVICES
# chooses among them. Ctrl-C during training lets all of them save, a second one kills them.
#
#   launch/deepspeed.sh run.id=1 strategy=deepspeed_zero2 model=gpt2_124m data=text data.path=input.txt
#   NPROC=2 launch/deepspeed.sh run.id=1          # two processes, on the CPU where there is no GPU
#   PORT=29501 launch/deepspeed.sh run.id=2       # beside another run, which has DeepSpeed's 29500
set -euo pipefail
python=${DISTMLP_PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}

# Given a number, DeepSpeed takes the first GPUs and not the visible ones, so that it gets none unless you say NPROC.
if [ -z "${NPROC:-}" ] && [ "$("$python" -c 'import torch; print(torch.cuda.device_count())')" = 0 ]; then
    echo "${0##*/}: torch sees no GPU here: NPROC=2 starts two processes on the CPU" >&2
    exit 2
fi

# DeepSpeed's launcher kills ranks 30 s after a signal, and its ranks are in the process group that Ctrl-C goes to, so
# that they would get two signals. So they get a group of their own, and SIGUSR1, which the launcher ignores as we do.
trap '' USR1
set -m
"$python" -m deepspeed.launcher.runner --log_level warning --module --no_local_rank --master_port "${PORT:-29500}" \
    ${NPROC:+--num_accelerators "$NPROC"} distmlp train "$@" </dev/null &
launcher=$!
trap 'kill -USR1 -- "-$launcher" || true; trap "kill -KILL -- -$launcher" INT TERM HUP' INT TERM HUP

status=0
while :; do # a signal ends `wait` before the launcher has ended
    status=0
    wait "$launcher" || status=$?
    kill -0 "$launcher" 2>/dev/null || break
done
exit "$status"
