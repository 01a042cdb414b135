"""A folder that Hugging Face's `transformers` loads: which of its networks ours is, and the files."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from distmlp.errors import ConfigError
from distmlp.export import bert, gpt2, llama
from distmlp.export.layout import Layout
from distmlp.export.safetensors_file import write_safetensors
from distmlp.export.tensors import Out
from distmlp.schema.model import BERTModel, GPTModel

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
SHARD_BYTES = 5 * 10**9  # as their library's own files


@dataclass(frozen=True)
class Facts:
    """What a network knows of its data beside its own keys."""

    sequence_length: int
    separator_id: int | None = None
    pad_id: int | None = None


def counterpart(model: GPTModel | BERTModel, tensors: dict[str, Out], facts: Facts) -> Layout:
    """Their network with the same logits.

    Raises:
        ConfigError: there is none; the message names the keys that are in the way.
    """
    if isinstance(model, GPTModel):
        return _gpt(model, tensors, facts)
    _refuse("BERT", bert.faults(model))
    return bert.layout(model, tensors, facts.pad_id)


def _gpt(model: GPTModel, tensors: dict[str, Out], facts: Facts) -> Layout:
    max_positions = model.max_positions or facts.sequence_length
    if len(gpt2.faults(model)) < len(llama.faults(model)):
        _refuse("GPT-2", gpt2.faults(model) + _faults_of_all(model))
        return gpt2.layout(model, tensors, max_positions, facts.separator_id)
    _refuse("Llama", llama.faults(model) + _faults_of_all(model))
    return llama.layout(model, tensors, max_positions, facts.separator_id)


def _faults_of_all(model: GPTModel) -> list[str]:
    wrong = {
        "model.qk_norm=false (here true)": model.qk_norm,
        f"model.logit_soft_cap=null (here {model.logit_soft_cap})": model.logit_soft_cap is not None,
        "model.attend_across_documents=true (here false)": not model.attend_across_documents,
    }
    return [need for need, is_wrong in wrong.items() if is_wrong]


def _refuse(name: str, needs: list[str]) -> None:
    if needs:
        raise ConfigError(
            f"this network has no counterpart in Hugging Face's transformers: {name}, the nearest, needs "
            f"{', '.join(needs)}; --format safetensors and torch take any network"
        )


def write_folder(folder: Path, layout: Layout, advance: Callable[[int], None]) -> None:
    """Writes `config.json` and the weights: one file, or several of up to `SHARD_BYTES` with an index."""
    folder.mkdir()
    dtype = next(iter(layout.tensors.values())).dtype
    config = layout.config | {"dtype": str(dtype).removeprefix("torch.")}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    shards = _shards(layout.tensors)
    if len(shards) == 1:
        write_safetensors(folder / WEIGHTS, shards[0], advance)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write_safetensors(folder / name, shard, advance)
        weight_map |= dict.fromkeys(shard, name)
    total = sum(out.num_bytes for out in layout.tensors.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2))


def _shards(tensors: dict[str, Out]) -> list[dict[str, Out]]:
    shards: list[dict[str, Out]] = [{}]
    size = 0
    for name, out in tensors.items():
        if shards[-1] and size + out.num_bytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = out
        size += out.num_bytes
    return shards
