"""`build.py`: names become objects, and what cannot become one ends with a line."""

import sys
from pathlib import Path

import pytest
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from distmlp.build import build_data, build_network, build_strategy, build_trainer, choose_strategy, horizon
from distmlp.compose import compose
from distmlp.devices import device_type
from distmlp.errors import ConfigError
from distmlp.runtime import World
from distmlp.schema.strategy import SingleStrategy

SMALL = ("data=synthetic", "data.num_samples=100", "data.input_shape=[4]", "tracking=none")
NETWORKS = """
from torch import nn

class Lazy(nn.Sequential):
    def __init__(self):
        super().__init__(nn.LazyLinear(10))

class NoModule:
    pass

class NeedsFacts(nn.Linear):
    def __init__(self, input_shape, num_outputs, scale=1):
        super().__init__(input_shape[0] * scale, num_outputs)
"""


@pytest.fixture
def own_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "own_networks", raising=False)


def custom(name: str, *more: str) -> torch.nn.Module:
    words = [f"model._target_=own_networks.{name}", "allow_targets=[own_networks]", *more, *SMALL]
    config = compose(words).config
    return build_network(config, build_data(config))


@pytest.mark.usefixtures("own_networks")
def test_a_custom_network_gets_the_facts_that_it_asks_for() -> None:
    network = custom("NeedsFacts")
    assert isinstance(network, torch.nn.Linear)
    assert (network.in_features, network.out_features) == (4, 10)
    assert custom("NeedsFacts", "model.scale=2").in_features == 8


@pytest.mark.usefixtures("own_networks")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("Lazy",), "holds lazy layers"),
        (("NoModule",), "made a NoModule, not a torch.nn.Module"),
        (("Absent",), "own_networks.Absent cannot be built"),
        (("NeedsFacts", "model.depth=3"), "unexpected keyword argument 'depth'"),
    ],
)
def test_a_custom_network_that_cannot_be_built_is_one_line(words: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        custom(*words)
    assert "\n" not in str(raised.value)


def test_the_seed_alone_decides_the_weights() -> None:
    config = compose([*SMALL, "seed=3"]).config
    data = build_data(config)
    first, second = build_network(config, data), build_network(config, data)
    other = build_network(compose([*SMALL, "seed=4"]).config, data)
    weights = [next(network.parameters()) for network in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_lightning_looks_for_no_launcher_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    # Inside an allocation Lightning would take one process for one of SLURM's four tasks, and refuse.
    for key, value in {"NTASKS": "4", "JOB_NAME": "job", "JOB_ID": "3", "NODELIST": "localhost"}.items():
        monkeypatch.setenv(f"SLURM_{key}", value)
    config, world = compose([*SMALL, "trainer.accelerator=cpu"]).config, World(0, 1, 0, 1)
    strategy = build_strategy(config, SingleStrategy(name="single"), world, "cpu")
    trainer = build_trainer(config, strategy, world, logger=False)
    assert isinstance(trainer._accelerator_connector.cluster_environment, LightningEnvironment)
    assert trainer.world_size == 1


@pytest.mark.parametrize(
    ("words", "steps"),
    [
        (("trainer.max_epochs=3",), 6),
        (("trainer.max_epochs=3", "trainer.max_steps=4"), 4),
        (("trainer.max_samples=70",), 2),
        (("trainer.max_samples=71",), 3),
        (("trainer.max_epochs=null", "trainer.max_time=5"), None),
    ],
)
def test_the_first_limit_is_the_end(words: tuple[str, ...], steps: int | None) -> None:
    config = compose([*SMALL, *words]).config
    assert horizon(config, 70).steps_per_epoch == 2
    assert horizon(config, 70).total_steps == steps


def test_a_device_that_is_not_there_is_never_replaced() -> None:
    kind = "gpu" if not torch.cuda.is_available() else "mps"
    with pytest.raises(ConfigError, match=f"trainer.accelerator={kind}, but torch sees no"):
        device_type(kind)


def test_a_default_width_that_ranks_cannot_split_is_refused() -> None:
    words = ("model=gpt", "data=synthetic_tokens", "data.num_samples=20", "model.num_heads=3", "model.width=48")
    config = compose([*words, "model.num_layers=1", "strategy=tensor_parallel"]).config
    network = build_network(config, build_data(config))  # of 128 hidden values: 8/3 of the width, in multiples of 64
    with pytest.raises(
        ConfigError, match=r"^model\.mlp_width is 128 by default, which strategy\.tensor_size=3 does not"
    ):
        choose_strategy(config, network, World(0, 3, 0, 3), "cpu")
