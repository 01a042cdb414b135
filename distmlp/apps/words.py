"""Command lines with flags: `--to PLACE`, `--to=PLACE`, `--average`, among other words."""

from collections.abc import Mapping

from distmlp.config import nearest
from distmlp.errors import ConfigError


def split_words(arguments: list[str], flags: Mapping[str, bool]) -> tuple[list[str], dict[str, str]]:
    """The words that are no flags, and the value of each flag that is there (an empty one where it takes none).

    Args:
        arguments: the command line.
        flags: whether each, such as ``--to``, takes a value.

    Raises:
        ConfigError: a flag is unknown, lacks its value, or has one that it does not take.
    """
    plain: list[str] = []
    values: dict[str, str] = {}
    words = iter(arguments)
    for word in words:
        if not word.startswith("--"):
            plain.append(word)
            continue
        flag, equals, value = word.partition("=")
        if flag not in flags:
            raise ConfigError(f"unknown flag {flag}{nearest(flag, list(flags)) if flags else ': there is none here'}")
        if flags[flag] and not equals:
            found = next(words, None)
            if found is None or found.startswith("--"):
                raise ConfigError(f"{flag} needs a value: give {flag} …")
            value = found
        elif equals and not flags[flag]:
            raise ConfigError(f"{flag} takes no value")
        values[flag] = value
    return plain, values
