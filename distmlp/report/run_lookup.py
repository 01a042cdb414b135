"""Which run a word means: a folder, `name/id`, an id, or the beginning of one of these."""

from pathlib import Path

from distmlp.errors import ConfigError, did_you_mean
from distmlp.report.runs import Found, find_runs, last_change

SHOWN = 3


def find_place(word: str, root: Path) -> Path:
    """The folder that a word of `distmlp runs` means: a path, or the name of runs below ``root``.

    Raises:
        ConfigError: there is no such folder.
    """
    for place in (Path(word), root / word):
        if place.is_dir():
            return place
    names = [path.name for path in root.iterdir()] if root.is_dir() else []
    near = did_you_mean(word, names)
    raise ConfigError(f"no folder {word}, and none below {root}{near or ': give a run, a name of runs or a root'}")


def find_one(word: str, root: Path) -> Found:
    """The run that ``word`` means.

    Raises:
        ConfigError: there is none, or more than one.
    """
    folder = Path(word)
    changed = last_change(folder) if folder.is_dir() else None
    if changed is not None:
        return Found(folder, changed)
    found = find_runs([root], []) if root.is_dir() else []
    keys = {run: (run.name, run.folder.name) for run in found}
    exact = [run for run in found if word in keys[run]]
    fitting = exact or [run for run in found if any(key.startswith(word) for key in keys[run])]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(run.name for run in fitting[:SHOWN]) + (", …" if len(fitting) > SHOWN else "")
        raise ConfigError(f"{word} may be {len(fitting)} runs: {names}: give more of the name")
    near = did_you_mean(word, [key for run in found for key in keys[run]])
    raise ConfigError(f"no run {word} below {root}{near or _newest(found)}")


def _newest(found: list[Found]) -> str:
    if not found:
        return ": there is no run at all; give a run folder, or --root FOLDER"
    return f": the newest are {', '.join(run.name for run in found[:SHOWN])}"
