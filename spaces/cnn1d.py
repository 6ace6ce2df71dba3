"""Convolutional network for series and tokens: stages of residual, dilated or depthwise-separable 1-D blocks.

A stem joins steps to frames, which makes raw audio affordable (Dai et al. 2016, arXiv:1610.00087); each stage after the
first halves the steps. Residual blocks: He et al. 2016, arXiv:1512.03385, for series Wang et al. 2017,
arXiv:1611.06455. Dilated blocks double their dilation from block to block and may be causal: the temporal convolutional
network of Bai et al. 2018, arXiv:1803.01271, with batch norm instead of weight norm. Separable blocks: Howard et al.
2017, arXiv:1704.04861. Tokens: Kim 2014, arXiv:1408.5882. Padding never affects an answer, although batch norm includes
it in training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.core.data_spec import DataSpec
from searchkit.core.space import Budget, Sharing, Space, Trial
from searchkit.core.training import Categorical, LogUniform, Training, TrainingSpace
from searchkit.nn.blocks.forecaster import forecaster, sample_apart, sample_direct, sample_level
from searchkit.nn.blocks.layers import initialize_, initialize_head_, n_outputs
from searchkit.nn.blocks.steps import Stem, accepts, check_stem
from searchkit.nn.sequence import pool, valid_steps

MOST_STEPS = 512
"""Largest number of steps that the stem leaves; longer rows get a larger hop."""

MOST_CHANNELS = 192
"""Largest width of a stage in the search; doubling in each of five stages would give a thousand."""


@dataclass(frozen=True)
class Arch:
    """The architecture.

    Attributes:
        depths: Blocks of each stage.
        widths: Channels of each stage.
        block: residual, dilated (by 1, 2, 4, … within a stage) or separable.
        kernel: Kernel size of the blocks.
        causal: Whether the step of a block sees only itself and earlier ones. A frame longer than 1 and a pooling stem
            see more.
        frame: Steps that the stem joins into one.
        hop: Steps from one frame to the next.
        stem_pool: Factor by which max pooling reduces the stem's steps.
        stem_width: Channels of the stem.
        downsample: How stages halve the steps: stride or max.
        pooling: How the steps become one vector: mean, max or last.
        dropout: Dropout of channels in blocks, and before the output.
        apart: For forecasts, see `searchkit.nn.blocks.forecaster`.
        direct: For forecasts.
        level: For forecasts.
    """

    depths: tuple[int, ...] = (1, 1, 1)
    widths: tuple[int, ...] = (32, 48, 64)
    block: str = "residual"
    kernel: int = 5
    causal: bool = False
    frame: int = 5
    hop: int = 1
    stem_pool: int = 1
    stem_width: int = 32
    downsample: str = "stride"
    pooling: str = "mean"
    dropout: float = 0.0
    apart: bool = False
    direct: bool = False
    level: bool = False


class Conv(nn.Module):
    """Convolution, batch norm and optional ReLU: (B, C, L) -> (B, D, ceil(L / stride))."""

    def __init__(
        self,
        inputs: int,
        width: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        dilation: int = 1,
        depthwise: bool = False,
        causal: bool = False,
        active: bool = True,
    ) -> None:
        super().__init__()
        reach = (kernel - 1) * dilation
        self.behind = reach if causal else 0  # zeros before the row, in place of the convolution's own padding
        self.mixes_steps = kernel > 1
        self.conv = nn.Conv1d(
            inputs, width, kernel, stride, 0 if causal else reach // 2, dilation, inputs if depthwise else 1, bias=False
        )
        self.norm = nn.BatchNorm1d(width)
        self.active = nn.ReLU() if active else nn.Identity()

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        """Convolve.

        Args:
            x: Steps, (B, C, L).
            keep: (B, 1, L), 1 for valid steps and 0 for padding; None if all are valid.
        """
        # Batch norm and ReLU make padding nonzero again; a kernel of 1 cannot carry it into valid steps.
        if keep is not None and self.mixes_steps:
            x = x * keep
        if self.behind:
            x = F.pad(x, (self.behind, 0))
        y: Tensor = self.active(self.norm(self.conv(x)))
        return y


class Block(nn.Module):
    """relu(convolutions(x) + shortcut(x)), the first with a stride: (B, C, L) -> (B, D, ceil(L / stride))."""

    def __init__(self, convs: list[Conv], inputs: int, width: int, *, stride: int, dropout: float) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.stride = stride
        same = inputs == width and stride == 1
        self.shortcut = None if same else Conv(inputs, width, stride=stride, active=False)
        # Whole channels: neighboring steps of a series are too similar for single ones to be missed.
        self.dropout = nn.Dropout1d(dropout) if dropout > 0 else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Run the block, and return the mask of the remaining steps."""
        short = x if self.shortcut is None else self.shortcut(x, keep)
        shorter = _every(self.stride, keep)
        y = x
        for index, conv in enumerate(self.convs):
            y = conv(y, keep if index == 0 else shorter)
        return self.relu(self.dropout(y) + short), shorter

    def branches(self) -> tuple[nn.Module, ...]:
        """Return the convolutions; see `HasBranches`."""
        return (self.convs,)


