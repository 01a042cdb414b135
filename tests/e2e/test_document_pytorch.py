"""The document's PyTorch program: its plain loop and `experiment=document_pytorch` take the same losses."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from distmlp.cli import main
from distmlp.data.dataset import TensorSplit
from distmlp.data.digits import load_digits
from distmlp.data.order import permuted


def document_losses(inputs: torch.Tensor, targets: torch.Tensor, *, seed: int, batch: int, epochs: int) -> list[float]:
    """The document's training loop, given an order of samples."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for epoch in range(epochs):
        order = torch.from_numpy(permuted(np.arange(len(targets)), len(targets), seed, epoch))
        for index in order.split(batch):
            optimizer.zero_grad()
            loss = criterion(model(inputs[index].view(len(index), -1)), targets[index])
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def test_every_step_loss_equals_the_documents_loop(tmp_path: Path) -> None:
    arguments = ["experiment=document_pytorch", "seed=3", "trainer.log_every_steps=1", "tracking=none"]
    assert main(["train", f"run.root={tmp_path}", "run.id=parity", *arguments]) == 0
    lines = (tmp_path / "document_pytorch" / "parity" / "metrics.jsonl").read_text().splitlines()
    losses = [row["train/loss"] for row in map(json.loads, lines) if "train/loss" in row]

    train = load_digits(validation_fraction=0.1, test_fraction=0.2, split_seed=0, normalize=True).train
    assert isinstance(train, TensorSplit)
    expected = document_losses(train.inputs, train.targets, seed=3, batch=64, epochs=10)

    assert len(losses) == len(expected) == 10 * -(-len(train) // 64)
    assert max(abs(a - b) for a, b in zip(losses, expected, strict=True)) <= 1e-6
    assert losses[-1] < 0.6 * losses[0]
