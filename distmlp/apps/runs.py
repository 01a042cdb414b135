"""`distmlp runs [action] …`: how runs are doing, one of them live, and ending one."""

from importlib import import_module
from pathlib import Path

from rich.console import Console

from distmlp.apps.words import split_words
from distmlp.errors import ConfigError

USAGE = """\
usage: distmlp runs [ROOT|NAME|RUN …] [--last N] [--json] [--root FOLDER]
       distmlp runs watch RUN [--root FOLDER]
       distmlp runs cancel RUN [--now] [--root FOLDER]

  without action   a table of all runs, newest first: state, step, loss, validation, job, host
                   --last N    so many of them (20)
                   --json      a JSON object a line
  watch            live: state, speed, loss and log, until the run ends; Ctrl-C leaves the run alone
  cancel           lets the run save, and ends it: its SLURM job for good, or its processes here
                   --now       does not wait for it to save

RUN is a run folder, NAME/ID below --root (runs), an id, or the beginning of one.
States: submitted (waits for its job), running, finished, stopped (saved, can go on), failed,
lost (should be running and is not); with a ? it could not be checked."""
ACTIONS = ("watch", "cancel")
LAST = 20


def run(arguments: list[str]) -> int:
    """Does what ``arguments`` say. Returns the exit status."""
    if {"--help", "-h"} & set(arguments):
        print(USAGE)
        return 0
    if arguments and arguments[0] in ACTIONS:
        status: int = import_module(f"distmlp.apps.runs_{arguments[0]}").run(arguments[1:])
        return status
    return _list(arguments)


def root_of(flags: dict[str, str]) -> Path:
    """The folder that holds all runs."""
    root = Path(flags.get("--root", "runs"))
    if "--root" in flags and not root.is_dir():
        raise ConfigError(f"--root {root} is no folder")
    return root


def _list(words: list[str]) -> int:
    from distmlp.report.run_lookup import find_place
    from distmlp.report.run_table import as_json_line, show_runs
    from distmlp.report.runs import find_runs, rows

    plain, flags = split_words(words, {"--last": True, "--json": False, "--root": True})
    last, root = _count(flags.get("--last", str(LAST))), root_of(flags)
    if not plain and not root.is_dir():
        raise ConfigError(f"there is no folder {root} here: give a run, a name of runs or a folder that holds runs")
    unreadable: list[str] = []
    found = find_runs([find_place(word, root) for word in plain] or [root], unreadable)
    shown = rows(found[:last])
    if "--json" in flags:
        for row in shown:
            print(as_json_line(row))
    elif found:
        show_runs(Console(highlight=False), shown, len(found) - len(shown))
    else:
        print("no runs here")
    for line in unreadable:
        Console(stderr=True, highlight=False).print(f"distmlp: cannot be read: {line}", soft_wrap=True, markup=False)
    return 0


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ConfigError(f"--last {text}: give a number of runs, such as --last {LAST}")
    return int(text)
