"""A value reaches its reader whole: Hydra's parser, sbatch's rules; what could end a line is refused."""

import pytest

from distmlp.cluster.quoting import for_pattern, for_sbatch, hydra_word, one_line
from distmlp.compose import compose, parse
from distmlp.errors import ConfigError

AWKWARD = [
    "a b",
    'say "hi"',
    "it's",
    "$(touch x)",
    "`id`",
    "a;b|c&d",
    "é Ω 学",
    "100%d",
    "#no comment",
    "a\\",
    'a\\"',
    "1e5",
    "null",
    "-x",
    "",
]


@pytest.mark.parametrize("value", AWKWARD)
def test_a_text_comes_out_of_hydra_as_it_went_in(value: str) -> None:
    assert parse(hydra_word("run.name", value)).value() == value
    assert parse(hydra_word("cluster.modules", [value, "b"])).value() == [value, "b"]


@pytest.mark.parametrize("value", [None, True, False, 3, 0.5])
def test_so_does_a_value_of_another_type(value: object) -> None:
    assert parse(hydra_word("cluster.nodes", value)).value() == value


def test_an_id_that_looks_like_a_number_stays_a_text() -> None:
    assert compose([hydra_word("run.id", "1e5")]).config.run.id == "1e5"


def test_an_interpolation_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^run\.root=/a/\$\{seed\} holds \$\{, which begins an interpolation"):
        hydra_word("run.root", "/a/${seed}")


def read_by_sbatch(text: str) -> str:
    """The rules of `_get_argument` in SLURM's src/sbatch/opt.c; tests/slurm asks sbatch itself."""
    value, quote, position = "", "", 0
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1
            value += text[position]
        elif quote and character == quote:
            quote = ""
        elif not quote and character in "\"'":
            quote = character
        elif not quote and (character.isspace() or character == "#"):
            break
        else:
            value += character
        position += 1
    assert not quote
    return value


@pytest.mark.parametrize("value", AWKWARD)
def test_a_value_comes_out_of_sbatch_as_it_went_in(value: str) -> None:
    assert read_by_sbatch(for_sbatch(value)) == value


@pytest.mark.parametrize("value", ["a\nb", "a\r", "a\x00b", "a\x1b[0m", "a\u2028b", "a\x85b", "\udcff"])
def test_what_is_no_single_line_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="must be one line of printable characters"):
        one_line(value, "run.root")


def test_a_percent_sign_in_a_path_is_no_symbol_and_a_backslash_is_refused() -> None:
    assert for_pattern("/runs/100%j") == "/runs/100%%j"
    with pytest.raises(ConfigError, match=r"choose a run\.root without a backslash"):
        for_pattern("/runs/a\\b")
