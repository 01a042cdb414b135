"""distmlp: one training loop from a laptop to a multi-node cluster, and the same run on each of them."""

__version__ = "0.1.0"
