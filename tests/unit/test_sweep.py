"""Words with several values become jobs in Hydra's grammar, and a mistake in one is named before any starts."""

from pathlib import Path

import pytest

from distmlp.compose import compose
from distmlp.errors import ConfigError
from distmlp.sweep import make_jobs


def test_jobs_are_the_product_with_the_last_key_fastest() -> None:
    jobs = make_jobs(["seed=7", "optimizer.lr=0.01,0.1", "model=mlp,cnn", "run.id=s"])
    assert [job.chosen for job in jobs] == [
        ["optimizer.lr=0.01", "model=mlp"],
        ["optimizer.lr=0.01", "model=cnn"],
        ["optimizer.lr=0.1", "model=mlp"],
        ["optimizer.lr=0.1", "model=cnn"],
    ]
    assert [job.composed.config.run.id for job in jobs] == ["s-0", "s-1", "s-2", "s-3"]
    assert [job.composed.config.model.name for job in jobs] == ["mlp", "cnn"] * 2
    assert all(job.composed.config.seed == 7 for job in jobs)
    assert all(compose(job.words).values == job.composed.values for job in jobs)


@pytest.mark.parametrize(
    ("word", "chosen"),
    [
        ("seed=range(1,4)", ["seed=1", "seed=2", "seed=3"]),
        ("seed=choice(5,3)", ["seed=5", "seed=3"]),
        ("model.hidden=[8],[8,4]", ["model.hidden=[8]", "model.hidden=[8,4]"]),
        ("run.name='a','b'", ["run.name='a'", "run.name='b'"]),
    ],
)
def test_values_are_listed_in_hydra_s_grammar(word: str, chosen: list[str]) -> None:
    jobs = make_jobs([word])
    assert [job.chosen for job in jobs] == [[value] for value in chosen]
    ids = {job.composed.config.run.id for job in jobs}
    assert len(ids) == len(jobs)
    assert {str(run_id)[-2:] for run_id in ids} == {f"-{number}" for number in range(len(jobs))}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=1,2", "optimizer=adam,adamm"], r"^job 1 \(seed=1 optimizer=adamm\): optimizer=adamm does not exist"),
        (["seed=1,-2"], r"^job 1 \(seed=-2\): seed=-2: input should be greater"),
        (["optimizer.lr=interval(0,1)"], r"^optimizer\.lr=interval\(0,1\) has no list of values: write them as a,b"),
        (["model=glob(*)"], r"^model=glob\(\*\) has no list of values"),
        (["sed=1,2"], r"^job 0 \(sed=1\): unknown group or key sed"),
    ],
)
def test_a_mistake_names_its_job(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_jobs(words)


def test_a_run_takes_one_value_and_says_who_takes_several() -> None:
    with pytest.raises(ConfigError, match=r"names several values: .*; --multirun starts a run for each$"):
        compose(["seed=1,2"])


def test_jobs_lie_on_a_frozen_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(compose(["seed=9", "run.id=old"]).as_yaml())
    jobs = make_jobs(["optimizer.lr=0.1,0.2"], tmp_path / "config.yaml")
    assert [(job.composed.config.seed, job.composed.config.optimizer.lr) for job in jobs] == [(9, 0.1), (9, 0.2)]
    assert not any(str(job.composed.config.run.id).startswith("old") for job in jobs)
