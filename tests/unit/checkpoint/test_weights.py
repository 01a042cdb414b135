"""A checkpoint's weights go into a network of the same shape, and into no other."""

from pathlib import Path

import pytest
import torch
from torch import nn

from distmlp.checkpoint.errors import DamagedError
from distmlp.checkpoint.storage import LocalStorage
from distmlp.checkpoint.weights import load_newest, load_weights
from distmlp.checkpoint.whole import write_whole
from distmlp.errors import ConfigError


def network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width))


def saved(storage: LocalStorage, step: int, made: nn.Module, **others: dict[str, torch.Tensor]) -> str:
    return write_whole(storage, step, {"weights": dict(made.state_dict()), **others}, {"step": step})


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "checkpoints")


def test_a_network_takes_all_weights_and_buffers(storage: LocalStorage) -> None:
    source, target = network(), network()
    source(torch.randn(8, 4))  # moves the running statistics
    name = saved(storage, 7, source)
    assert load_weights(target, storage, name)["step"] == 7
    assert all(torch.equal(tensor, target.state_dict()[key]) for key, tensor in source.state_dict().items())


def test_the_average_is_taken_where_there_is_one(storage: LocalStorage) -> None:
    source, target = network(), network()
    average = {key: weight.detach() + 1 for key, weight in source.named_parameters()}
    load_weights(target, storage, saved(storage, 7, source, average=average))
    assert all(torch.equal(average[key], weight) for key, weight in target.named_parameters())


def test_tied_weights_are_loaded_once(storage: LocalStorage) -> None:
    source, target = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    for made in (source, target):
        made[1].weight = made[0].weight
    name = write_whole(storage, 1, {"weights": {k: v.detach() for k, v in source.named_parameters()}}, {"step": 1})
    load_weights(target, storage, name)
    assert torch.equal(target[1].weight, source[0].weight)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)), r"0\.bias has shape \(3,\), the network's is \(5,\)"),
        (nn.Sequential(nn.Linear(4, 3)), r"1\.bias is only in the checkpoint"),
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)), r"2\.bias is only in the network"),
    ],
)
def test_what_differs_is_named_and_nothing_is_changed(other: nn.Module, message: str, storage: LocalStorage) -> None:
    name = saved(storage, 7, network())
    before = {key: tensor.clone() for key, tensor in other.state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        load_weights(other, storage, name)
    assert all(torch.equal(before[key], tensor) for key, tensor in other.state_dict().items())


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    storage: LocalStorage, warnings_logged: list[str]
) -> None:
    first = network()
    saved(storage, 1, first)
    damaged = saved(storage, 2, network())
    path = storage.root / damaged / "tensors-00000-of-00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    target = network()
    with pytest.raises(DamagedError, match=r"safetensors is damaged"):
        load_weights(target, storage, damaged)
    name, state = load_newest(target, storage)
    assert (name, state["step"]) == ("step-00000001", 1)
    assert torch.equal(target.state_dict()["0.weight"], first.state_dict()["0.weight"])
    assert any(f"{path} is damaged" in message for message in warnings_logged)


def test_no_checkpoint_is_said(storage: LocalStorage) -> None:
    with pytest.raises(ConfigError, match="holds no sound checkpoint"):
        load_newest(network(), storage)
