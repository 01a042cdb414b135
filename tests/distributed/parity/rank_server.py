"""Starts ranks for tests: imports everything once, then forks processes for each run, so that a run takes a second.

`python -m parity.rank_server` reads a line of JSON for each run from its input (see `Job`) and answers with a line: the
ranks' exit statuses. A rank writes to ``rank-N.log`` in the run's folder, and its traceback is there when it fails.
Nothing here computes with torch before the fork: its threads would not survive it.
"""

import faulthandler
import importlib
import json
import os
import pkgutil
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GRACE_SECONDS = 10.0  # between the first rank that fails, or the limit, and the end of the others


@dataclass(frozen=True)
class Job:
    """``words``: of the command line; ``seconds``: limit, after which every rank says where it is and ends."""

    folder: str
    words: list[str]
    world_size: int
    seconds: float


def main() -> None:
    """Serves jobs until the input ends."""
    _import_everything()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    print(json.dumps("ready"), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_run(Job(**json.loads(line)))), file=answers, flush=True)


def _import_everything() -> None:
    import lightning  # noqa: F401
    import torch.distributed.checkpoint.state_dict
    import torch.distributed.fsdp
    import torch.distributed.tensor.parallel

    import distmlp.apps.train
    import distmlp.build
    import distmlp.strategy

    for module in pkgutil.iter_modules(distmlp.strategy.__path__, "distmlp.strategy."):
        importlib.import_module(module.name)
    torch.set_num_threads(1)


def _import_deepspeed() -> None:
    """Called before each run that needs it: the engine imports torch's compiler for Muon, which takes seconds."""
    os.environ["DS_ACCELERATOR"] = "cpu"  # read at the import
    importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")


def _run(job: Job) -> list[int]:
    """Exit status of each rank, negative where a signal ended it."""
    from distmlp.compose import compose
    from distmlp.errors import ConfigError

    folder = Path(job.folder)
    try:
        frozen = compose([*job.words, f"run.root={folder}"]).as_yaml()
    except ConfigError as error:
        (folder / "rank-0.log").write_text(str(error))
        return [2]
    (folder / "case.yaml").write_text(frozen)
    if any(word.startswith("strategy=deepspeed") for word in job.words):
        _import_deepspeed()
    port = _free_port()
    sys.stderr.flush()
    return _wait([_start(job, rank, port) for rank in range(job.world_size)], job.seconds)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _start(job: Job, rank: int, port: int) -> int:
    process_id = os.fork()
    if process_id:
        return process_id
    status = 1
    try:
        status = _be_rank(job, rank, port)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # the parent's clean-up is not ours


def _be_rank(job: Job, rank: int, port: int) -> int:
    from distmlp.apps import train

    log = os.open(Path(job.folder) / f"rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.dump_traceback_later(job.seconds, exit=True, file=log)
    if job.world_size > 1:
        ranks = {"RANK": rank, "WORLD_SIZE": job.world_size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": job.world_size}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({key: str(value) for key, value in (ranks | address).items()})
    _probe(Path(job.folder) / f"held-{rank}.json")
    # What a frozen file may not say.
    words = [word for word in job.words if word.startswith(("allow_targets", "resume", "run.id"))]
    return train.run([f"--config={Path(job.folder) / 'case.yaml'}", *words])


def _probe(path: Path) -> None:
    """Adds a callback to the run that writes which bytes a rank holds between the last backward pass and its step."""
    import lightning

    from distmlp import build

    build_run = build.build_run

    class HeldBytes(lightning.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            strategy = trainer.strategy
            apply = strategy.apply_gradients

            def measured(*arguments: Any) -> Any:
                self.held = strategy.held_bytes()
                return apply(*arguments)

            strategy.apply_gradients = measured

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            path.write_text(json.dumps(self.held))

    def probed(*args: Any, **kwargs: Any) -> Any:
        made = build_run(*args, **kwargs)
        made.trainer.callbacks.append(HeldBytes())
        return made

    build.build_run = probed


def _wait(process_ids: list[int], seconds: float) -> list[int]:
    statuses: dict[int, int] = {}
    end = time.monotonic() + seconds + GRACE_SECONDS
    while len(statuses) < len(process_ids):
        alive = [process_id for process_id in process_ids if process_id not in statuses]
        for process_id in alive:
            ended, status = os.waitpid(process_id, os.WNOHANG)
            if ended:
                statuses[process_id] = os.waitstatus_to_exitcode(status)
        if any(statuses.values()):
            end = min(end, time.monotonic() + GRACE_SECONDS)
        if time.monotonic() > end:
            for process_id in alive:
                if process_id not in statuses:
                    os.kill(process_id, signal.SIGKILL)
        time.sleep(0.01)
    return [statuses[process_id] for process_id in process_ids]


if __name__ == "__main__":
    main()
