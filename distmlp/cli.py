"""The command line: `distmlp <verb> [group=choice] [key=value]`. Finds the verb's app; turns a mistake into one line.

Torch is not imported here, so that help and mistakes are answered at once.
"""

import os
import signal
import sys
import textwrap
from importlib import import_module

from distmlp.errors import ClusterError, ConfigError
from distmlp.launch.rank_side import die_with_parent
from distmlp.launch.rendezvous import let_another_speak, speaks_for_all
from distmlp.log import console

VERBS = {
    "train": "train a network; writes a run folder",
    "submit": "write a SLURM job script for a training and submit it",
    "evaluate": "measure a trained run or checkpoint on a split",
    "generate": "continue a prompt with a trained gpt or rnn",
    "runs": "table of all runs; watch one live, cancel one",
    "checkpoint": "list, show, verify, compare, export and import checkpoints",
    "requeue": "in a job script: says whether the job shall start again",
    "plot": "draw loss and accuracy curves of runs",
}

EXAMPLES = """\
examples:
  distmlp train                                          the default network on the digits, offline
  distmlp train experiment=document_pytorch data=mnist data.dir=/data/mnist
  distmlp train model.hidden=[512,256] optimizer=momentum optimizer.lr=0.05 trainer.max_epochs=20
  distmlp train --cfg job optimizer=muon                 print the resolved configuration
  distmlp train --config runs/NAME/ID/config.yaml        repeat a run
  distmlp train model=gpt data=text data.path=input.txt  a language model of characters
  distmlp train --summary model=gpt2_124m data=synthetic_tokens
                                                         layers, parameters, FLOPs and memory, without training
  distmlp evaluate runs/NAME/ID split=test
  distmlp generate runs/NAME/ID prompt="Once upon"
  distmlp plot runs/NAME/ID runs/NAME/OTHER
  distmlp runs watch NAME/ID
  distmlp checkpoint export runs/NAME/ID --to model.safetensors
  distmlp train trainer.devices=4                        four processes on this machine
  distmlp train --multirun optimizer.lr=0.01,0.1 model=mlp,cnn
                                                         four runs, one after the other
  distmlp submit cluster=slurm cluster.nodes=2 cluster.gpus_per_node=8 cluster.time=12:00:00
                                                         sixteen ranks, as a job
  torchrun --nnodes 2 --nproc-per-node 4 … -m distmlp train
                                                         on each of two machines
`distmlp train --help` explains every key."""


def help_text() -> str:
    """Verbs, groups with their choices, examples."""
    from distmlp.compose import GROUPS_IN_ORDER, choices

    verbs = [f"  {verb:<14}{meaning}" for verb, meaning in VERBS.items()]
    groups = [_wrapped(group, ", ".join(choices(group))) for group in GROUPS_IN_ORDER if choices(group)]
    usage = "usage: distmlp <verb> [group=choice] [key=value]"
    return "\n".join([usage, "", "verbs:", *verbs, "", "groups and choices:", *groups, "", EXAMPLES])


def _wrapped(name: str, text: str) -> str:
    """A line of help, continued below where it is long."""
    return textwrap.fill(text, 100, initial_indent=f"  {name:<14}", subsequent_indent=" " * 16)


def main(arguments: list[str] | None = None) -> int:
    """Runs one verb. Returns the exit status: 0 done, 2 a user's mistake, 3 stopped by a signal, else 1 or more."""
    die_with_parent()
    words = sys.argv[1:] if arguments is None else arguments
    try:
        return _dispatch(words)
    except BrokenPipeError:  # the reader of our output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ConfigError, ClusterError) as error:
        status = 2 if isinstance(error, ConfigError) else 1
        if speaks_for_all():
            print(f"distmlp: {' '.join(str(error).split())}", file=console(), flush=True)
        else:
            let_another_speak(status)
        return status
    except KeyboardInterrupt:  # before there was anything to save
        return 128 + signal.SIGINT


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("--help", "-h", "help"):
        print(help_text())
        return 0
    if words[0] == "--version":
        from distmlp import __version__

        print(f"distmlp {__version__}")
        return 0
    verb = words[0]
    if verb not in VERBS:
        from distmlp.config import nearest

        raise ConfigError(f"unknown verb {verb}{nearest(verb, list(VERBS))}")
    status: int = import_module(f"distmlp.apps.{verb}").run(words[1:])
    return status
