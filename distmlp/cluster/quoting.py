"""How a value is written so that its reader takes it whole: sbatch, its file patterns, Hydra.

For the shell `shlex.quote` does it. None of them can quote a line break: `one_line` refuses it first.
"""

import re

from distmlp.errors import ConfigError

PLAIN = re.compile(r"[A-Za-z0-9._/:,=+@%^-]+")


def one_line(value: str, what: str) -> str:
    """``value``, unless it could end a line of the script.

    Raises:
        ConfigError: it holds a line break, a control character or bytes that are no text; ``what`` names it.
    """
    if not value.isprintable():
        raise ConfigError(f"{what} {value!r} must be one line of printable characters")
    return value


def for_sbatch(value: str) -> str:
    """``value`` of an `#SBATCH` option. In quotes or not, sbatch takes the character after a backslash as it is."""
    if PLAIN.fullmatch(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def for_pattern(path: str) -> str:
    """``path`` in `--output`, where % begins a symbol.

    Raises:
        ConfigError: it holds a backslash, which switches all symbols off.
    """
    if "\\" in path:
        raise ConfigError(f"SLURM cannot write a log into {path}: choose a run.root without a backslash")
    return path.replace("%", "%%")


def hydra_word(key: str, value: object) -> str:
    """``key=value`` as a word of the command line. A text stands for itself, be it ``1e5`` or ``null``.

    Raises:
        ConfigError: a text holds ``${``, which would be resolved.
    """
    return f"{key}={_hydra_value(key, value)}"


def _hydra_value(key: str, value: object) -> str:
    from hydra.core.override_parser.types import Quote, QuotedString

    if isinstance(value, list):
        return f"[{','.join(_hydra_value(key, one) for one in value)}]"
    if not isinstance(value, str):
        return "null" if value is None else str(value).lower()
    if "${" in value:
        raise ConfigError(f"{key}={value} holds ${{, which begins an interpolation: choose another name")
    return str(QuotedString(text=value, quote=Quote.double).with_quotes())
