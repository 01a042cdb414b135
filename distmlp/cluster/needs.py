"""Which paths a job needs on its nodes: they are checked before it is submitted, and mounted into its container."""

import sys
from collections.abc import Iterable
from pathlib import Path

from distmlp.cluster.container import Container
from distmlp.cluster.paths import Needed
from distmlp.config import Config
from distmlp.errors import ConfigError
from distmlp.schema.cluster import SlurmCluster

READ = ("path", "validation_path", "inputs", "targets")  # keys of `data` that name what must be there
MADE = ("dir", "cache_dir")  # and those that name what may be made


def needed_paths(config: Config, cluster: SlurmCluster) -> list[Needed]:
    """What a run of ``config`` reads and writes, and what starts it."""
    needed = [Needed("the working directory", Path.cwd(), True), Needed("run.root", Path(config.run.root), False)]
    data = config.data.model_dump()
    for key, must_exist in [*((key, True) for key in READ), *((key, False) for key in MADE)]:
        if data.get(key):
            needed.append(Needed(f"data.{key}", Path(data[key]), must_exist))
    if str(data.get("tokenizer", "")).endswith(".json"):
        needed.append(Needed("data.tokenizer", Path(data["tokenizer"]), True))
    if config.checkpoint.dir and "://" not in config.checkpoint.dir:
        needed.append(Needed("checkpoint.dir", Path(config.checkpoint.dir), False))
    if config.resume.source not in ("auto", "must"):
        needed.append(Needed("resume", Path(config.resume.source), True))
    return needed + _started_with(cluster)


def _started_with(cluster: SlurmCluster) -> list[Needed]:
    if cluster.container is not None:
        is_file = cluster.container.startswith(("/", "./", "../"))  # else a name in a registry
        return [Needed("cluster.container", Path(cluster.container), True)] if is_file else []
    python = cluster.python or sys.executable
    return [Needed("the Python", Path(python), True)] if "/" in python else []  # else what a module will bring


def container_of(needed: Iterable[Needed], cluster: SlurmCluster) -> Container | None:
    """The container of a job, in which the paths that it needs are what they are outside; None where it has none.

    Raises:
        ConfigError: a path cannot be mounted.
    """
    if cluster.container is None:
        return None
    paths = sorted({one.path.absolute() for one in needed if one.what != "cluster.container"})
    outermost = [path for path in paths if not any(path.is_relative_to(other) for other in paths if other != path)]
    for path in outermost:
        if any(mark in str(path) for mark in ",:"):
            raise ConfigError(f"{path} cannot be mounted into a container: its name must not hold a comma or colon")
    mounts = (*(f"{path}:{path}" for path in outermost), *cluster.container_mounts)
    return Container(cluster.container_runtime, cluster.container, mounts, str(Path.cwd()))
