"""The cases of the parity matrix: networks × recipes × strategies × world sizes, and the part that `make test` takes.

To take another strategy in, add its words to `STRATEGIES`, its bounds to `bounds.py`, and a few cases to
`representative`; the whole matrix has it then.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

COMMON = """trainer.accelerator=cpu trainer.max_epochs=null trainer.max_steps=50 trainer.log_every_steps=1
    trainer.log_sample_ids=true trainer.progress=false tracking=none"""
# 840 samples to train on: 14 global batches of 60, which 1, 2, 3 and 4 ranks share equally. They cannot share 13 rows.
VECTORS = "data=synthetic data.num_samples=1200 data.input_shape=[24] data.num_classes=13 data.global_batch_size=60"
IMAGES = "data=synthetic data.num_samples=300 data.input_shape=[3,8,8] data.num_classes=12 data.global_batch_size=24"
TOKENS = "data=synthetic_tokens data.num_samples=300 data.vocab_size=64 data.sequence_length=16"
TOKENS += " data.global_batch_size=24 data.test_fraction=0.1"
# Files of different length, each padded to whole samples: ranks hold as many samples and not as many targets.
DOCUMENTS = "data=text data.path={documents} data.cache_dir={documents}/../cache data.packing=documents"
DOCUMENTS += " data.sequence_length=16 data.global_batch_size=24 data.test_fraction=0.1"
TRANSFORMER = "model.num_layers=2 model.width=32 model.num_heads=4 trainer.max_steps=20"
UNTIED = "model.num_kv_heads=2 model.qk_norm=true model.tie_embeddings=false"

# Smooth: where the input of a ReLU is 0 but for rounding, the gradient jumps, and runs part from there on.
MLP = "model=mlp model.hidden=[24,24] model.activation=gelu"
NETWORKS = {
    "mlp": f"{MLP} {VECTORS}",
    "mlp_norm": f"{MLP} model.norm=layer {VECTORS}",
    "mlp_batch_norm": f"{MLP} model.norm=batch {VECTORS}",
    "gpt": f"model=gpt {TRANSFORMER} {TOKENS}",
    "gpt_untied": f"model=gpt {TRANSFORMER} {UNTIED} {TOKENS}",
    "gpt_documents": f"model=gpt {TRANSFORMER} {DOCUMENTS}",
    "bert": f"model=bert {TRANSFORMER} {TOKENS}",
    "vit": f"model=vit {TRANSFORMER} model.patch_size=4 {IMAGES}",
}

SGD = "optimizer=sgd optimizer.lr=0.1"
ADAMW = "optimizer=adamw optimizer.lr=0.002 optimizer.weight_decay=0.1"
RECIPES = {
    "sgd": SGD,
    "accumulation": f"{SGD} trainer.micro_batch_size=7",
    "clipping": f"{SGD} trainer.gradient_clip_norm=0.2",
    "clipping_value": f"{SGD} trainer.gradient_clip_value=0.01",
    # 840 is 9 · 93 + 3: the last batch of an epoch leaves one of four ranks without a sample.
    "ragged": f"{SGD} data.global_batch_size=93",
    "ragged_accumulation": f"{SGD} data.global_batch_size=93 trainer.micro_batch_size=10",
    "ragged_clipping": f"{SGD} data.global_batch_size=93 trainer.micro_batch_size=12 trainer.gradient_clip_norm=0.2",
    "uneven": f"{SGD} data.global_batch_size=50",
    "checkpointing": f"{SGD} model.activation_checkpointing=true",
    "momentum": "optimizer=momentum optimizer.lr=0.05",
    "adamw": ADAMW,
    "adamw_accumulation": f"{ADAMW} trainer.micro_batch_size=10 trainer.gradient_clip_norm=0.5",
    "warmup": "optimizer=adamw optimizer.lr=0.004 scheduler=cosine scheduler.warmup_samples=600",
    "adam": "optimizer=adam optimizer.lr=0.002",
    "adagrad": "optimizer=adagrad optimizer.lr=0.01",
    "rmsprop": "optimizer=rmsprop optimizer.lr=0.001",
    "lion": "optimizer=lion optimizer.lr=0.0002",
    "muon": "optimizer=muon optimizer.lr=0.01",
}
OPTIMIZERS = ("momentum", "adam", "adagrad", "rmsprop", "lion", "muon", "warmup", "clipping_value")
# The loss of local SGD is that of DDP where a step is linear in the gradients, as in all of these but the last two.
FOR_FORMS = ("sgd", "accumulation", "uneven", "ragged_clipping", "adamw")
NOT_FOR_LOCAL_SGD = ("ragged_clipping", "adamw")

STRATEGIES = {
    "single": "strategy=single",
    "ddp": "strategy=ddp",
    "ddp_static_graph": "strategy=ddp strategy.static_graph=true",
    "fsdp2": "strategy=fsdp2",
    "hsdp": "strategy=hsdp strategy.shard_size={group}",
    "tensor_parallel": "strategy=tensor_parallel strategy.tensor_size={group}",
    "ddp_fp16_compress": "strategy=ddp_fp16_compress",
    "ddp_bf16_compress": "strategy=ddp_bf16_compress",
    "ddp_localsgd": "strategy=ddp_localsgd strategy.period=1 strategy.start_step=0 strategy.group_size=1",
    "ddp_powersgd": "strategy=ddp_powersgd strategy.start_step=10",
    "deepspeed_zero1": "strategy=deepspeed_zero1",
    "deepspeed_zero2": "strategy=deepspeed_zero2",
    "deepspeed_zero3": "strategy=deepspeed_zero3 strategy.whole_below_elements=1",
    "deepspeed_zero2_offload": "strategy=deepspeed_zero2_offload",
    "deepspeed_zero3_offload": "strategy=deepspeed_zero3_offload strategy.whole_below_elements=1",
    # Quantized exchanges need CUDA; the second copy of the weights does not.
    "deepspeed_zeropp": "strategy=deepspeed_zeropp strategy.whole_below_elements=1 "
    "strategy.secondary_shard_size={group} strategy.quantized_weights=false strategy.quantized_gradients=false",
}
# Their own loss curve by design: compared with DDP up to their first step of their own, and in what samples they take.
OWN_CURVE = {"ddp_powersgd": 10}
CORE = ("ddp", "fsdp2", "tensor_parallel", "deepspeed_zero2", "deepspeed_zero3")
# What differs from one of these in how ranks exchange, or in what they share.
FORMS = tuple(name for name in STRATEGIES if name not in ("single", *CORE))
# What DeepSpeed refuses.
NOT_FOR_DEEPSPEED = ("clipping_value", "muon")
GROUP = {1: 1, 2: 2, 3: 3, 4: 2}  # ranks that share a copy (hsdp) or split a layer (tensor_parallel)


@dataclass(frozen=True)
class Case:
    """One run of the matrix."""

    world_size: int
    strategy: str
    network: str
    recipe: str

    def __str__(self) -> str:
        return f"{self.world_size}-{self.strategy}-{self.network}-{self.recipe}"

    def words(self, documents: Path) -> list[str]:
        """The run's words for the command line. ``documents``: a folder of texts."""
        strategy = STRATEGIES[self.strategy].format(group=GROUP[self.world_size])
        network = NETWORKS[self.network].format(documents=documents)
        return f"{COMMON} {network} {RECIPES[self.recipe]} {strategy}".split()

    @property
    def with_ddp(self) -> "Case":
        """DDP on as many ranks, which is ``single`` for one.

        Batch norms see the samples of a rank: there it is as many ranks that hold different samples.
        """
        size = self.world_size
        if self.network == "mlp_batch_norm" and self.strategy == "tensor_parallel":
            size //= GROUP[size]
        return Case(size, "ddp" if size > 1 else "single", self.network, self.recipe)

    @property
    def in_one_process(self) -> "Case":
        return Case(1, "single", self.network, self.recipe)


