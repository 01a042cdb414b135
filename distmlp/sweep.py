"""`--multirun`: words with several values become jobs, one for each combination, in the grammar of Hydra's sweeps."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from distmlp.compose import Composed, compose, parse
from distmlp.errors import ConfigError
from distmlp.run_folder import new_run_id


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Args:
        chosen: the words that tell it from the other jobs, such as ``optimizer.lr=0.1``.
        words: all its words, with a run id of its own.
        composed: the configuration that they choose.
    """

    chosen: list[str]
    words: list[str]
    composed: Composed


def make_jobs(words: list[str], frozen: Path | None = None) -> list[Job]:
    """The jobs of a sweep, the last key changing fastest. All are composed, so that a mistake in one ends them all.

    Raises:
        ConfigError: a word or a combination is wrong; the message names the job.
    """
    lists = [_values(word) for word in words]
    swept = [len(values) > 1 for values in lists]
    new_id = new_run_id()
    jobs = []
    for number, combination in enumerate(product(*lists)):
        chosen = [word for word, is_swept in zip(combination, swept, strict=True) if is_swept]
        try:
            run_id = compose(list(combination), frozen).config.run.id or new_id
            all_words = [*combination, f"run.id={run_id}-{number}"]
            jobs.append(Job(chosen, all_words, compose(all_words, frozen)))
        except ConfigError as error:
            where = f"job {number} ({' '.join(chosen)}): " if chosen else ""
            raise ConfigError(f"{where}{error}") from None
    return jobs


def _values(word: str) -> list[str]:
    """``word`` with each of its values."""
    from hydra.core.override_parser.types import ValueType

    override: Any = parse(word)
    if not override.is_sweep_override():
        return [word]
    if override.is_interval_sweep() or override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        raise ConfigError(f"{word} has no list of values: write them as a,b or range(start,stop,step)")
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
