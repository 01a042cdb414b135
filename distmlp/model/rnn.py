"""Recurrent networks: they classify sequences, rows of an image or single values, or predict tokens."""

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from distmlp.errors import ConfigError

CELLS: dict[str, type[nn.RNN | nn.GRU | nn.LSTM]] = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
NUM_GATES = {"elman": 1, "gru": 3, "lstm": 4}


@dataclass
class LayerState:
    """What one layer remembers: hidden values (1, N, width), and for an LSTM its cells too. None: nothing read yet."""

    hidden: Tensor | tuple[Tensor, Tensor] | None = None


@dataclass
class RNNState:
    """What an `RNN` remembers of the sequences that it has read so far, layer by layer; `RNN.forward` updates it."""

    layers: list[LayerState] = field(default_factory=list)


class RecurrentBlock(nn.Module):
    """Dropout of the inputs, then one recurrent layer, in one direction or both.

    Recurrent matrices start orthogonal, gate by gate (Saxe et al., "Exact solutions to the nonlinear dynamics of
    learning in deep linear neural networks", 2014), input matrices uniform after Glorot and Bengio (AISTATS 2010),
    biases at zero but for an LSTM's forget gate at one (Jozefowicz et al., "An empirical exploration of recurrent
    network architectures", ICML 2015).

    Args:
        cell: ``elman`` (tanh; "Finding structure in time", 1990), ``gru`` (Cho et al., 2014) or ``lstm`` (Hochreiter
            and Schmidhuber, 1997; with the forget gate of Gers et al., 2000).
        num_inputs: values of one step.
        width: hidden values per direction.
        bidirectional: also reads from the end.
        dropout: probability that an input is zeroed in training.
    """

    def __init__(self, *, cell: str, num_inputs: int, width: int, bidirectional: bool, dropout: float) -> None:
        super().__init__()
        self.num_gates = NUM_GATES[cell]
        self.dropout = nn.Dropout(dropout)
        self.recurrent = CELLS[cell](num_inputs, width, batch_first=True, bidirectional=bidirectional)
        self._initialise()

    def forward(self, x: Tensor, state: LayerState | None = None) -> Tensor:
        """(N, T, num_inputs) → (N, T, width · directions). With a state: continues from it and updates it in place."""
        x = self.dropout(x)
        if x.is_cpu and torch.is_autocast_enabled("cpu"):
            # Torch has no LSTM of lower precision for CPUs without AVX-512, and fails.
            with torch.autocast("cpu", enabled=False):
                return self._run(x.float(), state)
        return self._run(x, state)

    def _run(self, x: Tensor, state: LayerState | None) -> Tensor:
        output, hidden = self.recurrent(x, None if state is None else state.hidden)
        if state is not None:
            state.hidden = hidden
        return cast(Tensor, output)

    @torch.no_grad()
    def _initialise(self) -> None:
        for name, parameter in self.recurrent.named_parameters():
            gates = parameter.chunk(self.num_gates)
            for gate in gates:
                if name.startswith("weight_hh"):
                    nn.init.orthogonal_(gate)
                elif name.startswith("weight_ih"):
                    nn.init.xavier_uniform_(gate)
                else:
                    nn.init.zeros_(gate)
            # Torch adds two biases to a gate. The forget gate, second of an LSTM's four, gets its one from the first.
            if isinstance(self.recurrent, nn.LSTM) and name.startswith("bias_ih"):
                nn.init.ones_(gates[1])


class RNN(nn.Module):
    """Recurrent layers one on the other, and one linear layer that gives the logits.

    Numbers are read as sequences: an image (C, H, W) as H steps of C·W values, (T, F) as it is, (F,) as F steps of one
    value; the sequence becomes one vector, which is classified. Tokens are embedded, and every position has its logits
    over the vocabulary. `torch.compile` leaves recurrent layers as they are: torch's own kernels run them. Under
    autocast on a CPU they compute in float32.

    Args:
        input_shape: shape of one sample; (T,) for tokens.
        num_outputs: logits per sample, or per token: the size of the vocabulary.
        num_tokens: different tokens in the inputs; None: the inputs are numbers.
        cell: ``elman``, ``gru`` or ``lstm``.
        width: hidden values of a layer, per direction.
        num_layers: recurrent layers.
        bidirectional: also reads from the end.
        embedding_width: values of a token's embedding; None: ``width``.
        pooling: how a sequence becomes one vector: ``mean``, ``max``, or ``last``: the last step of the forward
            direction and, if there is one, the first of the backward direction, which is the last that it reads.
        dropout: probability that an output of a layer is zeroed in training, in [0, 1).

    Raises:
        ConfigError: samples are not sequences of numbers or tokens.
    """

    max_positions: int | None = None

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        num_outputs: int,
        num_tokens: int | None = None,
        cell: str = "lstm",
        width: int = 128,
        num_layers: int = 1,
        bidirectional: bool = False,
        embedding_width: int | None = None,
        pooling: str = "last",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.width, self.bidirectional, self.pooling = width, bidirectional, pooling
        self.embedding: nn.Embedding | None = None
        if num_tokens is None:
            num_inputs = _values_per_step(input_shape)
        else:
            num_inputs = embedding_width or width
            self.embedding = nn.Embedding(num_tokens, num_inputs)
        self.blocks = nn.ModuleList()
        for layer in range(num_layers):
            block = RecurrentBlock(
                cell=cell,
                num_inputs=num_inputs,
                width=width,
                bidirectional=bidirectional,
                dropout=dropout if layer > 0 else 0.0,
            )
            self.blocks.append(block)
            num_inputs = width * 2 if bidirectional else width
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(num_inputs, num_outputs)

    def forward(self, x: Tensor, state: RNNState | None = None) -> Tensor:
        """Numbers (N, *input_shape) → logits (N, num_outputs); tokens (N, T) → (N, T, num_outputs).

        With a state, of tokens in evaluation: they continue its sequences, and it is updated in place.
        """
        assert state is None or (self.embedding is not None and not self.bidirectional)
        x = _as_sequence(x) if self.embedding is None else self.embedding(x)
        for layer, block in enumerate(self.blocks):
            x = block(x) if state is None else block(x, state.layers[layer])
        if self.embedding is None:
            x = self._pooled(x)
        logits: Tensor = self.output(self.dropout(x))
        return logits

    def new_state(self, num_sequences: int, max_length: int) -> RNNState:
        """The state of sequences of which nothing is read yet. Its size depends on neither number before that."""
        return RNNState([LayerState() for _ in self.blocks])

    def _pooled(self, x: Tensor) -> Tensor:
        """(N, T, width · directions) → (N, width · directions)."""
        if self.pooling == "mean":
            return x.mean(1)
        if self.pooling == "max":
            return x.amax(1)
        return torch.cat([x[:, -1, : self.width], x[:, 0, self.width :]], dim=1)


def _values_per_step(input_shape: tuple[int, ...]) -> int:
    if not 1 <= len(input_shape) <= 3:
        raise ConfigError(
            "model=rnn takes images (channels, height, width), sequences (steps, values) or single values (steps,), "
            f"and data gives samples of shape {input_shape}: use model=mlp"
        )
    values = {1: 1, 2: input_shape[-1], 3: input_shape[0] * input_shape[-1]}
    return values[len(input_shape)]


def _as_sequence(x: Tensor) -> Tensor:
    """(N, C, H, W) → (N, H, C·W); (N, T, F) stays; (N, F) → (N, F, 1)."""
    if x.ndim == 4:
        return x.transpose(1, 2).flatten(2)
    return x if x.ndim == 3 else x.unsqueeze(2)
