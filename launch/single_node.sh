#!/usr/bin/env bash
# Trains on all GPUs of this machine, a process for each, started by torchrun. Ctrl-C lets all of them save.
#
#   launch/single_node.sh run.id=1 model=gpt2_124m data=text data.path=input.txt
#   NPROC=2 launch/single_node.sh run.id=1        # two processes, on the CPU where there is no GPU
set -euo pipefail
python=${DISTMLP_PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}

NPROC=${NPROC:-$("$python" -c 'import torch; print(torch.cuda.device_count())')}
if [ "$NPROC" = 0 ]; then
    echo "${0##*/}: torch sees no GPU here: NPROC=2 starts two processes on the CPU" >&2
    exit 2
fi

# How long after the first signal torchrun kills what has not ended; its own 30 s are little for a large checkpoint.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}
exec "$python" -m torch.distributed.run --standalone --nproc-per-node "$NPROC" \
    --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2 -m distmlp train "$@"
