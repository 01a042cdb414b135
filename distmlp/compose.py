"""From command-line words to one plain configuration: Hydra composes `conf/`, and every mistake becomes one line.

`conf/` is the repository's top-level folder, and `distmlp/conf` inside an installed wheel; `config_folder` finds it.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distmlp.config import Config, all_fields, nearest, validate
from distmlp.errors import ConfigError
from distmlp.run_folder import new_run_id

_RESUME = re.compile(r"^resume=")  # the key holds more than its source, which is what one says
GROUPS_IN_ORDER = (
    "experiment model data optimizer scheduler strategy precision trainer checkpoint tracking cluster".split()
)  # as --help lists them


def config_folder() -> Path:
    """The folder of the configuration groups, in the wheel or in the repository."""
    package = Path(__file__).resolve().parent
    inside, beside = package / "conf", package.parent / "conf"
    return inside if inside.is_dir() else beside


def choices(group: str) -> list[str]:
    """Names that ``group=`` accepts."""
    return sorted(path.stem for path in (config_folder() / group).glob("*.yaml"))


@dataclass(frozen=True)
class Composed:
    """A resolved configuration: plain ``values`` for the frozen file, and ``config``, the same validated."""

    values: dict[str, Any]
    config: Config

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Composed":
        """``values``, validated."""
        return cls(values, validate(_without_missing(values)))

    def named(self) -> "Composed":
        """The same with the name and the id that the run will have."""
        run = self.config.run
        name, run_id = run.name or f"{self.config.data.name}-{self.config.model.name}", run.id or new_run_id()
        return Composed.of(self.values | {"run": {"root": run.root, "name": name, "id": run_id}})

    def as_yaml(self) -> str:
        """The text of `config.yaml`."""
        from omegaconf import OmegaConf

        return OmegaConf.to_yaml(OmegaConf.create(self.values))


def compose(overrides: list[str], frozen: Path | None = None) -> Composed:
    """The configuration that ``overrides`` choose, on top of the defaults or of a ``frozen`` file of an earlier run.

    Raises:
        ConfigError: an override is malformed, or names an unknown group, choice or key; or values disagree.
    """
    parsed = [_parse(_RESUME.sub("resume.source=", word)) for word in overrides]
    if _targets_without_choice(parsed):
        parsed.insert(0, _parse("model=custom"))
    for override in parsed:
        _check_key(override.key_or_group)
        if _is_group(override.key_or_group) and not override.is_delete():
            _check_choice(override.key_or_group, override.value())
    values = _from_frozen(frozen, parsed) if frozen else _from_groups(parsed)
    return Composed.of(values)


def _without_missing(values: Any) -> Any:
    """``values`` without the keys that still hold Hydra's mark for "must be given"."""
    if not isinstance(values, dict):
        return values
    return {key: _without_missing(value) for key, value in values.items() if value != "???"}


def _is_group(key: str) -> bool:
    return "." not in key and bool(key) and (config_folder() / key).is_dir()


def _parse(word: str) -> Any:
    override = parse(word)
    if override.is_sweep_override():
        raise ConfigError(
            f"{word} names several values: a run takes one value for each key (a list is written [a,b]); "
            "--multirun starts a run for each"
        )
    return override


