"""`distmlp checkpoint import SOURCE [--into RUNS] [key=value]`: a run that holds the weights of another program."""

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distmlp import run_folder
from distmlp.apps.words import split_words
from distmlp.compose import Composed, compose
from distmlp.errors import ConfigError

if TYPE_CHECKING:
    from distmlp.data.dataset import DataSet
    from distmlp.foreign.source import Source, Stored

FLAGS = {"--into": True, "--prefix": True, "--trust-source": False}


def run(arguments: list[str]) -> int:
    """Imports as ``arguments`` say. Returns the exit status."""
    plain, flags = split_words(arguments, FLAGS)
    sources = [word for word in plain if "=" not in word or Path(word).exists()]
    if len(sources) != 1:
        raise ConfigError(f"distmlp checkpoint import takes one source, not {len(sources)}")
    composed = compose([word for word in plain if word not in sources])
    if "--into" in flags:
        composed = Composed.of(composed.values | {"run": composed.values["run"] | {"root": flags["--into"]}})
    return _import(Path(sources[0]), composed.named(), flags.get("--prefix"), "--trust-source" in flags)


def _import(path: Path, composed: Composed, prefix: str | None, trust_source: bool) -> int:
    from distmlp import build
    from distmlp.checkpoint.writer import SaveError
    from distmlp.foreign.names import match
    from distmlp.foreign.opened import open_source
    from distmlp.log import quiet_lightning

    quiet_lightning()
    source = open_source(path, trust_source)
    if source.warning:
        print(f"distmlp: warning: {source.warning}", file=sys.stderr)
    config = composed.config
    data = build.build_data(config)
    chosen = match(source, build.meta_network(config, data), prefix)
    folder = run_folder.place(config.run.root, str(config.run.name), str(config.run.id))
    _make(folder)
    try:
        checkpoint = _write(folder, composed, data, source, chosen)
    except (OSError, SaveError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise ConfigError(f"{folder} cannot be written: {reason}") from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    print(f"{source.kind} {path}: {len(chosen)} tensors → {checkpoint}\nevaluate it: distmlp evaluate {folder}")
    return 0


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise ConfigError(f"{folder} exists: leave run.id unset, or choose another") from None
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror}; choose another place with --into") from None


def _write(folder: Path, composed: Composed, data: "DataSet", source: "Source", chosen: dict[str, "Stored"]) -> str:
    from distmlp.checkpoint.places import storage_of
    from distmlp.checkpoint.whole import write_whole
    from distmlp.report.byte_progress import byte_progress

    environment = run_folder.describe_environment(["cpu"], 1, data.fingerprint)
    run_folder.write_text(folder / "config.yaml", composed.as_yaml())
    run_folder.write_json(folder / "environment.json", environment)
    if data.vocabulary:
        data.vocabulary.save(folder / run_folder.VOCABULARY)
    weights = {}
    with byte_progress("reading", sum(stored.num_bytes for stored in chosen.values())) as bar:
        for key, stored in chosen.items():
            weights[key] = stored.read()
            bar.advance(stored.num_bytes)
    storage = storage_of(folder)
    name = write_whole(storage, source.step, {"weights": weights}, _state(composed, data, source, environment))
    return storage.where(name)


def _state(composed: Composed, data: "DataSet", source: "Source", environment: dict[str, Any]) -> dict[str, Any]:
    """What `state.json` holds where there are weights only: no optimizer, no random state, no learning rate."""
    return {
        "step": source.step,
        "epoch": source.epoch,
        "samples": source.samples,
        "samples_in_epoch": 0,
        "num_train_samples": len(data.train),
        "loss_targets": 0,
        "seconds": 0.0,
        "validation_is_due": False,
        "reached_loss": None,
        "metrics": {},
        "best": {},
        "learning_rates": [],
        "loss_scaler": {},
        "strategy": "import",
        "world_size": 1,
        "data_world_size": 1,
        "precision": composed.config.precision.name,
        "configuration": composed.values,
        "data_fingerprint": data.fingerprint,
        "versions": environment["versions"],
        "git_commit": environment["git_commit"],
        "saved_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "ranks": [{"random": {}, "loss_sum": 0.0, "optimizer_scalars": {}}],
        "imported_from": f"{source.kind} {source.where}",
    }
