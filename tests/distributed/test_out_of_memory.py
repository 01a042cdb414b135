"""trainer.micro_batch_size=auto: a rank that runs out of memory costs a step taken twice, and no number of the run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

STRATEGIES = {
    "ddp": (),
    "fsdp2": (),
    "hsdp": ("strategy.shard_size=2",),
}
FAILURES = {
    "undisturbed": None,
    "first_forward": {"where": "forward", "rank": 1, "step": 0, "above": 3},
    "later_backward": {"where": "backward", "rank": 0, "step": 5, "above": 4},
}


@pytest.fixture(scope="module", params=[1, 4])
def runs(request: Any, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """World size, and the folder with what each case left."""
    ranks, folder = request.param, tmp_path_factory.mktemp("runs")
    strategies = STRATEGIES if ranks > 1 else {"single": ()}
    cases = [
        {"name": f"{strategy}-{failure}", "words": [f"strategy={strategy}", *words], "fails": fails}
        for strategy, words in strategies.items()
        for failure, fails in FAILURES.items()
    ]
    if ranks == 1:
        cases = [case | {"fails": case["fails"] and case["fails"] | {"rank": 0}} for case in cases]  # type: ignore[operator]
    (folder / "cases.json").write_text(json.dumps(cases))
    script = Path(__file__).with_name("run_out_of_memory.py")
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    done = subprocess.run(
        [sys.executable, *launcher, str(script), str(folder / "cases.json"), str(folder)],
        env={**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return ranks, folder


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_run_goes_on_with_the_losses_of_the_undisturbed_one(runs: tuple[int, Path]) -> None:
    ranks, folder = runs
    for strategy in STRATEGIES if ranks > 1 else ("single",):
        calm = lines(folder / f"{strategy}-undisturbed")
        assert json.loads((folder / f"{strategy}-undisturbed" / "size.json").read_text()) is None
        for failure in ("first_forward", "later_backward"):
            disturbed = lines(folder / f"{strategy}-{failure}")
            size = json.loads((folder / f"{strategy}-{failure}" / "size.json").read_text())
            assert size <= FAILURES[failure]["above"], (strategy, failure)
            assert [line.get("sample_ids") for line in disturbed] == [line.get("sample_ids") for line in calm]
            for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy"):
                pairs = [(a[name], b[name]) for a, b in zip(calm, disturbed, strict=True) if name in a]
                assert pairs
                assert max(abs(a - b) for a, b in pairs) <= 2e-6, (strategy, failure, name)
