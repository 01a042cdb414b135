"""Checkpoints that other programs wrote: their weights, under the names of our networks, without running their code."""