class Downsample(nn.Module):
    """Max pooling with a stride: (B, C, L) -> (B, C, ceil(L / every)).

    The input must not be negative, so that the zeros of padding never are the maximum.

    Args:
        every: The stride.
    """

    def __init__(self, every: int) -> None:
        super().__init__()
        self.stride = every
        self.pool = nn.MaxPool1d(2 * (every // 2) + 1, every, every // 2)

    def forward(self, x: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Pool, and return the mask of the remaining steps."""
        y: Tensor = self.pool(x if keep is None else x * keep)
        return y, _every(self.stride, keep)


def _every(stride: int, keep: Tensor | None) -> Tensor | None:
    """The mask after a stride: step i is centered on step i·stride, and valid if that one is."""
    return keep if keep is None or stride == 1 else keep[:, :, ::stride]


class ConvNet(nn.Module):
    """(B, C, L) numbers or (B, L) tokens, and lengths (B,) if they vary -> (B, outputs)."""

    def __init__(
        self, stem: Stem, body: list[Block | Downsample], *, pooling: str, dropout: nn.Module, head: nn.Linear
    ) -> None:
        super().__init__()
        self.stem = stem
        self.body = nn.ModuleList(body)
        self.stride = math.prod(part.stride for part in body)
        self.pooling = pooling
        self.dropout = dropout
        self.head = head

    def forward(self, x: Tensor, lengths_B: Tensor | None = None) -> Tensor:
        """Run the network."""
        steps_BLC, lengths_B = self.stem(x, lengths_B)
        keep = None if lengths_B is None else valid_steps(steps_BLC, lengths_B)[:, None, :].to(steps_BLC.dtype)
        y = steps_BLC.transpose(1, 2)
        for part in self.body:
            y, keep = part(y, keep)
        # Each part rounds up, which amounts to one division by the product of the strides.
        if lengths_B is not None:
            lengths_B = torch.div(lengths_B + (self.stride - 1), self.stride, rounding_mode="floor")
        out: Tensor = self.head(self.dropout(pool(y.transpose(1, 2), lengths_B, self.pooling)))
        return out


def sample(trial: Trial, spec: DataSpec) -> Arch:
    """Sample an architecture."""
    steps = spec.inputs[0].shape[-1]
    series = spec.modality == "series"
    # Halvings of long rows in the stem. Some are done by max pooling, which keeps more of a sound than a stride.
    least = max(0, math.ceil(math.log2(steps / MOST_STEPS))) if series and steps is not None else 0
    halvings = trial.suggest_int("stem_halvings", least, least + 1) if series else 0
    pooled = trial.suggest_int("stem_pooled_halvings", 0, min(halvings, 4)) if halvings > 0 else 0
    hop = 2 ** (halvings - pooled)
    if least > 1:
        frame = max(trial.suggest_categorical("long_frame", [63, 31, 127]), 2 * hop + 1)
    else:
        frame = trial.suggest_categorical("frame", [5, 3, 7]) if series else 1
    block = trial.suggest_categorical("block", ["residual", "dilated", "separable"])
    # The search begins with the middle of each range and list (the first of two), so their order is a choice.
    dilated = block == "dilated"
    if dilated:
        depths: tuple[int, ...] = (trial.suggest_int("levels", 2, 6 if least > 0 else 4),)
    else:
        n_stages = trial.suggest_int("stages", 1, 5 if least > 0 else 3)
        depths = tuple(trial.suggest_int(f"depth_{i}", 1, 2) for i in range(n_stages))
    width = 8 * trial.suggest_int("width_by_8", 2, 8, log=True)
    growth = trial.suggest_categorical("growth", [1.5, 1.0, 2.0]) if len(depths) > 1 else 1.0
    causal = trial.suggest_categorical("causal", [False, True]) if dilated else False
    return Arch(
        depths=depths,
        # Multiples of 8 suit the vector units of a CPU.
        widths=tuple(min(MOST_CHANNELS, 8 * round(width * growth**i / 8)) for i in range(len(depths))),
        block=block,
        kernel=trial.suggest_categorical("kernel", [5, 3, 7]),
        causal=causal,
        frame=frame,
        hop=hop,
        stem_pool=2**pooled,
        stem_width=width,
        downsample=trial.suggest_categorical("downsample", ["stride", "max"]) if len(depths) > 1 else "stride",
        pooling=(
            trial.suggest_categorical("causal_pooling", ["mean", "max", "last"])
            if causal
            else trial.suggest_categorical("pooling", ["mean", "max"])
        ),
        dropout=trial.suggest_categorical("dropout", [0.1, 0.0, 0.2]),
        apart=sample_apart(trial, spec),
        direct=sample_direct(trial, spec),
        level=sample_level(trial, spec),
    )


def _block(arch: Arch, inputs: int, width: int, *, stride: int, dilation: int) -> Block:
    def conv(inputs: int, *, stride: int = 1, depthwise: bool = False, active: bool = True) -> Conv:
        return Conv(
            inputs, inputs if depthwise else width, arch.kernel, stride=stride, dilation=dilation, depthwise=depthwise,
            causal=arch.causal, active=active,
        )  # fmt: skip

    match arch.block:
        case "residual":
            convs = [conv(inputs, stride=stride), conv(width, active=False)]
        case "dilated":  # with a ReLU before the sum too, as in Bai et al.
            convs = [conv(inputs, stride=stride), conv(width)]
        case "separable":
            convs = [conv(inputs, stride=stride, depthwise=True), Conv(inputs, width, active=False)]
        case _:
            raise ValueError(f"no block named '{arch.block}'; they are residual, dilated, separable")
    return Block(convs, inputs, width, stride=stride, dropout=arch.dropout)


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
    body: list[Block | Downsample] = [Downsample(arch.stem_pool)] if arch.stem_pool > 1 else []
    width = arch.stem_width
    for stage, (depth, stage_width) in enumerate(zip(arch.depths, arch.widths, strict=True)):
        if stage > 0 and arch.downsample == "max":
            body.append(Downsample(2))
        for index in range(depth):
            stride = 2 if stage > 0 and index == 0 and arch.downsample == "stride" else 1
            dilation = 2**index if arch.block == "dilated" else 1
            body.append(_block(arch, width, stage_width, stride=stride, dilation=dilation))
            width = stage_width
    head = nn.Linear(width, n_outputs(spec))
    dropout = nn.Dropout(arch.dropout) if arch.dropout > 0 else nn.Identity()
    net = ConvNet(stem, body, pooling=arch.pooling, dropout=dropout, head=head)
    initialize_(net, "relu")
    initialize_head_(head)
    return net


def _kind(arch: Arch) -> tuple[object, ...]:
    """What two architectures must have in common to share weights."""
    # Where a stage may begin without a stride, it has a shortcut of its own only if the width changes.
    pairs = zip((arch.stem_width, *arch.widths), arch.widths, strict=False)
    steps = tuple(a == b for a, b in pairs) if arch.downsample == "max" else (arch.stem_width == arch.widths[0],)
    return (
        len(arch.depths), arch.block, arch.causal, arch.hop, arch.stem_pool, arch.downsample, arch.pooling, arch.apart,
        arch.direct, arch.level, arch.frame == 1, steps,
        arch.kernel if arch.causal else 0,  # a causal kernel grows at its end, not around its middle
    )  # fmt: skip


def _places(arch: Arch) -> list[str]:
    """What each part of the network's body is, in order; `build` puts them together."""
    places = ["stem pool"] if arch.stem_pool > 1 else []
    for stage, depth in enumerate(arch.depths):
        places += [f"pool {stage}"] if stage > 0 and arch.downsample == "max" else []
        places += [f"block {stage} {index}" for index in range(depth)]
    return places


def shares(arch: Arch, other: Arch) -> Sharing | None:
    """Say how the weights of `arch` lie in those of `other`: blocks by stage and index, the first channels of each."""
    if _kind(arch) != _kind(other):
        return None
    there = {place: index for index, place in enumerate(_places(other))}
    names: dict[str, str | None] = {}
    for index, place in enumerate(_places(arch)):
        for net in ("", "net."):  # a forecaster has the network inside
            names[f"{net}body.{index}"] = f"{net}body.{there[place]}" if place in there else None
    return Sharing(names)


SPACE = Space(
    name="cnn1d",
    arch=Arch,
    accepts=accepts,
    sample=sample,
    build=build,
    training=TrainingSpace(
        default=Training(lr=5e-3, epochs=18, batch_size=64, weight_decay=0.05, ema=0.98, augment=("shift",)),
        ranges={
            "lr": LogUniform(2e-3, 1.5e-2),
            "weight_decay": LogUniform(5e-3, 0.2),
            "augment": Categorical((("shift",), ("shift", "jitter", "scale"), ())),
        },
    ),
    task="mnist1d",
    budget=Budget(trials=12, epochs=18, rungs=3, eta=3),
    paper="Bai, Kolter & Koltun 2018, arXiv:1803.01271",
    points={
        "tcn": Arch(
            depths=(8,), widths=(25,), block="dilated", kernel=7, causal=True, frame=1, stem_width=25, pooling="last"
        ),
    },
    shares=shares,
)