def _is_possible(case: Case) -> bool:
    if case.strategy.startswith("deepspeed"):
        return case.recipe not in NOT_FOR_DEEPSPEED
    if case.strategy == "ddp_localsgd":
        return case.recipe not in NOT_FOR_LOCAL_SGD
    return not (case.strategy == "tensor_parallel" and case.world_size == 3 and not case.network.startswith("mlp"))


def _product(
    world_sizes: tuple[int, ...], strategies: tuple[str, ...], runs: Iterable[tuple[str, str]]
) -> Iterator[Case]:
    for world_size, (network, recipe), strategy in product(world_sizes, runs, strategies):
        case = Case(world_size, strategy, network, recipe)
        if _is_possible(case):
            yield case


def whole_matrix() -> list[Case]:
    """How gradients are exchanged on 2, 3 and 4 ranks, optimizers on 3, and Transformers on 2 and 4."""

    def vectors(recipes: Iterable[str]) -> list[tuple[str, str]]:
        return [("mlp_norm" if recipe.startswith("adamw") else "mlp", recipe) for recipe in recipes]

    gradients = vectors(recipe for recipe in RECIPES if recipe not in OPTIMIZERS)
    transformers = [(network, recipe) for network in NETWORKS if network[:3] != "mlp" for recipe in ("sgd", "adamw")]
    transformers += [("gpt_untied", "checkpointing"), ("gpt_documents", "adamw_accumulation")]
    others = [("gpt_documents", "adamw_accumulation"), ("mlp_batch_norm", "sgd")]
    return [
        *_product((1,), ("fsdp2", "tensor_parallel", "deepspeed_zero1", "deepspeed_zero3"), vectors(FOR_FORMS)),
        *_product((2, 3, 4), CORE, gradients),
        *_product((2, 3, 4), FORMS, vectors(FOR_FORMS)),
        *_product((3,), CORE, [*vectors(OPTIMIZERS), *others]),
        *_product((2, 4), CORE, transformers),
    ]


