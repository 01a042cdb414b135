"""The parity matrix: which runs are compared, how ranks are started for them, and how far results may differ."""
