"""`distmlp checkpoint export RUN|CHECKPOINT --to PLACE`: the weights for other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distmlp.apps.words import split_words
from distmlp.config import nearest, validate
from distmlp.errors import ConfigError
from distmlp.run_folder import VOCABULARY

if TYPE_CHECKING:
    from distmlp.export.huggingface import Facts

WITH_COUNTERPART = ("gpt", "bert")
FLAGS = {"--to": True, "--format": True, "--average": False}


def run(arguments: list[str]) -> int:
    """Exports as ``arguments`` say. Returns the exit status."""
    from distmlp.checkpoint.places import find_checkpoints, open_sound
    from distmlp.export.export import FORMATS, export, target_of
    from distmlp.report.byte_progress import byte_progress

    plain, flags = split_words(arguments, FLAGS)
    if len(plain) != 1:
        raise ConfigError(f"distmlp checkpoint export takes one run folder or checkpoint, not {len(plain)}")
    if not flags.get("--to"):
        raise ConfigError("--to is not set: give --to FILE or --to FOLDER")
    form = flags.get("--format", "safetensors")
    if form not in FORMATS:
        raise ConfigError(f"--format {form} does not exist{nearest(form, list(FORMATS))}")
    target = target_of(Path(flags["--to"]), form)
    found = find_checkpoints(Path(plain[0]))
    with byte_progress("checking") as bar:
        reader = open_sound(found, bar.advance, bar.expect)
    with reader, byte_progress("writing") as bar:
        network = _network(reader.state.get("configuration", {}), found.run_folder) if form == "huggingface" else None
        average = "--average" in flags
        export(reader, target, form, average=average, network=network, expect=bar.expect, advance=bar.advance)
    print(f"{reader.where} → {target}")
    return 0


def _network(configuration: dict[str, Any], run_folder: Path | None) -> tuple[Any, "Facts"]:
    """The network's section of the configuration that was saved, and what it knows of its data."""
    from distmlp.data.vocabulary import Vocabulary
    from distmlp.export.huggingface import Facts

    name = configuration.get("model", {}).get("name", "unknown")
    if name not in WITH_COUNTERPART:
        raise ConfigError(
            f"model={name} has no counterpart in Hugging Face's transformers: model=gpt and model=bert have; "
            "--format safetensors and torch take any network"
        )
    config = validate(configuration)
    length = getattr(config.data, "sequence_length", 0)
    path = run_folder and run_folder / VOCABULARY
    if not path or not path.is_file():
        return config.model, Facts(length)
    vocabulary = Vocabulary.load(path)
    return config.model, Facts(length, vocabulary.separator_id, vocabulary.pad_id)
