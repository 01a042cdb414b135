"""The document's Keras program: real Keras 3 and `experiment=document_keras` take the same losses."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distmlp.build import build_data, build_network
from distmlp.cli import main
from distmlp.compose import compose
from distmlp.data.dataset import TensorSplit
from distmlp.data.order import permuted

EPOCHS = 10


@pytest.fixture(scope="module")
def keras() -> Any:
    os.environ["KERAS_BACKEND"] = "torch"
    import keras

    assert keras.backend.backend() == "torch"
    return keras


def keras_program(keras: Any, network: nn.Module) -> Any:
    """The document's model, compiled as it says, with the weights of ``network``."""
    layers = keras.layers
    model = keras.Sequential(
        [layers.Input((784,)), layers.Dense(128, activation="relu"), layers.Dense(10, activation="softmax")]
    )
    model.compile(optimizer=keras.optimizers.SGD(), loss="categorical_crossentropy", metrics=["accuracy"])
    first, last = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    model.set_weights([tensor.detach().numpy() for layer in (first, last) for tensor in (layer.weight.T, layer.bias)])
    return model


def test_every_step_loss_equals_keras(keras: Any, tmp_path: Path) -> None:
    arguments = ["experiment=document_keras", "trainer.log_every_steps=1", "tracking=none", "data.image_size=28"]
    assert main(["train", f"run.root={tmp_path}", "run.id=parity", *arguments]) == 0
    lines = (tmp_path / "document_keras" / "parity" / "metrics.jsonl").read_text().splitlines()
    losses = [row["train/loss"] for row in map(json.loads, lines) if "train/loss" in row]

    config = compose(arguments).config
    data = build_data(config)
    assert isinstance(data.train, TensorSplit)
    model = keras_program(keras, build_network(config, data))
    inputs = data.train.inputs.flatten(1).numpy()
    one_hot = np.eye(10, dtype=np.float32)[data.train.targets.numpy()]
    expected = []
    for epoch in range(EPOCHS):
        order = permuted(np.arange(len(inputs)), len(inputs), 0, epoch)
        for start in range(0, len(order), 32):
            batch = order[start : start + 32]
            expected.append(float(model.train_on_batch(inputs[batch], one_hot[batch], return_dict=True)["loss"]))
            model.reset_metrics()

    assert len(losses) == len(expected)
    assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) <= 1e-5


def test_initial_weights_are_drawn_as_keras_draws_them(keras: Any) -> None:
    config = compose(["experiment=document_keras"]).config
    network = build_network(config, build_data(config))
    model = keras_program(keras, network)
    fresh = keras.models.clone_model(model).get_weights()
    linears = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    for layer, kernel, bias in zip(linears, fresh[::2], fresh[1::2], strict=True):
        limit = (6 / (layer.in_features + layer.out_features)) ** 0.5
        assert layer.weight.abs().max() <= limit + 1e-6
        assert abs(layer.weight.std().item() - np.std(kernel)) < 0.05 * np.std(kernel) + 0.005
        assert not bias.any()
        assert torch.count_nonzero(layer.bias) == 0
