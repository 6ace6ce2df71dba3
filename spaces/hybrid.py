"""Hybrid network: convolutions that make steps, and a recurrent network or Transformer that reads them.

- "steps": convolutions that keep the axis of steps, then the sequence (CRNN: Shi et al. 2017, arXiv:1507.05717; the
  convolutional front end of speech Transformers: Dong et al. 2018).
- "frames": the same small network for each frame, then the sequence (LRCN: Donahue et al. 2015, arXiv:1411.4389).
- "branches": convolutions and the sequence in parallel, joined before the output (LSTM-FCN: Karim et al. 2018,
  arXiv:1709.05206).

Images are read row by row, from top to bottom. A clip (channels, frames, height, width) takes only "frames"; for other
data the frames are windows that overlap by half. A row's answer depends only on its valid steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from searchkit.core.data_spec import DataSpec
from searchkit.core.errors import Infeasible
from searchkit.core.space import Budget, Space, Trial
from searchkit.core.training import Categorical, LogUniform, Training, TrainingSpace
from searchkit.nn.blocks.encoder import Block
from searchkit.nn.blocks.layers import initialize_, initialize_head_, n_outputs, plain_answer
from searchkit.nn.blocks.step_convolutions import FrameConvolutions, PlainSteps, Reader, StepConvolutions
from searchkit.nn.blocks.steps import Layer
from searchkit.nn.embedding import Positions
from searchkit.nn.sequence import AttentionPool, pool, trim, valid_steps

MOST_STEPS = 512
"""Number of positions if rows vary in length and the data have no maximum."""

USUAL_STEPS = 64
"""Steps that window lengths are derived from if rows vary in length."""


@dataclass(frozen=True)
class Arch:
    """The architecture.

    Attributes:
        kind: steps, frames or branches.
        widths: Channels of each stage of convolutions; each stage after the first halves every axis.
        depth: Convolutions of a stage.
        kernel: Kernel size.
        halves_steps: Whether stages halve the steps too; the sequence of "branches" then reads every second step.
        planar: Whether the channels of a series are an axis to convolve over, as for a spectrogram.
        frame: Steps of a window, for "frames".
        width: Channels of a step as the sequence reads it.
        sequence: simple, lstm, gru, peephole or transformer.
        layers: Layers of the sequence.
        hidden: Units of a recurrent layer in one direction.
        bidirectional: Whether recurrent layers run in both directions.
        pooling: How the steps of a recurrent network become one vector: last, mean or attention; a Transformer takes
            the mean.
        heads: Attention heads of a Transformer.
        dropout: Dropout in the Transformer and before the output.
    """

    kind: str = "steps"
    widths: tuple[int, ...] = (16, 32)
    depth: int = 1
    kernel: int = 3
    halves_steps: bool = False
    planar: bool = False
    frame: int = 8
    width: int = 32
    sequence: str = "gru"
    layers: int = 1
    hidden: int = 48
    bidirectional: bool = True
    pooling: str = "mean"
    heads: int = 2
    dropout: float = 0.0


# ── From steps to one vector ─────────────────────────────────────────────────────────────────────────────────────────


class Recurrence(nn.Module):
    """Recurrent layers and pooling: (B, L, D), and lengths (B,) if they vary -> (B, H), or (B, 2H) for both directions.

    Args:
        layers: The layers.
        width: Channels of the last one, both directions together.
        pooling: last, mean or attention.
    """

    def __init__(self, layers: Sequence[Layer], width: int, *, pooling: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.pooling = pooling
        self.attention = AttentionPool(width) if pooling == "attention" else None

    def forward(self, steps_BLD: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Return one vector per row."""
        directions: list[Tensor] = []
        for layer in self.layers:
            directions = layer(steps_BLD, lengths_B)
            steps_BLD = torch.cat(directions, 2) if len(directions) > 1 else directions[0]
        if self.attention is not None:
            out: Tensor = self.attention(steps_BLD, lengths_B)
            return out
        if self.pooling == "last":  # the state after the whole row: the last step forward, the first step backward
            ends = [pool(y, lengths_B, end) for y, end in zip(directions, ("last", "first"), strict=False)]
            return torch.cat(ends, 1) if len(ends) > 1 else ends[0]
        return pool(steps_BLD, lengths_B, self.pooling)


