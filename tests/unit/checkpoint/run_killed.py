"""Saves steps one after the other until it is killed, again and again; then says what was found each time.

Run as `run_killed.py PLACE KILLS MODE`. Each start is a process that two ranks share as threads, and it is killed by
SIGKILL at a random moment. MODE is `new` (each step once, the last two
stay) or `same` (one step, written over and over).
"""

import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import torch

from distmlp.checkpoint.object_store import open_storage
from distmlp.checkpoint.reader import CheckpointReader
from distmlp.checkpoint.retention import Retention, Saved
from distmlp.checkpoint.select import checkpoint_names, clear_leftovers, newest_sound
from distmlp.checkpoint.snapshot import Snapshot
from distmlp.checkpoint.writer import StepWriter
from distmlp.shards import Place, Range, Shard

NUM_ELEMENTS = 100_000
FORK = multiprocessing.get_context("fork")


def save_for_ever(place: str, attempt: str, mode: str, first: int, started: Any) -> None:
    storage = open_storage(place)
    started.set()
    for step in count(first) if mode == "new" else iter(lambda: first, None):
        threads = [threading.Thread(target=save, args=(storage, step, attempt, rank)) for rank in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        saved = [Saved(name, int(name[5:])) for name in checkpoint_names(storage)]
        for name in Retention(2).to_remove(saved):
            storage.remove(name)


def save(storage: Any, step: int, attempt: str, rank: int) -> None:
    part = Range(rank * NUM_ELEMENTS // 2, (rank + 1) * NUM_ELEMENTS // 2)
    values = torch.full((part.num_elements,), float(step))
    writer = StepWriter(storage, step, attempt=attempt, rank=rank, world_size=2, stop_waiting=threading.Event())
    snapshot = Snapshot(pinned=False)
    snapshot.take([Shard("weights", Place("w", (NUM_ELEMENTS,), part), values)])
    writer.write_part(snapshot, {"rank": rank})
    if rank == 0:
        writer.commit({"step": step})


def look(place: str, answer: Any) -> None:
    """What the next start of the run finds."""
    storage, reports, torn = open_storage(place), [], []
    left = [name for name in storage.names() if name not in checkpoint_names(storage)]
    clear_leftovers(storage, "next")
    name = newest_sound(storage, reports.append)
    for one in checkpoint_names(storage):
        with CheckpointReader(storage, one) as checkpoint:
            right = bool((checkpoint.whole("weights", "w") == float(checkpoint.state["step"])).all())
            torn += [*checkpoint.damages(), *checkpoint.strangers(), *([] if right else [f"{one} is of two steps"])]
    strange = [one for one in storage.names() if one not in checkpoint_names(storage)]
    answer.put({"newest": name, "reports": reports, "torn": torn, "left": left, "strange": strange})


def in_a_process(action: Callable[..., None], *args: Any) -> multiprocessing.Process:
    process = FORK.Process(target=action, args=args, daemon=True)
    process.start()
    return process


def main(place: str, kills: int, mode: str) -> None:
    rng, first = random.Random(0), 1
    for number in range(kills):
        started, answer = FORK.Event(), FORK.SimpleQueue()
        saving = in_a_process(save_for_ever, place, f"attempt{number}", mode, first, started)
        started.wait()
        time.sleep(rng.uniform(0.0, 0.3) if number else 2.0)
        os.kill(saving.pid, signal.SIGKILL)
        saving.join()
        looking = in_a_process(look, place, answer)
        found = answer.get() | {"killed": saving.exitcode == -signal.SIGKILL}
        looking.join()
        print(json.dumps(found), flush=True)
        if mode == "new" and found["newest"]:
            first = int(found["newest"][5:]) + 1


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
