"""Keys of the group `model`."""

from typing import Literal, Self

from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from distmlp.schema.base import Fraction, Section


class Network(Section):
    """What every network can do. Presets such as ``gpt2_124m`` are files of these keys too."""

    activation_checkpointing: bool = Field(
        False, description="recomputes each block's activations in the backward pass: less memory, a third more work"
    )
    compile: bool = Field(False, description="compiles each block with torch.compile")


class MLPModel(Network):
    name: Literal["mlp"]
    hidden: list[PositiveInt] = Field([128], description="widths of the hidden layers")
    activation: str = Field("relu", description="relu, gelu, silu, tanh, sigmoid, leaky_relu or identity")
    dropout: Fraction = Field(0.0, description="share of hidden values zeroed in training")
    norm: Literal["none", "layer", "batch", "rms"] = Field("none", description="normalisation before each activation")
    residual: bool = Field(False, description="adds a layer's input to its output where the widths are equal")
    init: Literal["torch", "glorot", "he"] = Field("torch", description="initialisation of the weights")
    zero_bias: bool = Field(False, description="starts biases at zero")


class CustomModel(Network):
    """A network of the user's own: keys beside ``_target_`` are its arguments."""

    model_config = ConfigDict(extra="allow")
    name: Literal["custom"]
    target: str = Field(alias="_target_", description="dotted name of your nn.Module, e.g. my_package.MyNet")


class CNNModel(Network):
    name: Literal["cnn"]
    widths: list[PositiveInt] = Field([32, 64, 128], min_length=1, description="channels of each stage of a cnn")
    blocks_per_stage: PositiveInt = Field(2, description="convolutions in each stage of a cnn")
    kernel_size: PositiveInt = Field(3, description="height and width of a kernel; odd")
    activation: str = Field("relu", description="relu, gelu, silu, tanh, sigmoid, leaky_relu or identity")
    norm: Literal["none", "group", "layer", "batch"] = Field("group", description="normalisation after a convolution")
    downsample: Literal["max", "average", "stride"] = Field("max", description="how a stage halves height and width")
    pooling: Literal["average", "max"] = Field("average", description="how the last stage becomes one vector")
    residual: bool = Field(True, description="adds a block's input to its output where the shapes are equal")
    dropout: Fraction = Field(0.0, description="share of values zeroed before the output layer in training")

    @model_validator(mode="after")
    def _kernel_is_odd(self) -> Self:
        if self.kernel_size % 2 == 0:
            raise ValueError(
                f"model.kernel_size={self.kernel_size} is even: use an odd size, so that a kernel is centred"
            )
        return self


class ResNetModel(Network):
    name: Literal["resnet"]
    depth: PositiveInt = Field(18, description="18, 34, 50, 101, 152, or 6n+2 (20, 32, 44, 56, 110 …)")
    blocks: list[PositiveInt] | None = Field(
        None, description="blocks of each stage, for any other depth; null: depth's"
    )
    block: Literal["auto", "basic", "bottleneck"] = Field("auto", description="kind of block; auto: depth's")
    width: PositiveInt | None = Field(None, description="channels of the first stage; null: depth's (64 or 16)")
    stem: Literal["auto", "small", "large"] = Field(
        "auto", description="large: 7x7 stride 2 and max pooling; small: 3x3; auto: large from 96 pixels on"
    )
    norm: Literal["group", "batch"] = Field("group", description="batch is the paper's; it depends on the micro-batch")


class RNNModel(Network):
    name: Literal["rnn"]
    cell: Literal["elman", "gru", "lstm"] = Field("lstm", description="kind of recurrent layer")
    width: PositiveInt = Field(128, description="hidden values of a layer, per direction")
    num_layers: PositiveInt = Field(1, description="recurrent layers")
    bidirectional: bool = Field(False, description="also reads from the end; not for next-token prediction")
    embedding_width: PositiveInt | None = Field(None, description="width of token embeddings; null: width")
    pooling: Literal["last", "mean", "max"] = Field("last", description="how a sequence becomes one vector to classify")
    dropout: Fraction = Field(0.0, description="share of a layer's outputs zeroed in training")


class Transformer(Network):
    num_layers: PositiveInt = Field(description="transformer blocks")
    num_heads: PositiveInt = Field(description="attention heads; they divide width")
    width: PositiveInt = Field(description="width of the residual stream")
    mlp_width: PositiveInt | None = Field(
        None, description="hidden width of a block's MLP; null: 4 width, or 8/3 width for swiglu"
    )
    dropout: Fraction = Field(0.0, description="share of values zeroed after embedding, attention and MLP in training")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(
                f"model.num_heads={self.num_heads} does not divide model.width={self.width}: every head has an equal "
                "share of the width"
            )
        return self


class GPTModel(Transformer):
    name: Literal["gpt"]
    num_kv_heads: PositiveInt | None = Field(
        None, description="heads of keys and values, fewer in grouped-query attention; null: num_heads"
    )
    vocab_size: PositiveInt | None = Field(None, description="rows of the embedding; null: the data's vocabulary")
    max_positions: PositiveInt | None = Field(None, description="longest sequence; null: data.sequence_length")
    positions: Literal["rotary", "learned", "none"] = Field("rotary", description="how the order of tokens is told")
    rope_theta: PositiveFloat = Field(10000.0, description="base of the rotary wavelengths")
    norm: Literal["rms", "layer"] = Field("rms", description="normalisation before attention and MLP")
    norm_eps: PositiveFloat = Field(1e-5, description="added to the variance")
    activation: Literal["swiglu", "gelu", "gelu_tanh", "relu", "relu_squared"] = Field(
        "swiglu", description="of the blocks' MLP"
    )
    bias: bool = Field(False, description="biases in linear layers and layer norms")
    tie_embeddings: bool = Field(True, description="the output layer shares the token embedding's weights")
    qk_norm: bool = Field(False, description="normalises queries and keys, for stable training at high rates")
    logit_soft_cap: PositiveFloat | None = Field(None, description="squashes logits smoothly into ± this value")
    attend_across_documents: bool = Field(True, description="false: attention ends at the data's document separator")

    @model_validator(mode="after")
    def _kv_heads_divide_heads(self) -> Self:
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"model.num_kv_heads={self.num_kv_heads} does not divide model.num_heads={self.num_heads}: every "
                "key-value head serves an equal number of heads"
            )
        return self

    @model_validator(mode="after")
    def _rotary_heads_are_even(self) -> Self:
        if self.positions == "rotary" and (self.width // self.num_heads) % 2:
            raise ValueError(
                f"model.width={self.width} / model.num_heads={self.num_heads} is {self.width // self.num_heads}: "
                "model.positions=rotary turns pairs of values, so a head needs an even width"
            )
        return self


class BERTModel(Transformer):
    name: Literal["bert"]
    vocab_size: PositiveInt | None = Field(None, description="rows of the embedding; null: the data's vocabulary")
    max_positions: PositiveInt | None = Field(None, description="longest sequence; null: data.sequence_length")
    num_token_types: PositiveInt = Field(2, description="kinds of segments; all tokens are of the first kind here")
    norm_position: Literal["post", "pre"] = Field("post", description="post is the paper's; pre trains more easily")
    norm_eps: PositiveFloat = Field(1e-12, description="added to the variance")


class ViTModel(Transformer):
    name: Literal["vit"]
    patch_size: PositiveInt = Field(4, description="height and width of a patch; divides the image's")
    pooling: Literal["cls", "mean"] = Field(
        "cls", description="what is classified: a class token, or the patches' mean"
    )
    norm_eps: PositiveFloat = Field(1e-6, description="added to the variance")
