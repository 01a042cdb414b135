"""The site file: what is the same for every job on a cluster, such as partition and account; outside of any project."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distmlp.cluster.quoting import hydra_word
from distmlp.config import nearest
from distmlp.errors import ConfigError
from distmlp.schema.cluster import SlurmCluster

FILE_KEY = "DISTMLP_CLUSTER_FILE"


def site_words(environment: Mapping[str, str] = os.environ) -> tuple[list[str], str]:
    """What the site file says as words of the command line, and where it is; nothing where there is none.

    Raises:
        ConfigError: the file is named and missing, cannot be read, or holds something else.
    """
    file = _site_file(environment)
    if file is None:
        return [], ""
    values = _read(file)
    keys = [key for key in SlurmCluster.model_fields if key != "name"]
    for key in values:
        if key not in keys:
            raise ConfigError(f"{file}: unknown key {key}{nearest(str(key), keys)}")
    return [hydra_word(f"cluster.{key}", value) for key, value in values.items()], str(file)


def _site_file(environment: Mapping[str, str]) -> Path | None:
    named = environment.get(FILE_KEY)
    if named:
        if not Path(named).is_file():
            raise ConfigError(f"{FILE_KEY}={named}: there is no such file")
        return Path(named)
    home = environment.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    usual = Path(home, "distmlp", "cluster.yaml")
    return usual if usual.is_file() else None


def _read(file: Path) -> dict[Any, Any]:
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
        """YAML 1.1 would take 12:00:00 for a number in base 60, and the account 0123 for one in base 8."""

    Loader.yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0] not in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"(?:0|[1-9][0-9]*)$"), list("0123456789"))
    try:
        values = yaml.load(file.read_text(encoding="utf-8"), Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{file} must hold keys and values, such as partition: gpu")
    return values or {}
