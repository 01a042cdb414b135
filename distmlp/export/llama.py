"""gpt as Hugging Face's Llama: rotary positions, RMS norms, a gated MLP, grouped queries."""

from typing import Any

from distmlp.export.layout import Layout, renamed
from distmlp.export.tensors import Out
from distmlp.schema.model import GPTModel

NAMES = {"token_embedding": "model.embed_tokens", "final_norm": "model.norm", "output": "lm_head"}
BLOCK_NAMES = {
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}


def faults(model: GPTModel) -> list[str]:
    """What keeps ``model`` from being a Llama."""
    wrong = {
        f"model.positions=rotary (here {model.positions})": model.positions != "rotary",
        f"model.norm=rms (here {model.norm})": model.norm != "rms",
        f"model.activation=swiglu (here {model.activation})": model.activation != "swiglu",
    }
    return [need for need, is_wrong in wrong.items() if is_wrong]


def layout(model: GPTModel, tensors: dict[str, Out], max_positions: int, separator_id: int | None) -> Layout:
    """Their configuration, and their names for our tensors."""
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": tensors["token_embedding.weight"].shape[0],
        "max_position_embeddings": max_positions,
        "hidden_size": model.width,
        "intermediate_size": tensors["blocks.0.mlp.up.weight"].shape[0],
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_kv_heads or model.num_heads,
        "hidden_act": "silu",
        "rms_norm_eps": model.norm_eps,
        "rope_theta": model.rope_theta,  # where version 4 looks for it
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "attention_bias": model.bias,
        "mlp_bias": model.bias,
        "tie_word_embeddings": model.tie_embeddings,
        "bos_token_id": separator_id,
        "eos_token_id": separator_id,
    }
    return Layout(config, renamed(tensors, NAMES, BLOCK_NAMES, "model.layers", model.num_layers))
