"""The site file: found in its two places, read as a user means it, a mistake names the file and the nearest key."""

from pathlib import Path

import pytest

from distmlp.cluster.site import site_words
from distmlp.compose import compose
from distmlp.errors import ConfigError


def written(folder: Path, text: str) -> dict[str, str]:
    """An environment that names a site file of this text."""
    file = folder / "site.yaml"
    file.write_text(text)
    return {"DISTMLP_CLUSTER_FILE": str(file)}


def test_it_is_found_by_its_variable_or_in_the_usual_folder(tmp_path: Path) -> None:
    assert site_words({"XDG_CONFIG_HOME": str(tmp_path)}) == ([], "")
    usual = tmp_path / "distmlp" / "cluster.yaml"
    usual.parent.mkdir()
    usual.write_text("account: usual")
    assert site_words({"XDG_CONFIG_HOME": str(tmp_path)}) == (['cluster.account="usual"'], str(usual))
    named = written(tmp_path, "account: named") | {"XDG_CONFIG_HOME": str(tmp_path)}
    assert site_words(named)[0] == ['cluster.account="named"']


def test_times_and_accounts_are_what_they_look_like(tmp_path: Path) -> None:
    """YAML 1.1 would make 43200, 83 and a list of numbers of these."""
    text = "time: 12:00:00\naccount: 0123\nnodes: 4\nrequeue: false\nqos: null\nmodules: [cuda/12.4, '8']\n"
    words, _ = site_words(written(tmp_path, text))
    cluster = compose(["cluster=slurm", *words]).config.cluster.model_dump()
    expected = {"time": "12:00:00", "account": "0123", "nodes": 4, "requeue": False, "qos": None}
    assert expected.items() <= cluster.items()
    assert cluster["modules"] == ["cuda/12.4", "8"]


@pytest.mark.parametrize("text", ["", "# nothing yet\n"])
def test_an_empty_file_says_nothing(tmp_path: Path, text: str) -> None:
    assert site_words(written(tmp_path, text))[0] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partion: gpu", r"site\.yaml: unknown key partion: did you mean partition\?$"),
        ("name: slurm", r"site\.yaml: unknown key name"),
        ("cluster: {account: a}", r"site\.yaml: unknown key cluster"),
        ("- a", r"site\.yaml must hold keys and values, such as partition: gpu$"),
        ("a: [", r"site\.yaml cannot be read as YAML: "),
        ("account: !!python/object:os.system x", r"site\.yaml cannot be read as YAML: "),
    ],
)
def test_a_mistake_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        site_words(written(tmp_path, text))
    assert "\n" not in str(error.value)


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^DISTMLP_CLUSTER_FILE=.*gone\.yaml: there is no such file$"):
        site_words({"DISTMLP_CLUSTER_FILE": str(tmp_path / "gone.yaml")})