class Encoder(nn.Module):
    """Transformer encoder and mean pooling: (B, L, D), and lengths (B,) if they vary -> (B, D)."""

    def __init__(self, positions: Positions, blocks: Sequence[Block], norm: nn.LayerNorm) -> None:
        super().__init__()
        self.positions = positions
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm

    def forward(self, steps_BLD: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Return one vector per row."""
        steps_BLD = self.positions(steps_BLD)
        keep_BL = None if lengths_B is None else valid_steps(steps_BLD, lengths_B)
        for block in self.blocks:
            steps_BLD = block(steps_BLD, keep_BL)
        return pool(self.norm(steps_BLD), lengths_B, "mean")


class Hybrid(nn.Module):
    """Data, and lengths (B,) if they vary -> (B, outputs).

    In training, rows are cut to the longest of the batch.

    Args:
        reader: Prepares the data.
        convolutions: Makes the steps.
        beside: For "branches", what the sequence reads while the convolutions answer with the mean of their steps.
        sequence: Reads the steps.
        dropout: Dropout before the output.
        head: Output layer.
    """

    def __init__(
        self,
        reader: Reader,
        convolutions: StepConvolutions | FrameConvolutions,
        beside: PlainSteps | None,
        *,
        sequence: Recurrence | Encoder,
        dropout: nn.Module,
        head: nn.Linear,
    ) -> None:
        super().__init__()
        self.reader = reader
        self.convolutions = convolutions
        self.beside = beside
        self.sequence = sequence
        self.dropout = dropout
        self.head = head

    def forward(self, x: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Run the network."""
        x = self.reader(trim(x, lengths_B) if self.training else x, lengths_B)
        steps_BLD, n_steps_B = self.convolutions(x, lengths_B)
        if self.beside is None:
            answer_BD = self.sequence(steps_BLD, n_steps_B)
        else:
            answer_BD = torch.cat([pool(steps_BLD, n_steps_B, "mean"), self.sequence(*self.beside(x, lengths_B))], 1)
        out: Tensor = self.head(self.dropout(answer_BD))
        return out


# ── The family ───────────────────────────────────────────────────────────────────────────────────────────────────────


def accepts(spec: DataSpec) -> str | None:
    """Return None for series, tokens, images and clips with a vector as output, else the reason why not."""
    shape = spec.inputs[0].shape
    steps = spec.modality in ("series", "tokens")
    if not steps and (len(shape) not in (3, 4) or len(spec.inputs) != 1):
        return "it reads steps: series, tokens, the rows of images, or clips (channels, frames, height, width)"
    if not steps and None in shape:
        return "it takes images and clips of one size"
    return plain_answer(spec)


def _is_clip(spec: DataSpec) -> bool:
    return len(spec.inputs[0].shape) == 4


def _axes(spec: DataSpec, arch: Arch) -> tuple[int, int | None, tuple[int, ...]]:
    """Channels, steps, and the sizes besides them, of the reader's output.

    Raises:
        Infeasible: If the kind or `planar` does not fit the data.
    """
    if _is_clip(spec) and arch.kind != "frames":
        raise Infeasible(f"a clip has frames, and kind {arch.kind} takes none")
    if arch.planar and spec.modality != "series":
        raise Infeasible(f"planar is for the channels of a series, and this is {spec.modality}")
    if spec.modality == "tokens":
        return arch.width, spec.inputs[0].shape[0], ()
    channels, steps, *sizes = spec.inputs[0].shape
    assert channels is not None
    beside = tuple(size for size in sizes if size is not None)
    return (1, steps, (channels,)) if arch.planar else (channels, steps, beside)


def sample(trial: Trial, spec: DataSpec) -> Arch:
    """Sample an architecture."""
    kind = "frames" if _is_clip(spec) else trial.suggest_categorical("kind", ["branches", "steps", "frames"])
    shape = spec.inputs[0].shape
    width = 8 * trial.suggest_int("channels_by_8", 1, 4, log=True)
    growth = trial.suggest_categorical("growth", [2, 1])
    stages = trial.suggest_int("stages", 1, 3)
    # The search begins with the middle of each list (the first of two). Without peephole, which has no fast kernel and
    # loops over the steps.
    sequence = trial.suggest_categorical("sequence", ["lstm", "simple", "gru", "transformer"])
    recurrent = sequence != "transformer"
    planar = spec.modality == "series" and (shape[0] or 0) >= 8
    windows = trial.suggest_categorical("windows", [2, 4]) if kind == "frames" and not _is_clip(spec) else 1
    steps = shape[0] if spec.modality == "tokens" else shape[1]
    return Arch(
        kind=kind,
        widths=tuple(width * growth**stage for stage in range(stages)),
        depth=trial.suggest_int("depth", 1, 2),
        kernel=trial.suggest_categorical("kernel", [3, 5]),
        halves_steps=trial.suggest_categorical("halves_steps", [False, True]) if kind != "frames" else False,
        planar=trial.suggest_categorical("planar", [True, False]) if planar else False,
        frame=max(2, math.ceil((steps or USUAL_STEPS) / windows)),
        width=8 * trial.suggest_int("width_by_8", 2, 8, log=True),
        sequence=sequence,
        layers=trial.suggest_int("layers", 1, 2),
        hidden=8 * trial.suggest_int("hidden_by_8", 2, 8, log=True) if recurrent else 8,
        bidirectional=trial.suggest_categorical("bidirectional", [True, False]) if recurrent else False,
        pooling=trial.suggest_categorical("pooling", ["last", "mean", "attention"]) if recurrent else "mean",
        heads=trial.suggest_categorical("heads", [1, 2, 4]) if not recurrent else 1,
        dropout=trial.suggest_categorical("dropout", [0.1, 0.0, 0.2]),
    )


def _stages(arch: Arch, channels: int, axes: int, *, step_stride: int) -> tuple[list[nn.Module], list[int]]:
    """`depth` times convolution, batch norm and ReLU per stage, and the stride of each along the first axis.

    Stages after the first have `step_stride` along the first axis and halve the others.
    """
    blocks: list[nn.Module] = []
    strides: list[int] = []
    for stage, width in enumerate(arch.widths):
        for index in range(arch.depth):
            starts = stage > 0 and index == 0
            stride = (step_stride, 2) if starts else (1, 1)
            conv = _conv(channels, width, (arch.kernel,) * axes, stride[:axes], bias=False)
            norm = nn.BatchNorm1d(width) if axes == 1 else nn.BatchNorm2d(width)
            blocks.append(nn.Sequential(conv, norm, nn.ReLU()))
            strides.append(stride[0])
            channels = width
    return blocks, strides


def _conv(inputs: int, width: int, kernel: tuple[int, ...], stride: tuple[int, ...], *, bias: bool) -> nn.Module:
    """A convolution over one axis or two. Odd kernels keep the size, up to the stride."""
    if len(kernel) == 1:
        return nn.Conv1d(inputs, width, kernel[0], stride[0], kernel[0] // 2, bias=bias)
    return nn.Conv2d(inputs, width, kernel[:2], stride[:2], (kernel[0] // 2, kernel[1] // 2), bias=bias)  # type: ignore[arg-type]


def _fold(arch: Arch, sizes: tuple[int, ...]) -> nn.Module:
    """The convolution over all that is left: one size for each axis, 1 for an axis that is kept."""
    if len(sizes) == 1:
        return nn.Conv1d(arch.widths[-1], arch.width, sizes[0])
    return nn.Conv2d(arch.widths[-1], arch.width, (sizes[0], sizes[1]))


def _halved(size: int, arch: Arch) -> int:
    """What the stages leave of an axis that each of them after the first halves."""
    return math.ceil(size / (1 << (len(arch.widths) - 1)))


def _convolutions(arch: Arch, spec: DataSpec) -> tuple[StepConvolutions | FrameConvolutions, int]:
    """The convolutions, and the largest number of steps that they make."""
    channels, steps, beside = _axes(spec, arch)
    steps = steps or MOST_STEPS
    if arch.kind == "frames":
        window = 0 if _is_clip(spec) else arch.frame
        sizes = beside if _is_clip(spec) else (window, *beside)
        stages, _ = _stages(arch, channels, len(sizes), step_stride=2)
        frames = FrameConvolutions(stages, _fold(arch, tuple(_halved(s, arch) for s in sizes)), window=window)
        return frames, math.ceil(steps / frames.hop) if window else steps
    if arch.kind not in ("steps", "branches"):
        raise ValueError(f"no kind named '{arch.kind}'; they are steps, frames, branches")
    stages, strides = _stages(arch, channels, 1 + len(beside), step_stride=2 if arch.halves_steps else 1)
    fold = _fold(arch, (1, *(_halved(s, arch) for s in beside)))
    return StepConvolutions(stages, strides, fold), _halved(steps, arch) if arch.halves_steps else steps


def _sequence(arch: Arch, length: int) -> tuple[Recurrence | Encoder, int]:
    """The sequence for at most `length` steps, and the width of its output."""
    if arch.sequence == "transformer":
        blocks = [
            Block(arch.width, heads=arch.heads, ffn=2, nonlinearity="relu", dropout=arch.dropout)
            for _ in range(arch.layers)
        ]
        return Encoder(Positions(arch.width, length=length), blocks, nn.LayerNorm(arch.width)), arch.width
    width, layers = arch.width, []
    for _ in range(arch.layers):
        layers.append(Layer(width, arch.hidden, kind=arch.sequence, bidirectional=arch.bidirectional))
        width = arch.hidden * (2 if arch.bidirectional else 1)
    return Recurrence(layers, width, pooling=arch.pooling), width


def build(arch: Arch, spec: DataSpec) -> nn.Module:
    """Build the network.

    Raises:
        Infeasible: If the kind does not fit the data, or the width cannot be split into the heads.
    """
    convolutions, length = _convolutions(arch, spec)
    initialize_(convolutions, "relu")
    beside: PlainSteps | None = None
    if arch.kind == "branches":
        channels, steps, sizes = _axes(spec, arch)
        hop = 2 if arch.halves_steps else 1
        beside = PlainSteps(channels * math.prod(sizes), arch.width, kernel=arch.kernel, hop=hop)
        initialize_(beside, "relu")
        length = math.ceil((steps or MOST_STEPS) / hop)  # the sequence reads other steps than the convolutions make
    sequence, width = _sequence(arch, length)
    head = nn.Linear(width + (arch.width if beside is not None else 0), n_outputs(spec))
    initialize_head_(head)
    return Hybrid(
        Reader(spec, arch.width, planar=arch.planar),
        convolutions,
        beside,
        sequence=sequence,
        dropout=nn.Dropout(arch.dropout) if arch.dropout > 0 else nn.Identity(),
        head=head,
    )


# Measured on spoken digits (spectrograms): an epoch takes 5 s since rows of similar length train together, 32 s before;
# most of a batch was padding.
SPACE = Space(
    name="hybrid",
    arch=Arch,
    accepts=accepts,
    sample=sample,
    build=build,
    training=TrainingSpace(
        default=Training(
            lr=5e-3, epochs=24, batch_size=64, weight_decay=0.02, ema=0.98, augment=("crop", "shift")
        ),
        ranges={
            "lr": LogUniform(2e-3, 1.2e-2),
            "weight_decay": LogUniform(5e-3, 0.1),
            "augment": Categorical((
                ("crop", "cutout", "shift", "jitter"), (), ("crop", "shift"), ("flip", "shift", "scale"),
                ("crop", "flip", "jitter", "scale"),
            )),
        },
    ),
    task="digits",
    budget=Budget(trials=12, epochs=24, rungs=3, eta=3),
    paper="Shi, Bai & Yao 2017, arXiv:1507.05717; Donahue et al. 2015, arXiv:1411.4389",
    points={
        "crnn": Arch(
            widths=(64, 128, 256), depth=2, halves_steps=True, width=256, sequence="lstm", layers=2, hidden=256,
        ),
        "lrcn": Arch(
            kind="frames", widths=(32, 64), frame=8, width=64, sequence="lstm", hidden=64, bidirectional=False,
        ),
        "lstm-fcn": Arch(
            kind="branches", widths=(128, 256, 128), kernel=5, width=128, sequence="lstm", hidden=8,
            bidirectional=False, pooling="last",
        ),
        "convolutional-transformer": Arch(
            widths=(32, 64), halves_steps=True, width=64, sequence="transformer", layers=2, heads=4,
        ),
    },
)  # fmt: skip
