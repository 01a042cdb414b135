"""`distmlp checkpoint <action> …`: lists, shows, verifies, compares, exports and imports checkpoints."""

import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from rich.console import Console

from distmlp.apps.words import split_words
from distmlp.config import nearest
from distmlp.errors import ConfigError

USAGE = """\
usage: distmlp checkpoint <action> …

  list RUN                    its checkpoints: position, size, strategy, age, validation
  show RUN|CHECKPOINT         position, versions and tensors of the newest, or of this one
  verify RUN|CHECKPOINT       reads every file and compares its SHA-256; exit status 1 if any is damaged
  diff A B                    what differs in state and tensors; exit status 1 if anything does
  export RUN|CHECKPOINT --to PLACE [--format safetensors|torch|huggingface] [--average]
                              the weights as one file, or as a folder for transformers
  import SOURCE [--into RUNS] [--prefix NAME.] [--trust-source] [group=choice] [key=value]
                              a run that holds the weights of a Lightning, torch, safetensors,
                              DeepSpeed ZeRO or torch.distributed.checkpoint source

RUN is a run folder, CHECKPOINT one of RUN/checkpoints/step-…"""
DAMAGED = DIFFERENT = 1


def run(arguments: list[str]) -> int:
    """Does what ``arguments`` say. Returns the exit status: 0, or 1 where damage or a difference was found."""
    if not arguments or {"--help", "-h"} & set(arguments):
        print(USAGE)
        return 0
    try:
        return _act(arguments[0], arguments[1:])
    except BrokenPipeError:
        raise
    except OSError as error:  # a folder that may not be read, a disk that fails
        raise ConfigError(f"{error.filename or 'a file'}: {error.strerror or error}") from None


def _act(action: str, words: list[str]) -> int:
    if action in ("export", "import"):
        status: int = import_module(f"distmlp.apps.checkpoint_{action}").run(words)
        return status
    actions: dict[str, Callable[[list[str]], int]] = {"list": _list, "show": _show, "verify": _verify, "diff": _diff}
    if action not in actions:
        raise ConfigError(f"unknown action {action}{nearest(action, [*actions, 'export', 'import'])}")
    return actions[action](words)


def places(action: str, words: list[str], count: int, what: str) -> list[Path]:
    """The ``count`` places that the words of an action without flags are."""
    plain, _ = split_words(words, {})
    if len(plain) != count:
        raise ConfigError(f"distmlp checkpoint {action} takes {what}, not {len(plain)} words")
    return [Path(word) for word in plain]


def _list(words: list[str]) -> int:
    from distmlp.checkpoint.overview import overview_of
    from distmlp.checkpoint.places import find_checkpoints, quarantined
    from distmlp.report.checkpoints import checkpoint_table

    found = find_checkpoints(*places("list", words, 1, "a run folder"))
    overviews = [overview_of(found.storage, name) for name in found.names]
    console = Console(highlight=False)
    console.print(checkpoint_table(overviews, time.time()))
    for one in overviews:
        if one.damage:
            console.print(f"{one.name}: {one.damage}", soft_wrap=True, markup=False)
    aside = quarantined(found)
    if aside:
        console.print(f"quarantine: {len(aside)} damaged, set aside: {', '.join(aside)}", soft_wrap=True, markup=False)
    return 0


def _show(words: list[str]) -> int:
    from distmlp.checkpoint.places import find_checkpoints, newest_readable
    from distmlp.report.checkpoints import show_checkpoint

    found = find_checkpoints(*places("show", words, 1, "a run folder or a checkpoint"))
    with newest_readable(found) as reader:
        show_checkpoint(Console(highlight=False), reader, time.time())
    return 0


def _verify(words: list[str]) -> int:
    from distmlp.checkpoint.places import find_checkpoints
    from distmlp.report.verdicts import verify_and_show

    found = find_checkpoints(*places("verify", words, 1, "a run folder or a checkpoint"))
    console = Console(highlight=False)
    sound = [verify_and_show(console, found.storage, name) for name in found.names]
    console.print(f"{sum(sound)} of {len(sound)} checkpoint(s) sound")
    return 0 if all(sound) else DAMAGED


def _diff(words: list[str]) -> int:
    from distmlp.checkpoint.difference import compare, shared_bytes
    from distmlp.checkpoint.places import find_checkpoints, newest_readable
    from distmlp.report.byte_progress import byte_progress
    from distmlp.report.verdicts import show_difference

    first, second = (find_checkpoints(place) for place in places("diff", words, 2, "two runs or checkpoints"))
    with newest_readable(first) as mine, newest_readable(second) as theirs:
        with byte_progress("comparing", shared_bytes(mine, theirs)) as bar:
            found = compare(mine, theirs, bar.advance)
        console = Console(highlight=False)
        console.print(f"first:  {mine.where}\nsecond: {theirs.where}", soft_wrap=True, markup=False)
        show_difference(console, found)
    return 0 if found.is_empty else DIFFERENT
