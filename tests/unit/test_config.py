"""The schema answers every wrong value in one line that names the key, and the fields that disagree."""

from copy import deepcopy
from typing import Any

import pytest

from distmlp.compose import compose
from distmlp.config import Config, all_fields, check_target, nearest, targets_of, validate
from distmlp.errors import ConfigError


@pytest.fixture(scope="module")
def defaults() -> dict[str, Any]:
    return compose([]).values


def with_keys(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``values`` with dotted keys set; ``...`` takes a key away."""
    changed = deepcopy(values)
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = changed
        for name in sections:
            section = section[name]
        if value is ...:
            del section[last]
        else:
            section[last] = value
    return changed


def test_every_key_has_a_help_line_of_its_own() -> None:
    fields = list(all_fields())
    assert len(fields) > 50
    assert {"seed", "run.root", "model.hidden", "model._target_", "optimizer.betas", "trainer.max_time"} <= dict(
        fields
    ).keys()
    assert [key for key, text in fields if not text.strip()] == []
    assert dict(fields)["model.name"] == "chosen with model=…"


def test_the_keys_that_scripts_rely_on_are_there() -> None:
    keys = """seed run.root run.name run.id trainer.accelerator trainer.nodes trainer.devices trainer.max_epochs
        trainer.max_steps trainer.max_samples trainer.max_time trainer.loss_threshold trainer.micro_batch_size
        trainer.log_every_steps trainer.validate_every_steps trainer.log_sample_ids data.dir data.global_batch_size
        model.hidden optimizer.lr checkpoint.every_steps""".split()
    assert set(keys) <= dict(all_fields()).keys()


def test_the_defaults_are_valid_and_never_change(defaults: dict[str, Any]) -> None:
    config = validate(defaults)
    assert isinstance(config, Config)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
    with pytest.raises(ValueError, match="frozen"):
        config.trainer.max_epochs = 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # unknown keys
        ({"foo": 1}, r"^unknown key foo: `distmlp train --help` lists the keys$"),
        ({"trainer.max_epoch": 1}, r"^unknown key trainer\.max_epoch: did you mean trainer\.max_epochs\?$"),
        ({"trainer.lr": 1}, r"^unknown key trainer\.lr: did you mean optimizer\.lr\?$"),
        ({"optimizer.lrr": 1}, r"^unknown key optimizer\.lrr: did you mean optimizer\.lr\?$"),
        (
            {"optimizer.momentum": 0.5},
            r"^optimizer\.momentum is not a key of optimizer=adamw: its keys are optimizer\.name, optimizer\.lr, "
            r"optimizer\.weight_decay, optimizer\.betas, optimizer\.eps$",
        ),
        ({"data.path": "x"}, r"^data\.path is not a key of data=digits: its keys are .*data\.image_size"),
        # choices inside a group
        ({"optimizer.name": "adamm"}, r"^optimizer\.name=adamm does not exist: did you mean adam\?$"),
        ({"model.name": "zzz"}, r"^model\.name=zzz does not exist: valid are mlp, cnn, .*vit, custom$"),
        ({"data.name": ...}, r"^data\.name is not set: give data=…$"),
        (
            {"strategy.name": "zzz"},
            r"^strategy\.name=zzz does not exist: valid are auto, single, ddp, .*deepspeed_zeropp$",
        ),
        ({"trainer.accelerator": "tpu"}, r"^trainer\.accelerator=tpu: input should be 'auto', 'cpu', 'gpu' or 'mps'$"),
        # missing
        ({"optimizer.lr": ...}, r"^optimizer\.lr is not set: give optimizer\.lr=…$"),
        ({"run": ...}, r"^run is not set: give run=…$"),
        # types and ranges
        ({"seed": "abc"}, r"^seed=abc: input should be a valid integer"),
        ({"seed": None}, r"^seed=null: input should be a valid integer$"),
        ({"seed": -1}, r"^seed=-1: input should be greater than or equal to 0$"),
        ({"trainer.max_epochs": 1.5}, r"^trainer\.max_epochs=1\.5: input should be a valid integer, got a number with"),
        ({"trainer.max_epochs": 0}, r"^trainer\.max_epochs=0: input should be greater than 0$"),
        ({"trainer.devices": "many"}, r"^trainer\.devices=many: .*integer.*; trainer\.devices=many: .* 'auto'$"),
        ({"trainer.nodes": 0}, r"^trainer\.nodes=0: input should be greater than 0; trainer\.nodes=0: .* 'auto'$"),
        ({"trainer.max_time": "soon"}, r"^trainer\.max_time=soon: input should be a valid timedelta"),
        ({"trainer.progress": "maybe"}, r"^trainer\.progress=maybe: input should be a valid boolean"),
        ({"optimizer.lr": 0}, r"^optimizer\.lr=0: input should be greater than 0$"),
        ({"optimizer.lr": float("inf")}, r"^optimizer\.lr=inf: input should be a finite number$"),
        ({"optimizer.lr": float("nan")}, r"^optimizer\.lr=nan: input should be"),
        ({"optimizer.weight_decay": -0.1}, r"^optimizer\.weight_decay=-0\.1: input should be greater than or equal"),
        ({"optimizer.betas": [0.9]}, r"^optimizer\.betas"),
        ({"model.hidden": 3}, r"^model\.hidden=3: input should be a valid list$"),
        ({"model.hidden": [8, 0]}, r"^model\.hidden\.1=0: input should be greater than 0$"),
        ({"model.dropout": 1.0}, r"^model\.dropout=1\.0: input should be less than 1$"),
        ({"checkpoint.every_steps": 0}, r"^checkpoint\.every_steps=0: input should be greater than 0$"),
        ({"run": None}, r"^run=null: input should be a valid dictionary"),
        # fields that disagree
        (
            {"trainer.micro_batch_size": 65},
            r"^trainer\.micro_batch_size=65 is larger than data\.global_batch_size=64: a micro-batch is a part",
        ),
        (
            {"data.validation_fraction": 0.5, "data.test_fraction": 0.5},
            r"^data\.validation_fraction=0\.5 and data\.test_fraction=0\.5 leave nothing to train on",
        ),
        (
            {"scheduler.warmup_steps": 1, "scheduler.warmup_epochs": 0.5},
            r"^scheduler\.warmup_steps and scheduler\.warmup_epochs are both set: keep one$",
        ),
        (
            {"trainer.max_epochs": None},
            r"^training would never end: set trainer\.max_epochs, trainer\.max_steps, trainer\.max_samples, "
            r"trainer\.max_time or trainer\.loss_threshold$",
        ),
    ],
)
def test_a_wrong_value_is_one_line(changes: dict[str, Any], message: str, defaults: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        validate(with_keys(defaults, changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("section", ["run", "data", "optimizer", "trainer", "model"])
def test_a_misspelt_key_is_found_in_every_section(section: str, defaults: dict[str, Any]) -> None:
    for key in [key for key in defaults[section] if key != "name"]:
        wrong = f"{section}.{key}s"
        with pytest.raises(ConfigError, match=rf"^unknown key {wrong}: did you mean {section}\.") as caught:
            validate(with_keys(defaults, {wrong: 1}))
        assert str(caught.value).endswith(f"{key}?")


def test_all_faults_are_told_together(defaults: dict[str, Any]) -> None:
    changes = {"seed": "abc", "trainer.max_epochs": 0, "optimizer.lr": "fast"}
    with pytest.raises(ConfigError, match=r"^seed=abc: .*; optimizer\.lr=fast: .*; trainer\.max_epochs=0: "):
        validate(with_keys(defaults, changes))


def test_the_largest_micro_batch_is_the_global_batch(defaults: dict[str, Any]) -> None:
    assert validate(with_keys(defaults, {"trainer.micro_batch_size": 64})).trainer.micro_batch_size == 64


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd", "one_cycle"])
def test_a_schedule_that_needs_the_end_says_so(name: str, defaults: dict[str, Any]) -> None:
    endless = {"trainer.max_epochs": None, "trainer.max_time": 10, "scheduler.name": name}
    message = (
        rf"^scheduler\.name={name} needs to know the end: set trainer\.max_epochs, trainer\.max_steps or "
        r"trainer\.max_samples$"
    )
    with pytest.raises(ConfigError, match=message):
        validate(with_keys(defaults, endless))
    for end in ("max_epochs", "max_steps", "max_samples"):
        assert validate(with_keys(defaults, endless | {f"trainer.{end}": 5})).scheduler.name == name


@pytest.mark.parametrize("limit", [{"trainer.max_time": 10}, {"trainer.loss_threshold": 0.1}])
@pytest.mark.parametrize("name", ["constant", "step"])
def test_time_or_loss_can_end_a_run_whose_schedule_needs_no_end(
    limit: dict[str, Any], name: str, defaults: dict[str, Any]
) -> None:
    changes = {"trainer.max_epochs": None, "scheduler.name": name, **limit}
    assert validate(with_keys(defaults, changes)).trainer.max_epochs is None


@pytest.mark.parametrize("key", ["run.name", "run.id"])
@pytest.mark.parametrize("name", ["a/b", "/tmp/x", "..", ".", "../x", "a\nb", "a\n", "-x", ".hidden", "", "a b", "é"])
def test_a_name_that_would_leave_its_folder_is_refused(key: str, name: str, defaults: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}=(?s:.*): use letters, digits and _ \. - only"):
        validate(with_keys(defaults, {key: name}))


@pytest.mark.parametrize("name", ["a", "run-1", "2024_01.b", "A..b", "x" * 100])
def test_plain_names_are_taken(name: str, defaults: dict[str, Any]) -> None:
    assert validate(with_keys(defaults, {"run.name": name})).run.name == name


def test_a_name_longer_than_a_folder_s_is_refused(defaults: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^run\.name=x{101}: string should have at most 100 characters$"):
        validate(with_keys(defaults, {"run.name": "x" * 101}))


# Targets


def custom(defaults: dict[str, Any], allowed: list[str], **arguments: Any) -> dict[str, Any]:
    return defaults | {"allow_targets": allowed, "model": {"name": "custom", "_target_": "mine.Net", **arguments}}


def test_an_allowed_target_keeps_its_arguments(defaults: dict[str, Any]) -> None:
    model = validate(custom(defaults, ["mine"], width=3, inner={"_target_": "mine.parts.X"})).model
    assert model.model_dump(by_alias=True) == {
        "name": "custom",
        "_target_": "mine.Net",
        "width": 3,
        "inner": {"_target_": "mine.parts.X"},
        "activation_checkpointing": False,
        "compile": False,
    }


@pytest.mark.parametrize(
    ("allowed", "arguments", "target"),
    [
        ([], {}, "mine.Net"),
        (["min", "mine.N", "mine.Net", "other"], {}, "mine.Net"),
        (["mine"], {"inner": {"_target_": "os.system"}}, "os.system"),
        (["mine"], {"layers": [1, {"a": [{"_target_": "os.system"}]}]}, "os.system"),
        (["mine"], {"inner": {"_target_": "mine.X", "more": {"_target_": "builtins.eval"}}}, "builtins.eval"),
        (["mine"], {"inner": {"_target_": "mined.X"}}, "mined.X"),
    ],
)
def test_a_target_outside_the_allowed_packages_is_refused(
    allowed: list[str], arguments: dict[str, Any], target: str, defaults: dict[str, Any]
) -> None:
    package = target.partition(".")[0]
    message = rf"^model\._target_={target} is code outside distmlp: .* add allow_targets=\[{package}\]$"
    with pytest.raises(ConfigError, match=message):
        validate(custom(defaults, allowed, **arguments))


@pytest.mark.parametrize("target", ["Net", "mine.", ""])
def test_a_target_that_names_nothing_in_a_package_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match=r" is not a dotted name such as my_package\.MyNet$"):
        check_target(target, ["mine", "Net"])


def test_text_that_would_be_resolved_after_the_check_is_refused(defaults: dict[str, Any]) -> None:
    hidden = '${oc.create:"{_target_: os.system}"}'
    for arguments in ({"inner": hidden}, {"layers": [{"a": hidden}]}):
        with pytest.raises(ConfigError, match=r"^model holds \$\{…\} after all was resolved"):
            validate(custom(defaults, ["mine"], **arguments))


def test_targets_are_found_however_deep() -> None:
    values = {"_target_": "a.A", "x": [{"_target_": "b.B", "y": {"_target_": "c.C"}}, [[{"_target_": "d.D"}]]]}
    assert sorted(targets_of(values)) == ["a.A", "b.B", "c.C", "d.D"]
    assert list(targets_of({"_target_": ["a"], "b": "c"})) == ["['a']"]


# The nearest word


@pytest.mark.parametrize(
    ("word", "choices", "expected"),
    [
        ("adamm", ["sgd", "adam"], ": did you mean adam?"),
        ("lr", ["seed", "optimizer.lr"], ": did you mean optimizer.lr?"),
        ("zzz", ["sgd", "adam", "sgd"], ": valid are sgd, adam"),
        ("zzz", [f"key{n}" for n in range(21)], ": `distmlp train --help` lists the keys"),
    ],
)
def test_the_nearest_word_or_else_the_list(word: str, choices: list[str], expected: str) -> None:
    assert nearest(word, choices) == expected
