"""Transformer encoder over series and tokens: pre-norm blocks of self-attention and a feed-forward net.

Vaswani et al. 2017, arXiv:1706.03762. A series comes in as frames of consecutive steps (a convolution), tokens by
embedding. The class token is a step of zeros before the row: its position alone tells it apart, so it needs no
parameter of its own. What stands after a row's end is not attended to. Not to be confused with a decoder: every step
sees every other one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.layers import Positions, pool, valid_steps
from searchkit.types import Between, Budget, Choice, DataSpec, Space, Training, TrainingSpace, Trial
from spaces._encoder import Block
from spaces._forecast import forecaster, sample_apart, sample_direct, sample_frames, sample_level
from spaces._layers import initialise_, initialise_head_, n_outputs
from spaces._steps import Stem, accepts, check_stem

MOST_STEPS = 512
"""The positions there are where rows vary in length and the data does not say how long they get."""


@dataclass(frozen=True)
class Arch:
    """width: channels of a step. ffn: the feed-forward net's width over it. positions: learned or sinusoidal. pooling:
    mean, or token (a class token). frame, hop: steps that the stem joins into one, and from one to the next.
    apart, direct, level: of a forecast, see `spaces._forecast`."""

    width: int = 64
    heads: int = 4
    depth: int = 2
    ffn: int = 2
    positions: str = "learned"
    pooling: str = "mean"
    frame: int = 7
    hop: int = 2
    activation: str = "relu"
    dropout: float = 0.0
    apart: bool = False
    direct: bool = False
    level: bool = False


class Encoder(nn.Module):
    """(B, C, L) numbers or (B, L) tokens, and lengths (B,) where they vary -> (B, outputs)."""

    def __init__(
        self,
        stem: Stem,
        positions: Positions,
        *,
        blocks: list[Block],
        norm: nn.LayerNorm,
        head: nn.Linear,
        pooling: str,
    ) -> None:
        super().__init__()
        self.stem = stem
        self.positions = positions
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.head = head
        self.token = pooling == "token"

    def forward(self, x: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        steps_BLD, lengths_B = self.stem(x, lengths_B)
        if self.token:
            steps_BLD = F.pad(steps_BLD, (0, 0, 1, 0))
            lengths_B = None if lengths_B is None else lengths_B + 1
        steps_BLD = self.positions(steps_BLD)
        keep_BL = None if lengths_B is None else valid_steps(steps_BLD, lengths_B)
        for block in self.blocks:
            steps_BLD = block(steps_BLD, keep_BL)
        steps_BLD = self.norm(steps_BLD)
        out: Tensor = self.head(pool(steps_BLD, lengths_B, "first" if self.token else "mean"))
        return out


def sample(trial: Trial, spec: DataSpec) -> Arch:
    if spec.forecasts:
        frame, hop = sample_frames(trial, spec)
    else:
        frame, hop = trial.suggest_categorical("frame", [7, 5, 3]) if spec.modality == "series" else 1, 0
    return Arch(
        width=16 * trial.suggest_int("width_by_16", 2, 5, log=True),
        heads=trial.suggest_categorical("heads", [1, 2, 4]),
        depth=trial.suggest_int("depth", 1, 3),
        ffn=trial.suggest_int("ffn", 1, 3),
        positions=trial.suggest_categorical("positions", ["learned", "sinusoidal"]),
        pooling=trial.suggest_categorical("pooling", ["mean", "token"]),
        frame=frame,
        hop=hop or (trial.suggest_int("hop", 1, 3) if frame > 1 else 1),
        activation=trial.suggest_categorical("activation", ["relu", "gelu"]),
        dropout=trial.suggest_categorical("dropout", [0.0, 0.1]),
        apart=sample_apart(trial, spec),
        direct=sample_direct(trial, spec),
        level=sample_level(trial, spec),
    )


def build(arch: Arch, spec: DataSpec) -> nn.Module:
    """Raises Infeasible where the heads do not share the width out, or a frame is longer than the rows."""
    if spec.forecasts:
        return forecaster(
            spec, lambda inner: build(arch, inner), apart=arch.apart, direct=arch.direct, level=arch.level
        )
    check_stem(spec, arch.frame)
    steps = spec.inputs[0].shape[-1] or MOST_STEPS
    length = (steps + arch.hop - 1) // arch.hop + (1 if arch.pooling == "token" else 0)
    stem = Stem(spec, arch.width, frame=arch.frame, hop=arch.hop)
    initialise_(stem, "relu")
    blocks = [
        Block(arch.width, heads=arch.heads, ffn=arch.ffn, nonlinearity=arch.activation, dropout=arch.dropout)
        for _ in range(arch.depth)
    ]
    head = nn.Linear(arch.width, n_outputs(spec))
    initialise_head_(head)
    positions = Positions(arch.width, length=length, kind=arch.positions)
    return Encoder(stem, positions, blocks=blocks, norm=nn.LayerNorm(arch.width), head=head, pooling=arch.pooling)


SPACE = Space(
    name="transformer",
    arch=Arch,
    accepts=accepts,
    sample=sample,
    build=build,
    training=TrainingSpace(
        default=Training(
            lr=4e-3, epochs=18, batch_size=64, weight_decay=0.05, ema=0.98, warmup=0.1, augment=("shift",)
        ),
        ranges={
            "lr": Between(2e-3, 6e-3, log=True),
            "schedule": Choice(("cosine", "linear")),
            "clip_norm": Between(0.25, 4.0, log=True),
            "weight_decay": Between(1e-2, 0.2, log=True),
            "augment": Choice((("shift",), ("shift", "jitter", "scale"), ())),
        },
    ),
    task="mnist1d",
    budget=Budget(trials=12, epochs=18, rungs=3, eta=3),
    paper="Vaswani et al. 2017, arXiv:1706.03762",
    points={"base": Arch(width=96, heads=4, depth=4, ffn=4)},
)  # fmt: skip
