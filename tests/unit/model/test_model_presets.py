"""Every preset is the published network: as many parameters, built from its file through the schema."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from distmlp.model.bert import BERT
from distmlp.model.gpt import GPT
from distmlp.schema.model import BERTModel, GPTModel

EXACT = {
    "gpt2_124m": 124_439_808,
    "gpt2_355m": 354_823_168,
    "gpt2_774m": 774_030_080,
    "gpt2_1558m": 1_557_611_200,
    "llama3_8b": 8_030_261_248,
    "llama3_70b": 70_553_706_496,
    "bert_base": 109_514_298,
    "bert_large": 335_174_458,
}
# As the paper's table 2.1 has them, in two or three digits.
ROUNDED = {
    "gpt3_125m": 125e6,
    "gpt3_350m": 350e6,
    "gpt3_760m": 760e6,
    "gpt3_1300m": 1.3e9,
    "gpt3_2700m": 2.7e9,
    "gpt3_6700m": 6.7e9,
    "gpt3_13b": 13e9,
    "gpt3_175b": 175e9,
}


def read(repository: Path, name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((repository / "conf" / "model" / f"{name}.yaml").read_text())
    return values


def build(values: dict[str, Any]) -> nn.Module:
    """On the meta device: 175 billion parameters take no memory there."""
    schema, network = {"gpt": (GPTModel, GPT), "bert": (BERTModel, BERT)}[values["name"]]
    arguments = schema(**values).model_dump(exclude={"name", "activation_checkpointing", "compile"})
    with torch.device("meta"):
        made: nn.Module = network(input_shape=(128,), num_outputs=100, **arguments)
    return made


def num_parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


@pytest.mark.parametrize("name", EXACT)
def test_a_preset_has_the_published_number_of_parameters(repository: Path, name: str) -> None:
    assert num_parameters(build(read(repository, name))) == EXACT[name]


@pytest.mark.parametrize("name", ROUNDED)
def test_a_preset_of_gpt_3_is_as_large_as_the_paper_says(repository: Path, name: str) -> None:
    precision = 0.01 if name == "gpt3_175b" else 0.02
    assert num_parameters(build(read(repository, name))) == pytest.approx(ROUNDED[name], rel=precision)


def test_every_preset_is_listed_here_and_holds_every_key(repository: Path) -> None:
    found = {path.stem for path in (repository / "conf" / "model").glob("*_*.yaml")}
    assert found == {*EXACT, *ROUNDED}
    for name in found:
        values = read(repository, name)
        assert values.keys() == read(repository, values["name"]).keys()
