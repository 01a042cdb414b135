"""``distmlp plot``: the curves of one or several runs, in the terminal and as a PNG."""

import difflib
from pathlib import Path

from distmlp.errors import ConfigError
from distmlp.report.curves import PICTURE_TITLE, draw_png, draw_terminal
from distmlp.report.metrics import find_run

USAGE = "distmlp plot RUN… [out=FILE.png]"
_KEYS = ("out",)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_BYTES = 1024


def run(arguments: list[str]) -> int:
    """Draws the runs named in ``arguments`` and returns the exit status 0.

    Raises:
        ConfigError: no run, an unknown key, an unreadable run, or a target that is not an earlier picture of ours.
    """
    if {"-h", "--help"} & set(arguments):
        print(f"usage: {USAGE}\nRUN is a run folder, or runs/<name> for the newest run in it.")
        return 0
    paths, out = _split(arguments)
    if not paths:
        raise ConfigError(f"no run to plot; usage: {USAGE}")
    runs = list(dict.fromkeys(find_run(path) for path in paths))
    target = _checked(out or (runs[0] / "curves.png" if len(runs) == 1 else Path("curves.png")))
    text = draw_terminal(runs)
    draw_png(runs, target)
    print(f"{text}\n\n{target}")
    return 0


def _split(arguments: list[str]) -> tuple[list[Path], Path | None]:
    """Runs and the target; a run folder may have ``=`` in its name, as a sweep's have."""
    paths: list[Path] = []
    out: Path | None = None
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if key == "out" and equals:
            if not value.lower().endswith(".png"):
                raise ConfigError(f"out={value}: the picture is a PNG, so give a name that ends in .png")
            out = Path(value)
        elif argument.startswith("-") or (equals and "/" not in key and not Path(argument).exists()):
            nearest = (difflib.get_close_matches(key.lstrip("-"), _KEYS, n=1, cutoff=0.0) or _KEYS)[0]
            raise ConfigError(f"unknown key {key!r}; did you mean {nearest}=FILE.png? usage: {USAGE}")
        else:
            paths.append(Path(argument))
    return paths, out


def _checked(target: Path) -> Path:
    """``target``, unless something else than an earlier picture of curves lies there."""
    if not target.exists():
        return target
    if not target.is_file():
        raise ConfigError(f"{target} is not a file; give out=FILE.png")
    with target.open("rb") as stream:
        header = stream.read(_HEADER_BYTES)
    if not header.startswith(_PNG_SIGNATURE):
        raise ConfigError(f"{target} exists and is not a PNG; it stays as it is, choose another out=FILE.png")
    if PICTURE_TITLE.encode() not in header:
        raise ConfigError(
            f"{target} is a picture that distmlp did not draw; it stays as it is, choose another out=FILE.png"
        )
    return target
