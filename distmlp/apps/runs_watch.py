"""`distmlp runs watch RUN`: a run, live, until it ends."""

from rich.console import Console

from distmlp.apps.runs import root_of
from distmlp.apps.words import split_words
from distmlp.errors import ConfigError


def run(arguments: list[str]) -> int:
    """Shows the run in ``arguments``. Returns 0, also after Ctrl-C: that is the way out, and the run goes on."""
    from distmlp.report.run_lookup import find_one
    from distmlp.report.watch import watch
    from distmlp.report.watched import Watched

    plain, flags = split_words(arguments, {"--root": True})
    if len(plain) != 1:
        raise ConfigError(f"distmlp runs watch takes one run, not {len(plain)}")
    console = Console()
    try:
        watch(console, Watched(find_one(plain[0], root_of(flags))))
    except KeyboardInterrupt:
        console.print("watched no longer; the run goes on", highlight=False)
    return 0
