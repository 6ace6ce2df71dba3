"""Convolutional network for images: stages of plain, residual, separable or inverted-residual blocks.

A stem, then stages; each stage after the first halves the resolution. LeNet-5 (LeCun et al. 1998), VGG (Simonyan &
Zisserman 2015, arXiv:1409.1556), ResNet-20 (He et al. 2016, arXiv:1512.03385) and MobileNet (Howard et al. 2017,
arXiv:1704.04861) are points of the space. Residual blocks project their shortcut if the shape changes (option B).
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


@dataclass(frozen=True)
class Arch:
    """The architecture.

    Attributes:
        depths: Blocks of each stage.
        widths: Channels of each stage.
        block: plain, residual, separable or mbconv.
        kernel: Kernel size of the blocks.
        expansion: Factor of the channels inside an mbconv block.
        squeeze_excite: Whether blocks have squeeze-and-excitation.
        downsample: How stages halve the image: max, avg or stride.
        stem_width: Channels of the stem.
        stem_kernel: Kernel size of the stem.
        stem_downsamples: Whether the stem halves the image.
        head: "global" for global average pooling, or "flatten" after one more halving.
        hidden: Units of fully connected layers before the output.
        activation: Activation of all blocks.
        batch_norm: Whether there is batch norm.
        dropout: Dropout before the output.
        padding: "same", or "valid", which lets the kernels of the stages shrink the image.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    block: str = "residual"
    kernel: int = 3
    expansion: int = 1
    squeeze_excite: bool = False
    downsample: str = "stride"
    stem_width: int = 16
    stem_kernel: int = 3
    stem_downsamples: bool = False
    head: str = "global"
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    batch_norm: bool = True
    dropout: float = 0.0
    padding: str = "same"


