"""Every choice in `conf/` composes and holds exactly the schema's keys; a mistake on the command line is one line."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from distmlp.compose import GROUPS_IN_ORDER, Composed, choices, compose, config_folder, load_frozen
from distmlp.config import Config
from distmlp.config import _members as members
from distmlp.errors import ConfigError

GROUPS = sorted(path.name for path in config_folder().iterdir() if path.is_dir())
FILES = [(group, choice) for group in GROUPS for choice in choices(group)]
PARTNERS = {
    "data=tokens": ["data.vocab_size=256"],
    **{f"experiment=characters_{name}": ["data.path=x"] for name in ("gpt", "lstm", "bert")},
}  # what must be given with a choice
PRESETS = {"gpt2": "gpt", "gpt3": "gpt", "llama3": "gpt", "bert": "bert"}  # first word of a file → its choice
MANDATORY = {"model._target_": "my_package.MyNet"}  # what a mandatory key takes, where any word will not do


def values_of(group: str, choice: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((config_folder() / group / f"{choice}.yaml").read_text())
    return values


def mandatory_words(group: str, choice: str) -> list[str]:
    keys = [f"{group}.{key}" for key, value in values_of(group, choice).items() if value == "???"]
    return [f"{key}={MANDATORY.get(key, 'somewhere')}" for key in keys] + PARTNERS.get(f"{group}={choice}", [])


def partner(group: str, choice: str) -> list[str]:
    """The other side of tokens: a model that takes them for data that give them, and the reverse."""
    if group == "model" and values_of(group, choice)["name"] in ("gpt", "bert"):
        return ["data=synthetic_tokens"]
    return ["model=gpt"] if group == "data" and "sequence_length" in values_of(group, choice) else []


@pytest.fixture(scope="module")
def defaults() -> Composed:
    return compose([])


@pytest.fixture
def freeze(tmp_path: Path) -> Callable[[Composed | str | bytes], Path]:
    def write(content: Composed | str | bytes) -> Path:
        text = content.as_yaml() if isinstance(content, Composed) else content
        path = tmp_path / "config.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_the_help_s_groups_are_the_folders_of_conf() -> None:
    assert sorted(GROUPS_IN_ORDER) == GROUPS
    assert all(choices(group) for group in GROUPS)


@pytest.mark.parametrize(("group", "choice"), FILES)
def test_every_choice_composes_with_the_defaults_and_is_what_was_chosen(
    group: str, choice: str, defaults: Composed
) -> None:
    words = [f"{group}={choice}", "allow_targets=[my_package]", *mandatory_words(group, choice)]
    composed = compose(words + partner(group, choice))
    if group == "experiment":
        assert composed.config.run.name == choice
        assert composed.values != defaults.values
        return
    changed = {word.partition("=")[0].partition(".")[2] for word in mandatory_words(group, choice)}
    given = {key: value for key, value in values_of(group, choice).items() if key not in changed}
    assert given.items() <= composed.values[group].items()
    chosen = {group, "allow_targets", *(word.partition("=")[0] for word in partner(group, choice))}
    others = [other for other in defaults.values if other not in chosen]
    assert {other: composed.values[other] for other in others} == {other: defaults.values[other] for other in others}


@pytest.mark.parametrize(("group", "choice"), [file for file in FILES if file[0] != "experiment"])
def test_a_file_holds_exactly_the_keys_of_its_member_of_the_schema(group: str, choice: str) -> None:
    values = values_of(group, choice)
    named = [kind for kind in members(Config.model_fields[group].annotation) if holds(kind, values)]
    assert len(named) == 1
    assert set(values) == {info.alias or name for name, info in named[0].model_fields.items()}
    assert values.get("name", choice) == PRESETS.get(choice.partition("_")[0], choice)


def holds(kind: Any, values: dict[str, Any]) -> bool:
    if "name" not in values:
        return True
    return values["name"] in getattr(kind.model_fields["name"].annotation, "__args__", ())


def test_the_top_file_holds_every_section_of_the_schema() -> None:
    top = yaml.safe_load((config_folder() / "config.yaml").read_text())
    chosen = [name for entry in top.pop("defaults") if isinstance(entry, dict) for name in entry]
    assert set(top) | set(chosen) == set(Config.model_fields) | {"optional experiment"}
    assert set(top["run"]) == set(Config.model_fields["run"].annotation.model_fields)  # type: ignore[union-attr]


def test_an_experiment_sets_what_it_says_and_words_win_over_it() -> None:
    config = compose(["experiment=document_keras"]).config
    assert (config.optimizer.name, config.data.global_batch_size, config.trainer.max_epochs) == ("sgd", 32, 10)
    assert config.model.model_dump()["init"] == "glorot"
    changed = compose(["trainer.max_epochs=2", "+experiment=document_keras", "optimizer=adam"]).config
    assert (changed.trainer.max_epochs, changed.optimizer.name, changed.data.global_batch_size) == (2, "adam", 32)


def test_conf_is_found_beside_the_package_and_inside_it_when_installed(tmp_path: Path, repository: Path) -> None:
    assert config_folder() == repository / "conf"
    shutil.copytree(repository / "distmlp", tmp_path / "distmlp", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "distmlp" / "conf").mkdir()
    (tmp_path / "conf").mkdir()
    program = "from distmlp.compose import config_folder; print(config_folder())"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "distmlp" / "conf")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("optimizr=sgd", r"^unknown group or key optimizr: did you mean optimizer\?$"),
        ("max_epochs=3", r"^unknown group or key max_epochs: did you mean trainer\.max_epochs\?$"),
        ("trainr.max_epochs=3", r"^unknown group or key trainr\.max_epochs: did you mean trainer\.max_epochs\?$"),
        ("+hydra.run.dir=x", r"^unknown group or key hydra\.run\.dir"),
        ("zzz=3", r"^unknown group or key zzz: `distmlp train --help` lists the keys$"),
        ("data=mnst", r"^data=mnst does not exist: did you mean mnist\? \(choices: arrays, digits, .*tokens\)$"),
        (
            "precision=zzz",
            r"^precision=zzz does not exist: valid are bf16_mixed, bf16_true, fp16_mixed, fp32, fp8, tf32$",
        ),
        ("optimizer=null", r"^optimizer=null is not one choice: valid are adagrad, .*sgd$"),
        ("optimizer=[sgd,adam]", r"^optimizer=\['sgd', 'adam'\] is not one choice: valid are adagrad, "),
        ("optimizer=3", r"^optimizer=3 is not one choice: valid are adagrad, "),
        (
            "optimizer.lr=1,2",
            r"^optimizer\.lr=1,2 names several values: .* \(a list is written \[a,b\]\); --multirun starts",
        ),
        ("data=digits,mnist", r"^data=digits,mnist names several values: .* one value"),
        ("seed=range(1,3)", r"^seed=range\(1,3\) names several values"),
        ("seed", r"^cannot read 'seed': overrides are key=value or group=choice; quote values"),
        ("run.name=[", r"^cannot read 'run\.name=\['"),
        ("a=b=c", r"^cannot read 'a=b=c'"),
        ("=3", r"^cannot read '=3': the key before = is missing$"),
    ],
)
def test_a_word_that_says_nothing_is_named_with_what_would_be_right(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        compose([words])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("optimizer.lrr=1", r"^unknown key optimizer\.lrr: did you mean optimizer\.lr\?$"),
        (
            "optimizer.momentum=0.5",
            r"^optimizer\.momentum is not a key of optimizer=adamw: its keys are optimizer\.name, optimizer\.lr, ",
        ),
        ("data=table data.path=x", r"^data\.target is not set: give data\.target=…$"),
        ("data=table", r"^data\.path is not set: give data\.path=…; data\.target is not set"),
        ("model=custom", r"^model\._target_ is not set: give model\._target_=…$"),
        ("~optimizer.lr", r"^optimizer\.lr is not set: give optimizer\.lr=…$"),
        ("~optimizer", r"^optimizer is not set: give optimizer=…$"),
        ("+seed=3", r"^Could not append to config\. .*'\+\+seed=3'$"),
        ("seed=${nope}", r"^Interpolation key 'nope' not found"),
        ("model.hidden.a=3", r"hidden|invalid literal"),
        ("trainer.micro_batch_size=65", r"^trainer\.micro_batch_size=65 is larger than data\.global_batch_size=64: "),
    ],
)
def test_a_mistake_that_shows_after_composing_is_one_line_as_well(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        compose(words.split())
    assert "\n" not in str(caught.value)


def test_values_reach_the_configuration_in_their_types() -> None:
    config = compose(
        [
            "model.hidden=[512,256]",
            "optimizer.lr=1e-2",
            "trainer.max_time=01:30:00",
            "++run.name=two-layers_1.0",
            "trainer.max_epochs=null",
        ]
    ).config
    assert config.model.model_dump()["hidden"] == [512, 256]
    assert config.optimizer.lr == 0.01
    assert config.trainer.max_time == timedelta(hours=1, minutes=30)
    assert config.run.name == "two-layers_1.0"
    assert config.trainer.max_epochs is None


def test_naming_a_target_chooses_the_custom_network() -> None:
    config = compose(["model._target_=my_package.MyNet", "allow_targets=[my_package]", "+model.width=64"]).config
    chosen = {"name": "custom", "_target_": "my_package.MyNet", "width": 64}
    assert config.model.model_dump(by_alias=True) == chosen | {"activation_checkpointing": False, "compile": False}


@pytest.mark.parametrize(
    "word",
    [
        "+model.inner._target_=os.system",
        "model.inner._target_=os.system",
        "+model.layers=[{_target_:os.system}]",
        "+model.layers=[[{a:{_target_:os.system}}]]",
    ],
)
def test_a_target_deep_in_the_arguments_needs_leave_as_well(word: str) -> None:
    message = r"^model\._target_=os\.system is code outside distmlp: if you trust it, add allow_targets=\[os\]$"
    with pytest.raises(ConfigError, match=message):
        compose(["model._target_=my_package.MyNet", "allow_targets=[my_package]", word])


# A frozen configuration


def test_a_frozen_run_comes_back_as_it_was(freeze: Callable[..., Path]) -> None:
    words = ["optimizer=momentum", "optimizer.lr=0.5", "trainer.max_time=1:30:00", "seed=7", "optimizer.nesterov=true"]
    composed = compose(words)
    again = compose([], freeze(composed))
    assert again.config == composed.config
    assert again.config.trainer.max_time == timedelta(minutes=90)
    assert compose([], freeze(again)).values == again.values


def test_a_group_over_a_frozen_run_replaces_all_of_the_group(freeze: Callable[..., Path]) -> None:
    path = freeze(compose(["optimizer=momentum", "optimizer.lr=0.5", "data.split_seed=3"]))
    config = compose(["optimizer=sgd"], path).config
    assert config.optimizer.model_dump() == values_of("optimizer", "sgd")
    assert config.data.split_seed == 3
    assert compose(["+optimizer=adam"], path).config.optimizer.name == "adam"


@pytest.mark.parametrize("words", [["optimizer=sgd", "optimizer.lr=0.3"], ["optimizer.lr=0.3", "optimizer=sgd"]])
@pytest.mark.parametrize("is_frozen", [True, False])
def test_a_key_holds_whether_it_stands_before_or_after_its_group(
    words: list[str], is_frozen: bool, freeze: Callable[..., Path], defaults: Composed
) -> None:
    optimizer = compose(words, freeze(defaults) if is_frozen else None).config.optimizer
    assert (optimizer.name, optimizer.lr) == ("sgd", 0.3)


def test_the_id_and_the_allowed_targets_of_a_file_do_not_count(freeze: Callable[..., Path]) -> None:
    words = ["model._target_=my_package.MyNet", "allow_targets=[my_package]", "run.id=first", "run.name=mine"]
    path = freeze(compose(words))
    assert "first" in path.read_text()
    assert load_frozen(path)["run"] == {"root": "runs", "name": "mine", "id": None}
    with pytest.raises(ConfigError, match=r"^model\._target_=my_package\.MyNet is code outside distmlp"):
        compose([], path)
    config = compose(["allow_targets=[my_package]"], path).config
    assert (config.run.id, config.run.name, config.allow_targets) == (None, "mine", ["my_package"])


def test_a_file_cannot_hide_a_target_in_what_is_resolved_later(freeze: Callable[..., Path]) -> None:
    words = ["model._target_=torch.nn.Sequential", "allow_targets=[torch]"]
    for hidden in (r'\${oc.create:"{_target_: os.getcwd}"}', '${oc.create:"{_target_: os.getcwd}"}'):
        values = compose(words).values
        values["model"]["_args_"] = [hidden]
        with pytest.raises(ConfigError, match="holds an interpolation"):
            compose(["allow_targets=[torch]"], freeze(yaml.safe_dump(values)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", r"cannot be read as YAML: "),
        (b"\xff\xfe\x00", r"cannot be read as YAML: "),
        (b"3", r"cannot be read as YAML: "),
        (b"run: !!python/object/apply:os.getcwd []", r"cannot be read as YAML: could not determine a constructor"),
        (b"", r"is not the frozen configuration of a run: it has no section `run`$"),
        (b"- 1", r"is not the frozen configuration of a run"),
        (b"run: null", r"is not the frozen configuration of a run"),
        (b"run: 3", r"is not the frozen configuration of a run"),
        (b"run: {}", r"^model is not set: give model=…; data is not set"),
    ],
)
def test_a_file_that_is_no_run_s_configuration_is_refused(
    content: bytes, message: str, freeze: Callable[..., Path]
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        compose([], freeze(content))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^no configuration at .*nothing\.yaml: give the config\.yaml of a run"):
        compose([], tmp_path / "nothing.yaml")
    with pytest.raises(ConfigError, match=r"^no configuration at "):
        compose([], tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("experiment=document_keras", r"^experiment= cannot be laid over a frozen configuration"),
        ("optimizer=sdg", r"^optimizer=sdg does not exist: did you mean sgd\?"),
        ("optimizr=sgd", r"^unknown group or key optimizr: did you mean optimizer\?$"),
        ("optimizer.momentum=1", r"^optimizer\.momentum is not a key of optimizer=adamw"),
        ("~optimizer.lr", r"^optimizer\.lr is not set"),
        ("~optimizer=adamw", r"^optimizer is not set"),
        ("~run.nothing", r"^cannot take run\.nothing away: it is not there$"),
        ("~run.root.x", r"^cannot take run\.root\.x away: it is not there$"),
        ("seed=${nope}", r"^Interpolation key 'nope' not found"),
        ("model.hidden.7=3", r"^list index out of range"),
        ("model.hidden.a=3", r"invalid literal"),
        ("seed.x=3", r"^seed="),
        ("trainer=null", r"^trainer=null is not one choice: valid are default$"),
    ],
)
def test_mistakes_over_a_frozen_run_are_one_line(
    words: str, message: str, freeze: Callable[..., Path], defaults: Composed
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        compose([words], freeze(defaults))
    assert "\n" not in str(caught.value)
