#!/usr/bin/env bash
# Trains in one process: on the GPU, if there is one, else on the CPU. Ctrl-C saves; the same line goes on from there.
#
#   launch/laptop.sh run.id=1 model=cnn data=mnist
set -euo pipefail
python=${DISTMLP_PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}

exec "$python" -m distmlp train trainer.devices=1 "$@"