class Residual(nn.Module):
    """y = after(body(x) + shortcut(x)): (B, C, H, W)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        y: Tensor = self.after(self.body(x) + self.shortcut(x))
        return y

    def branches(self) -> tuple[nn.Module, ...]:
        """Return the body; see `HasBranches`."""
        return (self.body,)


class _Parts:
    """Makes the layers of one architecture."""

    def __init__(self, arch: Arch) -> None:
        self.arch = arch

    def conv(
        self, inputs: int, width: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, active: bool = True
    ) -> nn.Sequential:
        """Convolution, batch norm, activation."""
        arch = self.arch
        padding = kernel // 2 if arch.padding == "same" else 0
        # Batch norm has a shift of its own, so a bias before it would do nothing.
        conv = nn.Conv2d(inputs, width, kernel, stride, padding, groups=groups, bias=not arch.batch_norm)
        layers: list[nn.Module] = [conv]
        if arch.batch_norm:
            layers.append(nn.BatchNorm2d(width))
        if active:
            layers.append(activation(arch.activation))
        return nn.Sequential(*layers)

    def squeeze_excite(self, width: int) -> list[nn.Module]:
        return [SqueezeExcite(width, max(4, width // 4))] if self.arch.squeeze_excite else []

    def pool(self) -> nn.Module:
        return nn.AvgPool2d(2) if self.arch.downsample == "avg" else nn.MaxPool2d(2)

    def block(self, inputs: int, width: int, stride: int) -> nn.Module:
        arch, kernel = self.arch, self.arch.kernel
        match arch.block:
            case "plain":
                return nn.Sequential(self.conv(inputs, width, kernel, stride=stride), *self.squeeze_excite(width))
            case "residual":
                body = nn.Sequential(
                    self.conv(inputs, width, kernel, stride=stride),
                    self.conv(width, width, kernel, active=False),
                    *self.squeeze_excite(width),
                )
                same = inputs == width and stride == 1
                shortcut = nn.Identity() if same else self.conv(inputs, width, stride=stride, active=False)
                return Residual(body, shortcut, activation(arch.activation))
            case "separable":
                return nn.Sequential(
                    self.conv(inputs, inputs, kernel, stride=stride, groups=inputs),
                    *self.squeeze_excite(inputs),
                    self.conv(inputs, width),
                )
            case "mbconv":
                inner = inputs * arch.expansion
                body = nn.Sequential(
                    self.conv(inputs, inner),
                    self.conv(inner, inner, kernel, stride=stride, groups=inner),
                    *self.squeeze_excite(inner),
                    self.conv(inner, width, active=False),
                )
                if inputs == width and stride == 1:
                    return Residual(body, nn.Identity(), nn.Identity())
                return body
        raise ValueError(f"no block named '{arch.block}'; they are plain, residual, separable, mbconv")


def _halved(sizes: list[int], arch: Arch) -> list[int]:
    # A convolution with stride 2 and padding rounds up, pooling rounds down.
    return [(size + 1) // 2 if arch.downsample == "stride" else size // 2 for size in sizes]


def _final_sizes(arch: Arch, sizes: list[int]) -> list[int]:
    """Height and width before the head.

    Raises:
        Infeasible: If nothing would be left.
    """
    lost = 0 if arch.padding == "same" else (arch.kernel - 1) * (2 if arch.block == "residual" else 1)
    if arch.stem_downsamples:
        sizes = _halved(sizes, arch)
    for index, depth in enumerate(arch.depths):
        if index > 0:
            if min(sizes) < 2:
                raise Infeasible(f"the image is {sizes[0]}x{sizes[1]} before stage {index}: too small to halve")
            sizes = _halved(sizes, arch)
        sizes = [size - lost * depth for size in sizes]
        if min(sizes) < 1:
            raise Infeasible(f"stage {index} leaves nothing of the image")
    if arch.head == "flatten":
        if min(sizes) < 2:
            raise Infeasible(f"the image is {sizes[0]}x{sizes[1]} before the head: too small to halve")
        sizes = [size // 2 for size in sizes]
    return sizes


def accepts(spec: DataSpec) -> str | None:
    """Return None for images of one size with a vector as output, else the reason why not."""
    if spec.modality != "image" or len(spec.inputs) != 1:
        return "it takes images (channels, height, width)"
    if None in spec.inputs[0].shape:
        return "it takes images of one size"
    return plain_answer(spec)


def _image(spec: DataSpec) -> tuple[int, list[int]]:
    """Channels, and [height, width]."""
    channels, *sizes = (size for size in spec.inputs[0].shape if size is not None)
    return channels, sizes


def sample(trial: Trial, spec: DataSpec) -> Arch:
    """Sample an architecture."""
    # The search begins with the middle of each range and list (the first of two), so their order is a choice: a
    # residual network without squeeze-and-excitation, which also runs well in int8.
    _, sizes = _image(spec)
    # As many stages as leave 4 pixels a side (without a halving stem).
    n_stages = trial.suggest_int("stages", 1, max(1, min(4, min(sizes).bit_length() - 2)))
    width = 4 * trial.suggest_int("width_by_4", 2, 12, log=True)
    growth = trial.suggest_categorical("growth", [1.5, 2.0, 1.0]) if n_stages > 1 else 1.0
    # Depthwise blocks have few MACs but train slowly on a CPU: measured, 500 to 1,900 samples/s, and 2,000 to 3,500 for
    # dense ones with more MACs. So a time budget times steps instead of counting MACs.
    block = trial.suggest_categorical("block", ["plain", "mbconv", "residual", "separable"])
    head = trial.suggest_categorical("head", ["global", "flatten"])
    return Arch(
        depths=tuple(trial.suggest_int(f"depth_{i}", 1, 3) for i in range(n_stages)),
        widths=tuple(4 * max(1, round(width * growth**i / 4)) for i in range(n_stages)),
        block=block,
        kernel=trial.suggest_categorical("kernel", [3, 5]),
        expansion=trial.suggest_int("expansion", 2, 4) if block == "mbconv" else 1,
        squeeze_excite=trial.suggest_categorical("squeeze_excite", [False, True]),
        downsample=trial.suggest_categorical("downsample", ["stride", "max", "avg"]) if n_stages > 1 else "max",
        stem_width=width,
        stem_kernel=trial.suggest_categorical("stem_kernel", [3, 5]),
        stem_downsamples=trial.suggest_categorical("stem_downsamples", [True, False]) if min(sizes) >= 24 else False,
        head=head,
        hidden=(64,) if head == "flatten" and trial.suggest_categorical("hidden", [False, True]) else (),
        # Only plain blocks may go without batch norm: a residual sum grows with the depth.
        batch_norm=trial.suggest_categorical("batch_norm", [True, False]) if block == "plain" else True,
        dropout=trial.suggest_categorical("dropout", [0.0, 0.2]),
    )


def build(arch: Arch, spec: DataSpec) -> nn.Module:
    """Build the network.

    Raises:
        Infeasible: If the image is too small for the stages.
    """
    channels, sizes = _image(spec)
    sizes = _final_sizes(arch, sizes)
    parts = _Parts(arch)
    strided = arch.downsample == "stride"
    stem_stride = 2 if arch.stem_downsamples and strided else 1
    stem = nn.Conv2d(
        channels, arch.stem_width, arch.stem_kernel, stem_stride, arch.stem_kernel // 2, bias=not arch.batch_norm
    )
    net = nn.Sequential(stem)
    if arch.batch_norm:
        net.append(nn.BatchNorm2d(arch.stem_width))
    net.append(activation(arch.activation))
    if arch.stem_downsamples and not strided:
        net.append(parts.pool())
    width = arch.stem_width
    for stage, (depth, stage_width) in enumerate(zip(arch.depths, arch.widths, strict=True)):
        if stage > 0 and not strided:
            net.append(parts.pool())
        for index in range(depth):
            net.append(parts.block(width, stage_width, 2 if stage > 0 and index == 0 and strided else 1))
            width = stage_width
    # A flattened head is pooled once more: its Linear has one column for each channel and pixel.
    net.extend([nn.AdaptiveAvgPool2d(1)] if arch.head == "global" else [parts.pool()])
    net.append(nn.Flatten())
    inputs = width * (sizes[0] * sizes[1] if arch.head == "flatten" else 1)
    for units in arch.hidden:
        net.extend([nn.Linear(inputs, units), activation(arch.activation)])
        inputs = units
    if arch.dropout > 0:
        net.append(nn.Dropout(arch.dropout))
    head = nn.Linear(inputs, n_outputs(spec))
    net.append(head)
    initialize_(net, arch.activation)
    initialize_head_(head)
    return net


def _kind(arch: Arch) -> tuple[object, ...]:
    """What two architectures must have in common to share weights."""
    strided = arch.downsample == "stride"
    # Where a stage may begin without a stride, it has a shortcut of its own only if the width changes.
    steps = () if strided else tuple(a == b for a, b in zip((arch.stem_width, *arch.widths), arch.widths, strict=False))
    # Without padding, another kernel leaves another image.
    kernels = (arch.kernel, arch.depths) if arch.padding == "valid" else ()
    return (
        len(arch.depths), arch.block, arch.squeeze_excite, arch.downsample, arch.stem_downsamples, arch.head,
        arch.hidden, arch.activation, arch.batch_norm, arch.padding, arch.stem_width == arch.widths[0], steps, kernels,
    )  # fmt: skip


def _places(arch: Arch) -> list[str]:
    """What each module of the network is, in order; `build` puts them together."""
    strided = arch.downsample == "stride"
    places = ["stem", *(["norm"] if arch.batch_norm else []), "activation"]
    if arch.stem_downsamples and not strided:
        places.append("pool")
    for stage, depth in enumerate(arch.depths):
        places += [f"pool {stage}"] if stage > 0 and not strided else []
        places += [f"block {stage} {index}" for index in range(depth)]
    places += ["last pool", "flatten"]
    for index in range(len(arch.hidden)):
        places += [f"hidden {index}", f"hidden activation {index}"]
    return [*places, *(["dropout"] if arch.dropout > 0 else []), "head"]


def shares(arch: Arch, other: Arch) -> Sharing | None:
    """Say how the weights of `arch` lie in those of `other`: blocks by stage and index, the first channels of each."""
    if _kind(arch) != _kind(other):
        return None
    there = {place: str(index) for index, place in enumerate(_places(other))}
    return Sharing({str(index): there.get(place) for index, place in enumerate(_places(arch))})


POINTS = {
    "lenet-5": Arch(
        depths=(1,), widths=(16,), block="plain", kernel=5, downsample="avg", stem_width=6, stem_kernel=5,
        stem_downsamples=True, head="flatten", hidden=(120, 84), activation="tanh", batch_norm=False, padding="valid",
    ),
    "vgg-16": Arch(
        depths=(1, 2, 3, 3, 3), widths=(64, 128, 256, 512, 512), block="plain", downsample="max", stem_width=64,
        head="flatten", batch_norm=False,
    ),
    "resnet-20": Arch(depths=(3, 3, 3), widths=(16, 32, 64), stem_width=16),
    "mobilenet": Arch(
        depths=(1, 2, 2, 6, 2), widths=(64, 128, 256, 512, 1024), block="separable", stem_width=32,
    ),
}  # fmt: skip

# int8, measured latency ratios to fp32 with static quantization: ResNet of 1.1M parameters at 64×64 .31, of 80k at
# 32×32 .71, of 20k at 32×32 1.31; MobileNet with ReLU .75, with SiLU and squeeze-and-excitation 1.32.
SPACE = Space(
    name="cnn",
    arch=Arch,
    accepts=accepts,
    sample=sample,
    build=build,
    training=TrainingSpace(
        default=Training(lr=4e-3, epochs=18, batch_size=64, weight_decay=0.02, ema=0.98, augment=("crop",)),
        ranges={
            "lr": LogUniform(1e-3, 2e-2),
            "optimizer": Categorical(("adamw", "momentum")),
            "schedule": Categorical(("cosine", "linear")),
            "weight_decay": LogUniform(1e-3, 0.1),
            "augment": Categorical(
                (("crop",), (), ("flip",), ("crop", "flip"), ("crop", "cutout"), ("flip", "cutout"))
            ),
            "label_smoothing": Categorical((0.0, 0.1)),
        },
    ),
    task="digits",
    budget=Budget(trials=12, epochs=18, rungs=3, eta=3),
    paper="LeCun, Bottou, Bengio & Haffner 1998, Gradient-based learning applied to document recognition",
    points=POINTS,
    shares=shares,
)
