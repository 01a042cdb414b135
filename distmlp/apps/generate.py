"""`distmlp generate RUN|CHECKPOINT prompt="…" [key=value]`: continues a text with a trained gpt or rnn."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from distmlp.apps.opened_run import load_checkpoint, run_folder_of
from distmlp.compose import compose
from distmlp.config import Config, all_fields, nearest
from distmlp.devices import device_type
from distmlp.errors import ConfigError
from distmlp.run_folder import VOCABULARY
from distmlp.schema.data import TokenData

USAGE = 'usage: distmlp generate RUN|CHECKPOINT prompt="…" [key=value]'


class Options(BaseModel):
    """What the verb takes beside overrides of the run's configuration."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    prompt: str = Field(description="the text to continue; empty starts a document, where the data have a separator")
    num_tokens: PositiveInt = Field(200, description="how many tokens to make at most")
    temperature: Annotated[float, Field(ge=0.0)] = Field(
        1.0, description="0 takes the likeliest token, 1 draws as learnt"
    )
    top_k: PositiveInt | None = Field(None, description="draws from so many of the likeliest tokens only")
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        1.0, description="draws from the likeliest tokens only that have this probability together"
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="the same seed makes the same text")
    num_samples: PositiveInt = Field(1, description="how many texts to make")


def run(arguments: list[str]) -> int:
    """Generates as ``arguments`` say, to standard output. Returns the exit status."""
    if "--help" in arguments or "-h" in arguments:
        print(_help())
        return 0
    place, options, overrides = _read(arguments)
    folder = run_folder_of(place)
    config = compose(overrides, folder / "config.yaml").config
    _check_can_generate(config)
    try:
        _generate(place, folder, config, options)
    except KeyboardInterrupt:  # who reads along may have read enough
        print()
        return 1
    return 0


def _help() -> str:
    lines = [USAGE, "", "keys:"]
    for name, info in Options.model_fields.items():
        default = "" if info.is_required() or info.default is None else f" (default {info.default})"
        lines.append(f"  {name:<14}{info.description}{default}")
    return "\n".join([*lines, "", "Keys of the run's configuration can be given too: trainer.accelerator=cpu"])


def _read(arguments: list[str]) -> tuple[Path, Options, list[str]]:
    """The place, the verb's own keys, and the words that are overrides of the run's configuration."""
    places, values, overrides = [], {}, []
    for word in arguments:
        key, equals, value = word.partition("=")
        name = key.lstrip("+~")
        if equals and key in Options.model_fields:
            values[key] = value
        elif not word.startswith("-") and (
            not equals or Path(word).exists()
        ):  # a sweep's folders have = in their names
            places.append(word)
        elif equals and name.partition(".")[0] in Config.model_fields:
            overrides.append(word)
        else:
            known = [*Options.model_fields, *(field for field, _ in all_fields())]
            raise ConfigError(f"unknown key {key}{nearest(key.lstrip('-').replace('-', '_'), known)}")
    if len(places) != 1:
        raise ConfigError(f"give one run folder or checkpoint: {USAGE.removeprefix('usage: ')}")
    return Path(places[0]), _checked(values), overrides


def _checked(values: dict[str, str]) -> Options:
    try:
        return Options.model_validate(values)
    except ValidationError as error:
        fault = error.errors()[0]
        key, message = fault["loc"][0], fault["msg"]
        if fault["type"] == "missing":
            raise ConfigError(f'{key} is not set: give {key}="…"') from None
        raise ConfigError(f"{key}={fault['input']}: {message[0].lower()}{message[1:]}") from None


def _check_can_generate(config: Config) -> None:
    needed, model = "distmlp generate needs a run of model=gpt or model=rnn on text", config.model.name
    if model not in ("gpt", "rnn"):
        raise ConfigError(f"{needed}; this one is model={model}")
    if not isinstance(config.data, TokenData):
        raise ConfigError(f"{needed}; this one is model={model} on data={config.data.name}")
    if config.token_task != "next_token":
        raise ConfigError(f"{needed} with data.task=next_token; this one has learnt data.task={config.token_task}")


def _generate(place: Path, folder: Path, config: Config, options: Options) -> None:
    from distmlp import build
    from distmlp.data.vocabulary import Vocabulary
    from distmlp.generate import generate, stream_text

    device = device_type(config.trainer.accelerator)
    vocabulary = Vocabulary.load(folder / VOCABULARY)
    prompt = _prompt_ids(vocabulary, options.prompt)
    assert isinstance(config.data, TokenData)
    network = build.build_token_network(config, sequence_length=config.data.sequence_length, vocabulary=vocabulary)
    load_checkpoint(network, place, folder, config.checkpoint.dir)
    network.to(device)
    sampling = options.model_dump(exclude={"prompt", "num_samples"})
    for number in range(options.num_samples):
        if number:
            print(f"--- sample {number + 1} ---")
        tokens = generate(
            network,
            prompt,
            stream=number,
            vocabulary_size=vocabulary.size,
            forbidden=[one for one in vocabulary.special_ids if one != vocabulary.separator_id],
            stop_id=vocabulary.separator_id,
            **sampling,
        )
        _show(options.prompt, stream_text(vocabulary.decode, prompt, tokens))


def _prompt_ids(vocabulary: Any, prompt: str) -> list[int]:
    ids = [int(one) for one in vocabulary.encode(prompt)]
    if ids:
        return ids
    if vocabulary.separator_id is None:
        raise ConfigError(
            "prompt is empty, and the run's data have no document separator to start from: give some text"
        )
    return [vocabulary.separator_id]


def _show(prompt: str, pieces: Iterator[str]) -> None:
    print(prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
