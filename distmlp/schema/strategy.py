"""Keys of the group `strategy`: how a run is spread over ranks."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from distmlp.schema.base import Auto, Section

ReduceDtype = Literal["fp32", "bf16", "fp16"]
Offload = Literal["none", "cpu", "nvme"]


class StrategySection(Section):
    """What every strategy has."""

    name: str


class AutoStrategy(StrategySection):
    name: Literal["auto"]


class SingleStrategy(StrategySection):
    name: Literal["single"]


class DDPStrategy(StrategySection):
    name: Literal["ddp", "ddp_fp16_compress", "ddp_bf16_compress"]
    bucket_view: bool = Field(True, description="gradients are views of the buckets that are exchanged: spares a copy")
    bucket_megabytes: PositiveFloat = Field(25.0, description="gradients that are exchanged at once")
    static_graph: bool = Field(False, description="every pass uses the same parameters in the same order: saves work")
    find_unused_parameters: bool = Field(False, description="for networks that leave parameters out in some passes")


class PowerSGDStrategy(DDPStrategy):
    name: Literal["ddp_powersgd"]  # type: ignore[assignment]
    approximation_rank: PositiveInt = Field(2, description="rank of the matrices that gradients are compressed to")
    start_step: Annotated[int, Field(ge=2)] = Field(10, description="plain DDP before this step")


class LocalSGDStrategy(DDPStrategy):
    name: Literal["ddp_localsgd"]  # type: ignore[assignment]
    period: PositiveInt = Field(8, description="steps between two averages of the weights over all ranks")
    start_step: Annotated[int, Field(ge=0)] = Field(100, description="plain DDP before this step")
    group_size: PositiveInt | Auto = Field("auto", description="ranks that average gradients each step; auto: a node's")


class FSDP2Strategy(StrategySection):
    name: Literal["fsdp2"]
    reshard_after_forward: bool = Field(True, description="frees a block's weights between forward and backward pass")
    cpu_offload: bool = Field(False, description="keeps shards in host memory and steps the optimizer there")
    reduce_dtype: ReduceDtype = Field("fp32", description="format in which gradients are exchanged")


class HSDPStrategy(FSDP2Strategy):
    name: Literal["hsdp"]  # type: ignore[assignment]
    shard_size: PositiveInt | Auto = Field(
        "auto", description="ranks that share one copy of the weights; auto: a node's"
    )
    replicate_size: PositiveInt | Auto = Field("auto", description="copies of the weights; auto: what ranks are left")


class TensorParallelStrategy(FSDP2Strategy):
    name: Literal["tensor_parallel"]  # type: ignore[assignment]
    tensor_size: PositiveInt | Auto = Field("auto", description="ranks that split a layer; auto: a node's")
    data_size: PositiveInt | Auto = Field("auto", description="ranks that hold different samples; auto: what is left")


class DeepSpeedStrategy(StrategySection):
    name: Literal[
        "deepspeed_zero1",
        "deepspeed_zero2",
        "deepspeed_zero3",
        "deepspeed_zero2_offload",
        "deepspeed_zero3_offload",
        "deepspeed_zero3_nvme",
        "deepspeed_zeropp",
    ]
    stage: Literal[1, 2, 3] = Field(description="what is sharded: optimizer states, then gradients, then weights")
    offload_optimizer: Offload = Field(
        "none", description="where optimizer states live: none (on the device), cpu, nvme"
    )
    offload_parameters: Offload = Field("none", description="where shards of weights live (stage 3)")
    nvme_path: str | None = Field(None, description="folder on a fast local disk, for what is offloaded to nvme")
    reduce_dtype: ReduceDtype = Field("fp32", description="format in which gradients are exchanged")
    bucket_elements: PositiveInt = Field(500_000_000, description="gradient values that are reduced at once")
    whole_below_elements: Annotated[int, Field(ge=0)] = Field(
        100_000, description="weights with fewer values stay whole on every rank (stage 3): fewer messages"
    )
    overlap_communication: bool = Field(True, description="reduces gradients while the backward pass goes on (CUDA)")
    secondary_shard_size: PositiveInt | Auto = Field(
        1, description="ZeRO++ hpZ: ranks that hold a second copy of weights"
    )
    quantized_weights: bool = Field(False, description="ZeRO++ qwZ: gathers weights as 8-bit integers")
    quantized_gradients: bool = Field(False, description="ZeRO++ qgZ: reduces gradients as 4-bit integers")
