"""MixNet for images: depthwise convolutions with several kernel sizes at once, in stages of MixConv blocks.

Tan & Le 2019, MixConv: mixed depthwise convolutional kernels, arXiv:1907.09595. A block expands the channels, filters
each with a kernel of 3, 5, 7 or 9 (one run of channels per size), weighs them by squeeze-and-excitation (Hu et al.
2018, arXiv:1709.01507) and projects them: the inverted residual of Sandler et al. 2018, arXiv:1801.04381. The paper's
grouped 1×1 convolutions and swish are not in the space: int8 files gain nothing from the former and keep the latter in
fp32.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from searchkit.core.data_spec import DataSpec
from searchkit.core.errors import Infeasible
from searchkit.core.space import Budget, Sharing, Space, Trial
from searchkit.core.training import Categorical, LogUniform, Training, TrainingSpace
from searchkit.nn.blocks.layers import (
    SqueezeExcite,
    activation,
    initialize_,
    initialize_head_,
    n_outputs,
    plain_answer,
)
from searchkit.nn.convolution import MixedDepthwise

SIZES = (3, 5, 7, 9)
"""The kernel sizes that a block may mix."""


@dataclass(frozen=True)
class Arch:
    """The architecture.

    Attributes:
        depths: Blocks of each stage.
        widths: Channels of each stage; each stage after the first halves the image.
        kernels: Kernel sizes that a block mixes. Sizes from twice the image's size on would see only padding and are
            left out.
        expansion: Factor of the channels inside a block.
        squeeze_excite: Whether blocks have squeeze-and-excitation.
        stem_width: Channels of the stem.
        stem_downsamples: Whether the stem halves the image.
        head_width: Channels of a final 1×1 convolution; 0 for none.
        activation: Activation of all blocks.
        dropout: Dropout before the output.
    """

    depths: tuple[int, ...] = (1, 2)
    widths: tuple[int, ...] = (16, 24)
    kernels: tuple[int, ...] = SIZES
    expansion: int = 3
    squeeze_excite: bool = True
    stem_width: int = 16
    stem_downsamples: bool = False
    head_width: int = 0
    activation: str = "relu"
    dropout: float = 0.0


class Block(nn.Module):
    """Expand, filter, weigh, project, with a shortcut if the shape stays: (B, C, H, W) -> (B, D, H', W')."""

    def __init__(self, arch: Arch, inputs: int, width: int, *, kernels: tuple[int, ...], stride: int) -> None:
        super().__init__()
        inner = inputs * arch.expansion
        self.body = nn.Sequential()
        if arch.expansion > 1:  # a factor of 1 needs no convolution, as in MobileNetV2's first block
            self.body.extend([nn.Conv2d(inputs, inner, 1, bias=False), nn.BatchNorm2d(inner)])
            self.body.append(activation(arch.activation))
        self.body.extend([MixedDepthwise(inner, kernels=kernels, stride=stride), nn.BatchNorm2d(inner)])
        self.body.append(activation(arch.activation))
        if arch.squeeze_excite:
            # A quarter of the block's input channels, not of the expanded ones, as in the paper.
            self.body.append(SqueezeExcite(inner, max(4, inputs // 4)))
        self.body.extend([nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width)])
        self.adds = inputs == width and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        y: Tensor = self.body(x)
        return x + y if self.adds else y

    def branches(self) -> tuple[nn.Module, ...]:
        """Return the body; see `HasBranches`."""
        return (self.body,)


def accepts(spec: DataSpec) -> str | None:
    """Return None for images of one size with a vector as output, else the reason why not."""
    if spec.modality != "image" or len(spec.inputs) != 1:
        return "it takes images (channels, height, width)"
    if None in spec.inputs[0].shape:
        return "it takes images of one size"
    return plain_answer(spec)


def _image(spec: DataSpec) -> tuple[int, int, int]:
    """Channels, height and width."""
    channels, height, width = (size for size in spec.inputs[0].shape if size is not None)
    return channels, height, width


def sample(trial: Trial, spec: DataSpec) -> Arch:
    """Sample an architecture."""
    # The search begins with the middle of each range and list (the first of two), so their order is a choice.
    _, *sizes = _image(spec)
    # As many stages as leave 4 pixels a side (without a halving stem).
    n_stages = trial.suggest_int("stages", 1, max(1, min(4, min(sizes).bit_length() - 2)))
    width = 8 * trial.suggest_int("width_by_8", 1, 5, log=True)
    growth = trial.suggest_categorical("growth", [1.5, 2.0, 1.0]) if n_stages > 1 else 1.0
    return Arch(
        depths=tuple(trial.suggest_int(f"depth_{i}", 1, 3) for i in range(n_stages)),
        # Multiples of 8, since ONNX Runtime's fast kernels take channels in blocks; its depthwise one in fours.
        widths=tuple(8 * max(1, round(width * growth**i / 8)) for i in range(n_stages)),
        kernels=SIZES[: trial.suggest_int("kernel_sizes", 1, len(SIZES))],
        expansion=trial.suggest_int("expansion", 1, 5),
        squeeze_excite=trial.suggest_categorical("squeeze_excite", [True, False]),
        stem_width=width,
        stem_downsamples=trial.suggest_categorical("stem_downsamples", [True, False]) if min(sizes) >= 24 else False,
        head_width=trial.suggest_categorical("head_width", [0, 64, 128]),
        dropout=trial.suggest_categorical("dropout", [0.0, 0.2]),
    )


def build(arch: Arch, spec: DataSpec) -> nn.Module:
    """Build the network.

    Raises:
        Infeasible: If the image is too small for the stages.
    """
    channels, height, width = _image(spec)
    stride = 2 if arch.stem_downsamples else 1
    net = nn.Sequential(
        nn.Conv2d(channels, arch.stem_width, 3, stride, 1, bias=False),
        nn.BatchNorm2d(arch.stem_width),
        activation(arch.activation),
    )
    size, inputs = (max(height, width) - 1) // stride + 1, arch.stem_width
    for stage, (depth, stage_width) in enumerate(zip(arch.depths, arch.widths, strict=True)):
        if stage > 0 and size < 2:
            raise Infeasible(f"the image is {size} wide before stage {stage}: too small to halve")
        for index in range(depth):
            stride = 2 if stage > 0 and index == 0 else 1
            # A kernel of twice the image's size would only see more padding.
            kernels = tuple(k for k in arch.kernels if k < 2 * size) or arch.kernels[:1]
            net.append(Block(arch, inputs, stage_width, kernels=kernels, stride=stride))
            size, inputs = (size - 1) // stride + 1, stage_width
    if arch.head_width:
        net.extend([nn.Conv2d(inputs, arch.head_width, 1, bias=False), nn.BatchNorm2d(arch.head_width)])
        net.append(activation(arch.activation))
        inputs = arch.head_width
    net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    if arch.dropout > 0:
        net.append(nn.Dropout(arch.dropout))
    head = nn.Linear(inputs, n_outputs(spec))
    net.append(head)
    initialize_(net, arch.activation)
    initialize_head_(head)
    return net


def _kind(arch: Arch) -> tuple[object, ...]:
    """What two architectures must have in common to share weights."""
    return (
        len(arch.depths), arch.expansion > 1, arch.squeeze_excite, arch.stem_downsamples, arch.head_width > 0,
        arch.activation,
    )  # fmt: skip


def _places(arch: Arch) -> list[str]:
    """What each module of the network is, in order; `build` puts them together."""
    blocks = [f"block {stage} {index}" for stage, depth in enumerate(arch.depths) for index in range(depth)]
    head = ["head width", "head norm", "head activation"] if arch.head_width else []
    return ["stem", "norm", "activation", *blocks, *head, "pool", "flatten", *["dropout"][: arch.dropout > 0], "head"]


def shares(arch: Arch, other: Arch) -> Sharing | None:
    """Say how the weights of `arch` lie in those of `other`: blocks by stage and index, the last channels of each.

    Not the first ones: the sizes of the kernels grow from the first channels to the last, so that counted from the end
    a channel has at least as large a kernel in the larger network.
    """
    if _kind(arch) != _kind(other):
        return None
    there = {place: str(index) for index, place in enumerate(_places(other))}
    return Sharing({str(index): there.get(place) for index, place in enumerate(_places(arch))}, last=True)


# Pruning keeps multiples of 4 depthwise channels: before it did, a pruned mixnet was 3.06 times slower (.128 to .406 ms
# on digits), since ONNX Runtime's fast kernel takes only those.
SPACE = Space(
    name="mixnet",
    arch=Arch,
    accepts=accepts,
    sample=sample,
    build=build,
    training=TrainingSpace(
        default=Training(lr=6e-3, epochs=18, batch_size=64, weight_decay=0.02, ema=0.98, augment=("crop",)),
        ranges={
            "lr": LogUniform(2e-3, 2e-2),
            "weight_decay": LogUniform(1e-3, 0.1),
            "augment": Categorical((("crop",), (), ("flip",), ("crop", "flip"), ("crop", "cutout"))),
            "label_smoothing": Categorical((0.0, 0.1)),
        },
    ),
    task="digits",
    budget=Budget(trials=12, epochs=18, rungs=3, eta=3),
    paper="Tan & Le 2019, arXiv:1907.09595",
    points={
        # The tail of MixNet-S, without its grouped 1×1 convolutions and with one squeeze-and-excitation ratio.
        "mixnet-s-tail": Arch(
            depths=(2, 2), widths=(120, 200), expansion=6, stem_width=80, head_width=1536, activation="silu"
        ),
    },
    shares=shares,
)