def parse(word: str) -> Any:
    """``word`` as Hydra's grammar reads it, an `Override`, which may name several values.

    Raises:
        ConfigError: it is malformed.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        (override,) = OverridesParser.create().parse_overrides([word])
    except HydraException:
        raise ConfigError(
            f"cannot read {word!r}: overrides are key=value or group=choice; quote values with special characters "
            "as in 'run.name=\"a, b\"'"
        ) from None
    if not override.key_or_group:
        raise ConfigError(f"cannot read {word!r}: the key before = is missing")
    return override


def _targets_without_choice(parsed: list[Any]) -> bool:
    keys = [override.key_or_group for override in parsed]
    return "model._target_" in keys and "model" not in keys


def _check_key(key: str) -> None:
    head = key.partition(".")[0]
    if not _is_group(head) and head not in Config.model_fields:
        raise ConfigError(f"unknown group or key {key}{nearest(key, _names())}")


def _check_choice(group: str, choice: Any) -> None:
    if isinstance(choice, dict):
        return  # values of the group's keys, which the schema judges
    if not isinstance(choice, str):
        shown = "null" if choice is None else choice
        raise ConfigError(f"{group}={shown} is not one choice: valid are {', '.join(choices(group))}")
    if choice not in choices(group):
        raise ConfigError(f"{group}={choice} does not exist{_nearest_choice(choice, choices(group))}")


def _nearest_choice(choice: str, names: list[str]) -> str:
    listed = f" (choices: {', '.join(names)})"
    suggestion = nearest(choice, names)
    return suggestion + listed if "did you mean" in suggestion else suggestion


def _from_groups(parsed: list[Any]) -> dict[str, Any]:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    lines = [override.input_line or "" for override in parsed]
    # `++` lets a key through that the chosen files lack; the schema then judges it, and knows the nearest right key.
    words = [
        f"++{line}" if "." in override.key_or_group and line[:1] not in "+~" else line
        for override, line in zip(parsed, lines, strict=True)
    ]
    # Every group has a choice already, so `+optimizer=sgd` can only mean `optimizer=sgd`.
    words = [word.lstrip("+") if _is_group(o.key_or_group) else word for o, word in zip(parsed, words, strict=True)]
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
            composed = hydra_compose("config", overrides=words)
        values = OmegaConf.to_container(composed, resolve=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(" ".join(str(error).split())) from None
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _names() -> list[str]:
    return [*Config.model_fields, "experiment", *(key for key, _ in all_fields())]


def _from_frozen(path: Path, parsed: list[Any]) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if any(override.key_or_group == "experiment" for override in parsed):
        raise ConfigError("experiment= cannot be laid over a frozen configuration: leave out one of the two")
    config = OmegaConf.create(load_frozen(path))
    try:
        # Choices first, as Hydra takes them: a key that was given stays, wherever it stands among the words.
        for override in sorted(parsed, key=lambda override: not _is_group(override.key_or_group)):
            _lay_over(config, override)
        values = OmegaConf.to_container(config, resolve=True)
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(" ".join(str(error).split())) from None
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _lay_over(config: Any, override: Any) -> None:
    from omegaconf import OmegaConf

    key, value = override.key_or_group, override.value()
    section, _, name = key.rpartition(".")
    if override.is_delete():
        holder = OmegaConf.select(config, section) if section else config
        if not OmegaConf.is_dict(holder) or name not in holder:
            raise ConfigError(f"cannot take {key} away: it is not there")
        holder.pop(name)
    elif _is_group(key) and isinstance(value, str):
        config[key] = OmegaConf.load(config_folder() / key / f"{value}.yaml")
    else:
        OmegaConf.update(config, key, value, merge=False, force_add=True)


def load_frozen(path: Path) -> dict[str, Any]:
    """Values of a frozen `config.yaml`, less what no file may say: id, code to import, how it was resumed.

    Raises:
        ConfigError: the file is missing or is not a run's configuration.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if not path.is_file():
        raise ConfigError(f"no configuration at {path}: give the config.yaml of a run folder")
    try:
        values = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, UnicodeDecodeError, OSError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or not isinstance(values.get("run"), dict):
        raise ConfigError(f"{path} is not the frozen configuration of a run: it has no section `run`")
    if "${" in str(values):
        raise ConfigError(f"{path} holds an interpolation ${{…}}: a frozen configuration has plain values only")
    plain = {str(key): value for key, value in values.items()}
    plain["run"] = {**plain["run"], "id": None}
    plain["allow_targets"] = []
    plain["resume"] = {"source": "auto", "allow": []}
    return plain
