"""trainer.micro_batch_size=auto: a rank that runs out of memory costs a step taken twice, and no number of the run."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

SINGLE = {"single": ("strategy=single",)}
# Both with a state that is in use when the failure comes: start_step counts from 0.
STATEFUL = {
    "ddp_powersgd": ("strategy=ddp_powersgd", "strategy.start_step=2"),
    "ddp_localsgd": ("strategy=ddp_localsgd", "strategy.start_step=2", "strategy.period=3", "strategy.group_size=2"),
}
STRATEGIES = {
    "ddp": ("strategy=ddp",),
    "fsdp2": ("strategy=fsdp2",),
    "hsdp": ("strategy=hsdp", "strategy.shard_size=2"),
    "tensor_parallel": ("strategy=tensor_parallel", "strategy.tensor_size=2"),
    **STATEFUL,
}
DEEPSPEED = {
    "zero1": ("strategy=deepspeed_zero1",),
    "zero2": ("strategy=deepspeed_zero2",),
    "zero2_offload": ("strategy=deepspeed_zero2_offload",),
    "powersgd_static": (*STATEFUL["ddp_powersgd"], "strategy.static_graph=true"),
}
FAILURES = {
    "undisturbed": None,
    "first_forward": {"where": "forward", "rank": 1, "step": 0, "above": 3},
    "later_backward": {"where": "backward", "rank": 0, "step": 5, "above": 4},
    "down_to_one": {"where": "backward", "rank": 1, "step": 3, "above": 1},
}


@pytest.fixture(scope="module", params=[(1, SINGLE), (2, DEEPSPEED), (4, STRATEGIES)], ids=["1", "2", "4"])
def runs(request: Any, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Iterable[str], Path]:
    """Strategies, and the folder with what each case left."""
    (ranks, strategies), folder = request.param, tmp_path_factory.mktemp("runs")
    cases = [
        {"name": f"{strategy}-{failure}", "words": words, "fails": fails and fails | {"rank": fails["rank"] % ranks}}
        for strategy, words in strategies.items()
        for failure, fails in FAILURES.items()
    ]
    (folder / "cases.json").write_text(json.dumps(cases))
    script = Path(__file__).with_name("run_out_of_memory.py")
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(folder / "cases.json"), str(folder)],
        env={**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=360,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return strategies, folder


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_run_goes_on_with_the_losses_of_the_undisturbed_one(runs: tuple[Iterable[str], Path]) -> None:
    strategies, folder = runs
    for strategy in strategies:
        calm = lines(folder / f"{strategy}-undisturbed")
        assert json.loads((folder / f"{strategy}-undisturbed" / "size.json").read_text()) is None
        for failure, fails in FAILURES.items():
            if fails is None:
                continue
            disturbed = lines(folder / f"{strategy}-{failure}")
            size = json.loads((folder / f"{strategy}-{failure}" / "size.json").read_text())
            assert size <= fails["above"] + 1, (strategy, failure)  # parts are of equal size, and may be smaller
            assert [line.get("sample_ids") for line in disturbed] == [line.get("sample_ids") for line in calm]
            for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
                pairs = [(a[name], b[name]) for a, b in zip(calm, disturbed, strict=True) if name in a]
                assert pairs
                assert max(abs(a - b) for a, b in pairs) <= 2e-6, (strategy, failure, name)


def test_the_state_of_an_exchange_was_in_use(runs: tuple[Iterable[str], Path]) -> None:
    strategies, folder = runs
    plain = {name: lines(folder / f"{name}-undisturbed")[-1] for name in strategies if name in {"ddp", *STATEFUL}}
    for name in plain.keys() & STATEFUL.keys():
        assert abs(plain[name]["val/loss"] - plain["ddp"]["val/loss"]) > 1e-3