def representative() -> list[Case]:
    """A part that has every strategy, every world size, and each recipe that strategies differ in."""
    return [
        Case(1, "ddp", "mlp", "sgd"),
        Case(1, "fsdp2", "mlp", "sgd"),
        Case(2, "ddp", "mlp", "sgd"),
        Case(2, "ddp_fp16_compress", "mlp", "sgd"),
        Case(2, "ddp_bf16_compress", "mlp", "sgd"),
        Case(2, "ddp_localsgd", "mlp", "sgd"),
        Case(2, "ddp_powersgd", "mlp", "sgd"),
        Case(2, "ddp_static_graph", "mlp", "accumulation"),
        Case(2, "fsdp2", "mlp", "accumulation"),
        Case(2, "tensor_parallel", "gpt_untied", "checkpointing"),
        Case(2, "fsdp2", "gpt_documents", "adamw_accumulation"),
        Case(3, "fsdp2", "mlp_norm", "uneven"),
        Case(1, "deepspeed_zero3", "mlp", "sgd"),
        Case(2, "deepspeed_zero1", "mlp", "accumulation"),
        Case(2, "deepspeed_zero2", "mlp_norm", "adamw_accumulation"),
        Case(2, "deepspeed_zero2_offload", "mlp", "sgd"),
        Case(2, "deepspeed_zero3", "gpt_documents", "adamw_accumulation"),
        Case(2, "deepspeed_zero3_offload", "mlp", "ragged_accumulation"),
        Case(3, "deepspeed_zero3", "mlp", "uneven"),
        Case(4, "deepspeed_zeropp", "mlp", "ragged_clipping"),
        Case(4, "hsdp", "mlp", "ragged_clipping"),
        Case(4, "tensor_parallel", "mlp", "ragged_clipping"),
    ]
