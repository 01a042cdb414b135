"""Keys of the group `cluster`: what SLURM would refuse late, or a script could not hold, is refused with the reason."""

import pytest

from distmlp.compose import compose
from distmlp.errors import ConfigError
from distmlp.schema.cluster import seconds_of


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("30", 1800),
        ("30:15", 1815),
        ("12:00:00", 43200),
        ("2-1", 176400),
        ("2-1:30", 178200),
        ("2-01:30:05", 178205),
        ("1:2:3:4", None),
        ("2-", None),
        ("1h", None),
        ("-5", None),
    ],
)
def test_a_time_is_read_as_slurm_reads_it(time: str, seconds: int | None) -> None:
    assert seconds_of(time) == seconds


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cluster.time=1h"], r"^cluster\.time=1h is no time: use HH:MM:SS"),
        (["cluster.time=2"], r"^cluster\.time=2 is 120 s, and cluster\.grace_seconds=120 of them are for saving"),
        (['cluster.partition="a\nb"'], r"^cluster\.partition='a\\nb' must be one line"),
        (['cluster.lines=["a\rb"]'], r"^cluster\.lines='a\\rb' must be one line"),
        (['cluster.account=""'], r"^cluster\.account='' must be one line"),
        (["cluster.sbatch=[-N4]"], r"^cluster\.sbatch holds -N4: give whole options"),
        (['cluster.sbatch=["--nodes=4"]'], r"^cluster\.sbatch holds --nodes=4: use cluster\.nodes$"),
        (['cluster.sbatch=["--tim=4"]'], r"^cluster\.sbatch holds --tim=4: use cluster\.time$"),
        (['cluster.sbatch=["--output=x"]'], r"^cluster\.sbatch holds --output=x: submit says it itself$"),
        (['cluster.sbatch=["--comment="]'], r"^cluster\.sbatch holds --comment=: give whole options"),
        (['cluster.environment=["A B=1"]'], r"^cluster\.environment holds A B: a variable's name"),
        (["cluster.container_mounts=[/a]"], r"^cluster\.container_mounts needs cluster\.container=IMAGE$"),
        (["cluster.array_limit=2"], r"^cluster\.array_limit=2 needs cluster\.array=FILE$"),
    ],
)
def test_a_mistake_says_what_would_be_right(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(["cluster=slurm", *words])


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "hf_token", "MY_SECRET", "DB_PASSWORD"])
def test_a_secret_has_no_value_here_and_its_name_may_be_passed_on(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"give the name alone, cluster\.environment=\[{name}\]") as error:
        compose(["cluster=slurm", f'cluster.environment=["{name}=hidden"]'])
    assert "hidden" not in str(error.value)
    assert compose(["cluster=slurm", f"cluster.environment=[{name}]"]).config.cluster.name == "slurm"


def test_options_that_begin_like_none_of_ours_pass() -> None:
    options = ["--exclusive", "--mail-user=me", "--mem-per-gpu=8G", "--gres=nvme:1", "--time-min=5"]
    words = [f'"{option}"' for option in options]
    assert (
        compose(["cluster=slurm", f"cluster.sbatch=[{','.join(words)}]"]).config.cluster.model_dump()["sbatch"]
        == options
    )
