"""gpt as Hugging Face's GPT-2: learned positions, layer norms, a two-layer MLP."""

from typing import Any

from distmlp.export.layout import Layout, joined, transposed, zeros
from distmlp.export.tensors import Out
from distmlp.schema.model import GPTModel

ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_new", "relu": "relu", "relu_squared": "relu2"}
NORMS = {"ln_1": "attention_norm", "ln_2": "mlp_norm"}
# Their linear layers hold the transposed matrix.
LINEAR = {"attn.c_proj": "attention.output", "mlp.c_fc": "mlp.up", "mlp.c_proj": "mlp.down"}


def faults(model: GPTModel) -> list[str]:
    """What keeps ``model`` from being a GPT-2."""
    wrong = {
        f"model.positions=learned (here {model.positions})": model.positions != "learned",
        f"model.norm=layer (here {model.norm})": model.norm != "layer",
        f"model.activation={'|'.join(ACTIVATIONS)} (here {model.activation})": model.activation not in ACTIVATIONS,
        f"model.num_kv_heads=null (here {model.num_kv_heads})": model.num_kv_heads not in (None, model.num_heads),
    }
    return [need for need, is_wrong in wrong.items() if is_wrong]


def layout(model: GPTModel, tensors: dict[str, Out], max_positions: int, separator_id: int | None) -> Layout:
    """Their configuration, and their tensors made from ours. A network without biases gets biases of zero."""
    config: dict[str, Any] = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": tensors["token_embedding.weight"].shape[0],
        "n_positions": max_positions,
        "n_embd": model.width,
        "n_layer": model.num_layers,
        "n_head": model.num_heads,
        "n_inner": tensors["blocks.0.mlp.up.weight"].shape[0],
        "activation_function": ACTIVATIONS[model.activation],
        "resid_pdrop": model.dropout,
        "embd_pdrop": model.dropout,
        "attn_pdrop": 0.0,
        "layer_norm_epsilon": model.norm_eps,
        "tie_word_embeddings": model.tie_embeddings,
        "bos_token_id": separator_id,
        "eos_token_id": separator_id,
    }
    found = {
        "transformer.wte.weight": tensors["token_embedding.weight"],
        "transformer.wpe.weight": tensors["position_embedding.weight"],
        "transformer.ln_f.weight": tensors["final_norm.weight"],
        "transformer.ln_f.bias": _bias(tensors, "final_norm"),
    }
    if not model.tie_embeddings:
        found["lm_head.weight"] = tensors["output.weight"]
    for index in range(model.num_layers):
        found |= _block(tensors, f"blocks.{index}", f"transformer.h.{index}")
    return Layout(config, found)


def _block(tensors: dict[str, Out], ours: str, theirs: str) -> dict[str, Out]:
    found = {}
    for their_name, name in NORMS.items():
        found[f"{theirs}.{their_name}.weight"] = tensors[f"{ours}.{name}.weight"]
        found[f"{theirs}.{their_name}.bias"] = _bias(tensors, f"{ours}.{name}")
    for their_name, name in LINEAR.items():
        found[f"{theirs}.{their_name}.weight"] = transposed(tensors[f"{ours}.{name}.weight"])
        found[f"{theirs}.{their_name}.bias"] = _bias(tensors, f"{ours}.{name}")
    parts = [f"{ours}.attention.{name}" for name in ("query", "key", "value")]
    weights, biases = [tensors[f"{part}.weight"] for part in parts], [_bias(tensors, part) for part in parts]
    found[f"{theirs}.attn.c_attn.weight"] = transposed(joined(weights))
    found[f"{theirs}.attn.c_attn.bias"] = joined(biases)
    return found


def _bias(tensors: dict[str, Out], layer: str) -> Out:
    weight = tensors[f"{layer}.weight"]
    return tensors.get(f"{layer}.bias") or zeros(weight.dtype, weight.shape[:1])
