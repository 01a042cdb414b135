"""The typed schema of the configuration: every group's keys, their types and their help lines.

Pydantic checks types and unknown keys; what must hold between the keys of one group is checked beside them, what must
hold between groups in `config.py`. Nothing here needs torch, so that a mistake is answered before anything heavy loads.
"""
