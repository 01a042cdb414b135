"""What is exported for Hugging Face's transformers gives, loaded by it, the logits of our network."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distmlp.checkpoint.storage import LocalStorage
from distmlp.checkpoint.whole import write_whole
from distmlp.cli import main
from distmlp.data.vocabulary import Vocabulary
from distmlp.model.bert import BERT
from distmlp.model.gpt import GPT

VOCABULARY, LENGTH = 40, 12
FACTS: dict[str, Any] = {"input_shape": (LENGTH,), "num_outputs": VOCABULARY}
SIZES: dict[str, Any] = {"num_layers": 2, "num_heads": 4, "width": 32}
GPT2: dict[str, Any] = {"positions": "learned", "norm": "layer", "activation": "gelu_tanh", "bias": True}
CONFIGURATION: dict[str, Any] = {
    "run": {"root": "runs", "name": None, "id": None},
    "optimizer": {"name": "adam", "lr": 0.001},
    "scheduler": {"name": "constant"},
    "strategy": {"name": "single"},
    "precision": {"name": "fp32"},
    "trainer": {"max_epochs": 1},
    "checkpoint": {"every_steps": None},
    "tracking": {"tensorboard": False, "wandb": False},
}
GPTS: dict[str, dict[str, Any]] = {
    "gpt2": GPT2,
    "gpt2-untied": GPT2 | {"tie_embeddings": False, "activation": "gelu", "dropout": 0.1},
    "gpt2-without-biases": GPT2 | {"bias": False, "activation": "relu_squared", "mlp_width": 48},
    "llama": {"rope_theta": 500.0},
    "llama-grouped": {"num_kv_heads": 2, "tie_embeddings": False, "mlp_width": 48, "norm_eps": 1e-3},
    "llama-biases": {"bias": True, "max_positions": 16},
}


def shaken(network: nn.Module) -> nn.Module:
    """Every weight random, so that norms and biases matter too."""
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=draw))
    return network.eval()


def saved(folder: Path, network: nn.Module, name: str, options: dict[str, Any]) -> Path:
    """A run with a checkpoint of the network."""
    data = {"name": "synthetic_tokens", "sequence_length": LENGTH, "vocab_size": VOCABULARY, "global_batch_size": 8}
    configuration = CONFIGURATION | {"model": {"name": name, **SIZES, **options}, "data": data}
    tensors = {"weights": dict(network.state_dict())}
    write_whole(LocalStorage(folder / "checkpoints"), 3, tensors, {"step": 3, "configuration": configuration})
    (folder / "config.yaml").write_text("run: {}")
    Vocabulary("ids", VOCABULARY, separator_id=5, pad_id=0).save(folder / "vocabulary.json")
    return folder


def exported(run: Path, *words: str) -> Path:
    target = run.parent / "exported"
    assert main(["checkpoint", "export", str(run), "--to", str(target), "--format", "huggingface", *words]) == 0
    return target


def random_tokens() -> Tensor:
    return torch.randint(3, VOCABULARY, (2, LENGTH), generator=torch.Generator().manual_seed(1))


def loaded(kind: str, folder: Path) -> nn.Module:
    """By transformers, which must miss nothing and find nothing that it has no use for."""
    import transformers

    model, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", GPTS)
def test_a_gpt_has_the_same_logits_there(name: str, tmp_path: Path) -> None:
    options = GPTS[name]
    network = shaken(GPT(**FACTS, **SIZES, **options))
    folder = exported(saved(tmp_path / "run", network, "gpt", options))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    theirs = loaded("AutoModelForCausalLM", folder)
    assert type(theirs).__name__ == ("GPT2LMHeadModel" if "gpt2" in name else "LlamaForCausalLM")
    expected = network(random_tokens())
    assert expected.std() > 0.3
    torch.testing.assert_close(theirs(random_tokens()).logits, expected, rtol=0, atol=1e-5)
    config: Any = theirs.config
    assert (config.eos_token_id, config.tie_word_embeddings) == (5, options.get("tie_embeddings", True))
    assert config.max_position_embeddings == options.get("max_positions", LENGTH)


def test_bert_has_the_same_logits_there_on_a_padded_batch(tmp_path: Path) -> None:
    network = shaken(BERT(**FACTS, **SIZES, pad_id=0))
    theirs = loaded("BertForMaskedLM", exported(saved(tmp_path / "run", network, "bert", {})))
    tokens = random_tokens()
    tokens[1, 7:] = 0
    expected = network(tokens)
    assert expected.std() > 0.3
    found = theirs(tokens, attention_mask=(tokens != 0).long()).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_large_weights_are_several_files_with_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distmlp.export import huggingface

    monkeypatch.setattr(huggingface, "SHARD_BYTES", 20_000)
    network = shaken(GPT(**FACTS, **SIZES))
    folder = exported(saved(tmp_path / "run", network, "gpt", {}))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    files = {path.name for path in folder.glob("*.safetensors")}
    assert len(files) > 3
    assert set(index["weight_map"].values()) == files
    expected = network(random_tokens())
    theirs = loaded("AutoModelForCausalLM", folder)
    torch.testing.assert_close(theirs(random_tokens()).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gpt", {"qk_norm": True}, "Llama, the nearest, needs model.qk_norm=false (here true);"),
        ("gpt", {"positions": "none"}, "Llama, the nearest, needs model.positions=rotary (here none);"),
        ("gpt", {"logit_soft_cap": 30.0}, "needs model.logit_soft_cap=null (here 30.0);"),
        ("gpt", {"attend_across_documents": False}, "needs model.attend_across_documents=true (here false);"),
        (
            "gpt",
            GPT2 | {"num_kv_heads": 2, "qk_norm": True},
            "GPT-2, the nearest, needs model.num_kv_heads=null (here 2), model.qk_norm=false (here true);",
        ),
        ("bert", {"norm_position": "pre"}, "BERT, the nearest, needs model.norm_position=post (here pre);"),
        ("rnn", None, "model=rnn has no counterpart in Hugging Face's transformers: model=gpt and model=bert have"),
    ],
)
def test_what_has_no_counterpart_is_refused(
    name: str, options: dict[str, Any] | None, message: str, tmp_path: Path, capsys: Any
) -> None:
    network = nn.Linear(2, 2)
    run = saved(tmp_path / "run", network, name, {} if options is None else options)
    target = tmp_path / "out"
    assert main(["checkpoint", "export", str(run), "--to", str(target), "--format", "huggingface"]) == 2
    assert message in capsys.readouterr().err
    assert not target.exists()
