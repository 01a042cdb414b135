"""Weights of other programs are found under any prefix, and no file of theirs runs code unless it is trusted."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from distmlp.errors import ConfigError
from distmlp.foreign.names import match
from distmlp.foreign.opened import open_source
from distmlp.foreign.source import Source


class Canary:
    """Unpickled without restriction, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in network().state_dict().items()}


def assert_has_weights(source: Source, prefix: str | None = None) -> None:
    expected = network().state_dict()
    found = match(source, network(), prefix)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name].read(), tensor) for name, tensor in expected.items())


def lightning_file(path: Path, **more: Any) -> Path:
    values = {"state_dict": prefixed("model."), "global_step": 30, "epoch": 2, "pytorch-lightning_version": "2.6.6"}
    torch.save(values | more, path)
    return path


def test_a_lightning_checkpoint_of_a_real_run(tmp_path: Path) -> None:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"lr": 0.1, "name": "x"})
            self.network = network()
            self.scale = nn.Parameter(torch.ones(3))

        def training_step(self, batch: Tensor, index: int) -> Tensor:
            loss: Tensor = (self.scale * self.network(batch)).square().mean()
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    quiet: dict[str, Any] = {"enable_progress_bar": False, "logger": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    module = Module()
    trainer.fit(module, torch.utils.data.DataLoader(torch.randn(12, 5), batch_size=4))
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    source = open_source(tmp_path / "x.ckpt", False)
    assert (source.kind, source.step, source.epoch) == ("Lightning checkpoint", 6, 2)
    found = match(source, module.network, None)
    for name, tensor in module.network.state_dict().items():
        assert torch.equal(found[name].read(), tensor)


@pytest.mark.parametrize("prefix", ["", "model.", "network.", "module.net._orig_mod."])
def test_the_prefix_is_found(prefix: str, tmp_path: Path) -> None:
    torch.save(prefixed(prefix), tmp_path / "w.pt")
    save_file(prefixed(prefix), tmp_path / "w.safetensors")
    for name in ("w.pt", "w.safetensors"):
        assert_has_weights(open_source(tmp_path / name, False))


def test_of_two_that_fit_the_user_chooses(tmp_path: Path) -> None:
    doubled = prefixed("model.") | {name: tensor + 1 for name, tensor in prefixed("average.").items()}
    torch.save({"state_dict": doubled}, tmp_path / "w.ckpt")
    source = open_source(tmp_path / "w.ckpt", False)
    with pytest.raises(ConfigError, match=r"are there several times: give --prefix average\. or model\.$"):
        match(source, network(), None)
    assert_has_weights(source, "model.")


def change(name: str, tensor: Tensor | None) -> dict[str, Tensor]:
    weights = prefixed("model.")
    weights.pop(name, None)
    return weights if tensor is None else weights | {name: tensor}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (change("model.1.bias", None), "holds no model.1.bias, which the configuration's network has (names taken"),
        (change("model.0.weight", torch.zeros(7, 6)), "model.0.weight has shape (7, 6), the configuration's network"),
        (change("model.9.bias", torch.zeros(2)), "the configuration's network has no 9.bias (names taken behind"),
        (change("model.0.bias", torch.zeros(7, dtype=torch.int64)), "model.0.bias is int64, the network's is float32"),
        ({"x": torch.zeros(2)}, "holds no 0.weight, which the configuration's network has"),
    ],
)
def test_the_first_difference_is_named(weights: dict[str, Tensor], message: str, tmp_path: Path) -> None:
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(ConfigError) as error:
        match(open_source(tmp_path / "w.pt", False), network(), None)
    assert message in str(error.value)


@pytest.mark.parametrize("trust", [False, True])
def test_a_single_file_never_runs_code(trust: bool, tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    lightning_file(tmp_path / "zip.ckpt", callbacks=Canary(harm))
    torch.save({"state_dict": Canary(harm)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Canary(harm)))
    for name in ("zip.ckpt", "old.pt", "bare.pth"):
        with pytest.raises(ConfigError, match=r"holds more than tensors and plain values: it (names|is no plain)"):
            open_source(tmp_path / name, trust)
    assert not harm.exists()
    pickle.loads((tmp_path / "bare.pth").read_bytes())
    assert harm.exists()  # it would have been seen


@pytest.mark.parametrize("name", ["x.ckpt", "x.safetensors"])
def test_what_is_no_checkpoint_is_named(name: str, tmp_path: Path) -> None:
    for contents in (b"", b"PK\x03\x04 and more", b"hello" * 20):
        (tmp_path / name).write_bytes(contents)
        with pytest.raises(ConfigError, match=rf"{name} (is no |holds more than)"):
            open_source(tmp_path / name, False)
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    with pytest.raises(ConfigError, match="holds no weights: looked for tensors by name"):
        open_source(tmp_path / "none.pt", False)
    with pytest.raises(ConfigError, match="is no checkpoint that can be imported: give a Lightning"):
        open_source(tmp_path, False)
    with pytest.raises(ConfigError, match="does not exist"):
        open_source(tmp_path / "nowhere", False)


def dcp_folder(folder: Path) -> Path:
    from torch.distributed import checkpoint as dcp

    state = {"model": dict(network().state_dict()), "optimizer": {"step": 3}}
    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder), no_dist=True)
    return folder


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_distributed_checkpoint_is_read_where_it_is_trusted(tmp_path: Path) -> None:
    folder = dcp_folder(tmp_path / "dcp")
    with pytest.raises(ConfigError, match=r"its \.metadata is a pickle.*give --trust-source"):
        open_source(folder, False)
    source = open_source(folder, True)
    assert "can run code" in source.warning
    assert_has_weights(source)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_distributed_checkpoint_runs_no_code_where_it_is_not_trusted(tmp_path: Path) -> None:
    folder = dcp_folder(tmp_path / "dcp")
    (folder / ".metadata").write_bytes(pickle.dumps(Canary(tmp_path / "harm")))
    with pytest.raises(ConfigError, match="--trust-source"):
        open_source(folder, False)
    assert not (tmp_path / "harm").exists()


def test_tied_weights_are_taken_once_and_16_bits_are_widened(tmp_path: Path) -> None:
    tied = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False))
    tied[1].weight = tied[0].weight
    torch.save(tied.bfloat16().state_dict(), tmp_path / "w.pt")
    found = match(open_source(tmp_path / "w.pt", False), tied.float(), None)
    assert list(found) == ["0.weight"]
    assert found["0.weight"].read().dtype == torch.float32
    assert torch.equal(found["0.weight"].read(), tied[0].weight)
