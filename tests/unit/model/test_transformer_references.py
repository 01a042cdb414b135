"""GPT, BERT and ViT give the logits of Hugging Face's GPT-2, Llama, BERT and ViT when they have their weights."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distmlp.model.bert import BERT
from distmlp.model.gpt import GPT
from distmlp.model.vit import ViT

VOCABULARY, LENGTH, WIDTH, LAYERS = 40, 12, 32, 2
FACTS: dict[str, Any] = {"input_shape": (LENGTH,), "num_outputs": VOCABULARY}
SIZES: dict[str, Any] = {"num_layers": LAYERS, "num_heads": 4, "width": WIDTH}
THEIR_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": LENGTH,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def shaken(reference: nn.Module) -> nn.Module:
    """Every weight random, so that norms and biases matter too."""
    torch.manual_seed(7)
    with torch.no_grad():
        for weight in reference.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    return reference.eval()


def renamed(weights: Mapping[str, Tensor], names: dict[str, str], layer_names: dict[str, str]) -> dict[str, Tensor]:
    """``names``: ours to theirs, of modules or weights. ``layer_names``: the same within block {i}."""
    for i in range(LAYERS):
        names = names | {f"blocks.{i}.{own}": theirs.format(i=i) for own, theirs in layer_names.items()}
    found = {}
    for own, theirs in names.items():
        if theirs in weights:
            found[own] = weights[theirs]
        for kind in ("weight", "bias"):
            if f"{theirs}.{kind}" in weights:
                found[f"{own}.{kind}"] = weights[f"{theirs}.{kind}"]
    return found


def random_tokens() -> Tensor:
    return torch.randint(3, VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(1))


def gpt2() -> tuple[nn.Module, GPT]:
    from transformers import GPT2Config, GPT2LMHeadModel

    reference = shaken(GPT2LMHeadModel(GPT2Config(**THEIR_SIZES)))
    weights = dict(reference.state_dict())
    for name in [name for name in weights if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))]:
        weights[name] = weights[name].T
    for name in [name for name in weights if ".c_attn." in name]:
        for part, own in zip(weights[name].chunk(3), ("query", "key", "value"), strict=True):
            weights[name.replace("c_attn", own)] = part
    names = {"token_embedding": "wte", "position_embedding": "wpe", "final_norm": "ln_f"}
    layer = {f"attention.{name}": f"attn.{name}" for name in ("query", "key", "value")} | {
        "attention.output": "attn.c_proj",
        "attention_norm": "ln_1",
        "mlp_norm": "ln_2",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    }
    own = GPT(**FACTS, **SIZES, positions="learned", norm="layer", activation="gelu_tanh", bias=True)
    own.load_state_dict(
        renamed(
            weights,
            {key: f"transformer.{value}" for key, value in names.items()},
            {key: f"transformer.h.{{i}}.{value}" for key, value in layer.items()},
        )
    )
    return reference, own


def llama() -> tuple[nn.Module, GPT]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**THEIR_SIZES, intermediate_size=48, num_key_value_heads=2, rms_norm_eps=1e-5)
    config.rope_parameters = {"rope_type": "default", "rope_theta": 500.0}
    reference = shaken(LlamaForCausalLM(config))
    layer = {
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
    own = GPT(**FACTS, **SIZES, mlp_width=48, num_kv_heads=2, rope_theta=500.0, tie_embeddings=False)
    own.load_state_dict(
        renamed(
            reference.state_dict(),
            {"token_embedding": "model.embed_tokens", "final_norm": "model.norm", "output": "lm_head"},
            {key: f"model.layers.{{i}}.{value}" for key, value in layer.items()},
        )
    )
    return reference, own


@pytest.mark.parametrize("pair", [gpt2, llama])
def test_gpt_has_the_logits_and_gradients_of_the_reference(pair: Any) -> None:
    reference, own = pair()
    tokens = random_tokens()
    logits, expected = own(tokens), reference(tokens).logits
    assert expected.std() > 0.3
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    for output in (logits, expected):
        F.cross_entropy(output[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    theirs = reference.get_input_embeddings().weight.grad
    torch.testing.assert_close(own.token_embedding.weight.grad, theirs, rtol=0, atol=1e-5)


def test_bert_has_the_logits_of_the_reference_on_a_padded_batch() -> None:
    from transformers import BertConfig, BertForMaskedLM

    reference = shaken(BertForMaskedLM(BertConfig(**THEIR_SIZES, intermediate_size=128, pad_token_id=0)))
    layer = {
        "attention.query": "attention.self.query",
        "attention.key": "attention.self.key",
        "attention.value": "attention.self.value",
        "attention.output": "attention.output.dense",
        "attention_norm": "attention.output.LayerNorm",
        "mlp.up": "intermediate.dense",
        "mlp.down": "output.dense",
        "mlp_norm": "output.LayerNorm",
    }
    names = {
        "token_embedding": "bert.embeddings.word_embeddings",
        "position_embedding": "bert.embeddings.position_embeddings",
        "token_type_embedding": "bert.embeddings.token_type_embeddings",
        "embedding_norm": "bert.embeddings.LayerNorm",
        "head.0": "cls.predictions.transform.dense",
        "head.2": "cls.predictions.transform.LayerNorm",
        "output_bias": "cls.predictions.bias",
    }
    own = BERT(**FACTS, **SIZES, pad_id=0)
    layers = {key: f"bert.encoder.layer.{{i}}.{value}" for key, value in layer.items()}
    own.load_state_dict(renamed(reference.state_dict(), names, layers))
    tokens = random_tokens()
    tokens[1, 7:] = 0
    expected = reference(tokens, attention_mask=(tokens != 0).long()).logits
    assert expected.std() > 0.3
    torch.testing.assert_close(own(tokens), expected, rtol=0, atol=1e-5)


def test_vit_has_the_logits_of_the_reference() -> None:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {key: value for key, value in THEIR_SIZES.items() if key.startswith(("hidden", "num_"))}
    config = ViTConfig(**sizes, intermediate_size=128, image_size=8, patch_size=4, num_labels=5, layer_norm_eps=1e-6)
    reference = shaken(ViTForImageClassification(config))
    layer = {
        "attention.query": "attention.q_proj",
        "attention.key": "attention.k_proj",
        "attention.value": "attention.v_proj",
        "attention.output": "attention.o_proj",
        "attention_norm": "layernorm_before",
        "mlp_norm": "layernorm_after",
        "mlp.up": "mlp.fc1",
        "mlp.down": "mlp.fc2",
    }
    names = {
        "class_token": "vit.embeddings.cls_token",
        "position_embedding": "vit.embeddings.position_embeddings",
        "patch_embedding": "vit.embeddings.patch_embeddings.projection",
        "final_norm": "vit.layernorm",
        "output": "classifier",
    }
    own = ViT(input_shape=(3, 8, 8), num_outputs=5, **SIZES, patch_size=4)
    layers = {key: f"vit.layers.{{i}}.{value}" for key, value in layer.items()}
    own.load_state_dict(renamed(reference.state_dict(), names, layers))
    images = torch.randn(2, 3, 8, 8)
    expected = reference(images).logits
    assert expected.std() > 0.3
    torch.testing.assert_close(own(images), expected, rtol=0, atol=1e-5)
