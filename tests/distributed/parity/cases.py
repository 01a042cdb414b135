"""The cases of the parity matrix: networks × recipes × strategies × world sizes, and the part that `make test` takes.

To take another strategy in, add its words to `STRATEGIES`, its bounds to `bounds.py`, and a few cases to
`representative`; the whole matrix has it then.
"""

from dataclasses import dataclass
from pathlib import Path

WORLD_SIZES = (1, 2, 3, 4)

COMMON = """trainer.accelerator=cpu trainer.max_epochs=null trainer.max_steps=50 trainer.log_every_steps=1
    trainer.log_sample_ids=true trainer.progress=false tracking=none"""
# 840 samples to train on: 14 global batches of 60, which 1, 2, 3 and 4 ranks share equally.
VECTORS = "data=synthetic data.num_samples=1200 data.input_shape=[24] data.num_classes=12 data.global_batch_size=60"
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
# DDP's other forms change how gradients are exchanged: how they are used matters for these recipes at most.
FOR_EXCHANGE = ("sgd", "accumulation", "ragged_accumulation", "uneven", "clipping", "checkpointing", "adamw")
# The loss of local SGD is that of DDP where a step is linear in the gradients.
LINEAR = ("sgd", "accumulation", "ragged_accumulation", "uneven", "checkpointing")

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
}
# Their own loss curve by design: compared with DDP up to their first step of their own, and in what samples they take.
OWN_CURVE = {"ddp_powersgd": 10}
FOR_TRANSFORMERS = ("single", "ddp", "fsdp2", "tensor_parallel")
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
    if (case.strategy == "single") != (case.world_size == 1 and case.strategy not in ("fsdp2", "tensor_parallel")):
        return False
    if case.strategy.startswith("ddp_"):
        return case.recipe in (LINEAR if case.strategy == "ddp_localsgd" else FOR_EXCHANGE)
    return not (case.strategy == "tensor_parallel" and case.world_size == 3 and not case.network.startswith("mlp"))


def _product(world_sizes: tuple[int, ...], strategies: tuple[str, ...], pairs: list[tuple[str, str]]) -> list[Case]:
    cases = [Case(world, name, *pair) for world in world_sizes for pair in pairs for name in strategies]
    return [case for case in cases if _is_possible(case)]


def whole_matrix() -> list[Case]:
    """Every strategy with every recipe on the MLP; on the other networks those that split them."""
    recipes = [("mlp_norm" if recipe.startswith("adamw") else "mlp", recipe) for recipe in RECIPES]
    others = [(network, recipe) for network in NETWORKS if network[:3] != "mlp" for recipe in ("sgd", "adamw")]
    others += [("gpt_untied", "checkpointing"), ("gpt_documents", "adamw_accumulation"), ("mlp_batch_norm", "sgd")]
    unequal = [("gpt_documents", "adamw_accumulation"), ("mlp_batch_norm", "sgd")]
    return (
        _product(WORLD_SIZES, tuple(STRATEGIES), recipes)
        + _product((1, 2, 4), FOR_TRANSFORMERS, others)
        + _product((3,), FOR_TRANSFORMERS, unequal)
    )


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
        Case(4, "hsdp", "mlp", "ragged_clipping"),
        Case(4, "tensor_parallel", "mlp", "ragged_clipping"),
    ]
