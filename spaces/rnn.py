"""Recurrent network for series and tokens: simple, LSTM, GRU, or LSTM with peepholes; in one or both directions.

A stem joins `frame` consecutive steps into one, every `hop` steps, which gives fewer and richer steps, as in speech
recognition. Elman 1990, Finding structure in time; Hochreiter & Schmidhuber 1997; Cho et al. 2014, arXiv:1406.1078;
Gers & Schmidhuber 2000; both directions: Schuster & Paliwal 1997. A row's answer depends only on its valid steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from searchkit.core.data_spec import DataSpec
from searchkit.core.space import Budget, Space, Trial
from searchkit.core.training import Categorical, LogUniform, Training, TrainingSpace
from searchkit.nn.blocks.forecaster import forecaster, sample_apart, sample_direct, sample_frames, sample_level
from searchkit.nn.blocks.layers import initialize_, initialize_head_, n_outputs
from searchkit.nn.blocks.steps import Layer, Stem, accepts, check_stem
from searchkit.nn.sequence import AttentionPool, pool


@dataclass(frozen=True)
class Arch:
    """The architecture.

    Attributes:
        kind: Kind of cell: simple, lstm, gru or peephole.
        hidden: Units of a layer in one direction.
        layers: Number of recurrent layers.
        bidirectional: Whether layers run in both directions.
        pooling: How the steps become one vector: last, mean or attention.
        frame: Steps that the stem joins into one.
        hop: Steps from one frame to the next.
        stem_width: Channels of a joined step.
        dropout: Dropout between layers and before the output.
        apart: For forecasts, see `searchkit.nn.blocks.forecaster`.
        direct: For forecasts.
        level: For forecasts.
    """

    kind: str = "gru"
    hidden: int = 64
    layers: int = 1
    bidirectional: bool = True
    pooling: str = "mean"
    frame: int = 5
    hop: int = 2
    stem_width: int = 32
    dropout: float = 0.0
    apart: bool = False
    direct: bool = False
    level: bool = False


class RecurrentNet(nn.Module):
    """(B, C, L) numbers or (B, L) tokens, and lengths (B,) if they vary -> (B, outputs)."""

    def __init__(
        self, stem: Stem, layers: list[Layer], *, dropout: nn.Module, pooling: nn.Module | str, head: nn.Linear
    ) -> None:
        super().__init__()
        self.stem = stem
        self.layers = nn.ModuleList(layers)
        self.dropout = dropout
        self.how = pooling if isinstance(pooling, str) else "attention"
        self.attention = pooling if isinstance(pooling, nn.Module) else None
        self.head = head

    def forward(self, x: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Run the network."""
        steps_BLC, lengths_B = self.stem(x, lengths_B)
        directions: list[Tensor] = []
        for layer in self.layers:
            directions = layer(steps_BLC, lengths_B)
            steps_BLC = self.dropout(torch.cat(directions, 2) if len(directions) > 1 else directions[0])
        if self.attention is not None:
            pooled_BH = self.attention(steps_BLC, lengths_B)
        elif self.how == "last":  # the state after the whole row: the last step forward, the first step backward
            ends = [pool(y, lengths_B, end) for y, end in zip(directions, ("last", "first"), strict=False)]
            pooled_BH = self.dropout(torch.cat(ends, 1) if len(ends) > 1 else ends[0])
        else:
            pooled_BH = pool(steps_BLC, lengths_B, self.how)
        out: Tensor = self.head(pooled_BH)
        return out


def sample(trial: Trial, spec: DataSpec) -> Arch:
    """Sample an architecture."""
    series = spec.modality == "series"
    # The search begins with the middle of each range and list (the first of two), so their order is a choice.
    if spec.forecasts:
        frame, hop = sample_frames(trial, spec)
    else:
        frame, hop = trial.suggest_categorical("frame", [3, 5, 7, 1]) if series else 1, 0
    return Arch(
        kind=trial.suggest_categorical("kind", ["lstm", "simple", "gru", "peephole"]),
        hidden=8 * trial.suggest_int("hidden_by_8", 3, 8, log=True),
        layers=trial.suggest_int("layers", 1, 2),
        bidirectional=trial.suggest_categorical("bidirectional", [True, False]),
        pooling=trial.suggest_categorical("pooling", ["last", "mean", "attention"]),
        frame=frame,
        # At most the frame, so that no step is skipped.
        hop=hop or (trial.suggest_int("hop", 1, min(frame, 4)) if frame > 1 else 1),
        stem_width=8 * trial.suggest_int("stem_width_by_8", 2, 6, log=True),
        dropout=trial.suggest_categorical("dropout", [0.1, 0.0, 0.2]),
        apart=sample_apart(trial, spec),
        direct=sample_direct(trial, spec),
        level=sample_level(trial, spec),
    )


def build(arch: Arch, spec: DataSpec) -> nn.Module:
    """Build the network.

    Raises:
        Infeasible: If the stem's frame is longer than the rows.
    """
    if spec.forecasts:
        return forecaster(
            spec, lambda inner: build(arch, inner), apart=arch.apart, direct=arch.direct, level=arch.level
        )
    check_stem(spec, arch.frame)
    stem = Stem(spec, arch.stem_width, frame=arch.frame, hop=arch.hop)
    initialize_(stem, "relu")  # the recurrent layers initialize themselves
    width, layers = arch.stem_width, []
    for _ in range(arch.layers):
        layers.append(Layer(width, arch.hidden, kind=arch.kind, bidirectional=arch.bidirectional))
        width = arch.hidden * (2 if arch.bidirectional else 1)
    # Attention pooling is a module with weights; the others are functions, chosen by name.
    head = nn.Linear(width, n_outputs(spec))
    initialize_head_(head)
    dropout = nn.Dropout(arch.dropout) if arch.dropout > 0 else nn.Identity()
    pooling = AttentionPool(width) if arch.pooling == "attention" else arch.pooling
    return RecurrentNet(stem, layers, dropout=dropout, pooling=pooling, head=head)


# int8, measured: dynamic LSTM .93 of the latency with 128 units, .14 with 512. A GRU gains neither time nor bytes from
# the quantizer; int8 weights with fp32 arithmetic are what pays. Shifts made no clear difference on MNIST-1D.
SPACE = Space(
    name="rnn",
    arch=Arch,
    accepts=accepts,
    sample=sample,
    build=build,
    training=TrainingSpace(
        default=Training(
            lr=1e-2,
            epochs=18,
            batch_size=64,
            weight_decay=0.02,
            ema=0.98,
            augment=("shift",),
        ),
        ranges={
            "lr": LogUniform(5e-3, 1.5e-2),
            "optimizer": Categorical(("adamw", "rmsprop")),
            "clip_norm": LogUniform(0.25, 4.0),
            "weight_decay": LogUniform(5e-3, 0.1),
            "augment": Categorical((("shift",), ("shift", "jitter", "scale"), ())),
        },
    ),
    task="mnist1d",
    budget=Budget(trials=12, epochs=18, rungs=3, eta=3),
    paper="Cho et al. 2014, arXiv:1406.1078; Hochreiter & Schmidhuber 1997, Long short-term memory",
    points={
        "elman": Arch(kind="simple", bidirectional=False, pooling="last", frame=1, hop=1, stem_width=8),
        "bidirectional-gru": Arch(),
    },
)
