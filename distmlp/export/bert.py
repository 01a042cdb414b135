"""bert as Hugging Face's BERT for masked-token prediction."""

from typing import Any

from distmlp.export.layout import Layout, renamed
from distmlp.export.tensors import Out
from distmlp.schema.model import BERTModel

NAMES = {
    "token_embedding": "bert.embeddings.word_embeddings",
    "position_embedding": "bert.embeddings.position_embeddings",
    "token_type_embedding": "bert.embeddings.token_type_embeddings",
    "embedding_norm": "bert.embeddings.LayerNorm",
    "head.0": "cls.predictions.transform.dense",
    "head.2": "cls.predictions.transform.LayerNorm",
}
BLOCK_NAMES = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "mlp.up": "intermediate.dense",
    "mlp.down": "output.dense",
    "mlp_norm": "output.LayerNorm",
}


def faults(model: BERTModel) -> list[str]:
    """What keeps ``model`` from being their BERT."""
    return [] if model.norm_position == "post" else ["model.norm_position=post (here pre)"]


def layout(model: BERTModel, tensors: dict[str, Out], pad_id: int | None) -> Layout:
    """Their configuration, and their names for our tensors. The output layer is tied to the embedding."""
    config: dict[str, Any] = {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "vocab_size": tensors["token_embedding.weight"].shape[0],
        "max_position_embeddings": tensors["position_embedding.weight"].shape[0],
        "type_vocab_size": tensors["token_type_embedding.weight"].shape[0],
        "hidden_size": model.width,
        "intermediate_size": tensors["blocks.0.mlp.up.weight"].shape[0],
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "hidden_act": "gelu",
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": model.norm_eps,
        "tie_word_embeddings": True,
        "pad_token_id": pad_id,
    }
    found = renamed(tensors, NAMES, BLOCK_NAMES, "bert.encoder.layer", model.num_layers)
    return Layout(config, found | {"cls.predictions.bias": tensors["output_bias"]})
