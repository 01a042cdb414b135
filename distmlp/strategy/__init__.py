"""How a run is spread over ranks: one file for each strategy, all with the same interface (`base.py`).

A strategy knows nothing of a particular network but that `blocks` holds its repeated units.
"""
