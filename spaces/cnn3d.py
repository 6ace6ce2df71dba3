"""Convolutional network for volumes: stages of plain, residual or (2+1)-dimensional blocks.

A stem, then stages; each stage after the first halves the resolution. VoxNet (Maturana & Scherer 2015, VoxNet: A 3D
convolutional neural network for real-time object recognition) is a point of the space. Residual blocks are those of He
et al. 2016, arXiv:1512.03385, with a third axis, as in R3D. A (2+1)D convolution is one over height and width followed
by one over depth, with as many weights in total as the full one (Tran et al. 2018, arXiv:1711.11248).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from searchkit.core.data_spec import DataSpec
from searchkit.core.errors import Infeasible
from searchkit.core.space import Budget, Space, Trial
from searchkit.core.training import Categorical, LogUniform, Training, TrainingSpace
from searchkit.nn.blocks.layers import activation, initialize_, initialize_head_, n_outputs, plain_answer


@dataclass(frozen=True)
class Arch:
    """The architecture.

    Attributes:
        depths: Blocks of each stage.
        widths: Channels of each stage.
        block: plain, residual, or r2plus1d (residual with (2+1)D convolutions).
        kernel: Kernel size of the blocks.
        downsample: How stages halve the volume: max, avg or stride.
        stem_width: Channels of the stem.
        stem_kernel: Kernel size of the stem.
        stem_downsamples: Whether the stem halves the volume.
        head: "global" for global average pooling, or "flatten" after one more halving.
        hidden: Units of fully connected layers before the output.
        activation: Activation of all blocks.
        batch_norm: Whether there is batch norm.
        dropout: Dropout before the output.
        padding: "same", or "valid", which lets every kernel shrink the volume, including the stem's.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    block: str = "residual"
    kernel: int = 3
    downsample: str = "stride"
    stem_width: int = 8
    stem_kernel: int = 3
    stem_downsamples: bool = False
    head: str = "global"
    hidden: tuple[int, ...] = ()
    activation: str = "relu"
    batch_norm: bool = True
    dropout: float = 0.0
    padding: str = "same"


class Residual(nn.Module):
    """y = after(body(x) + shortcut(x)): (B, C, D, H, W)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        y: Tensor = self.after(self.body(x) + self.shortcut(x))
        return y


class _Parts:
    """Makes the layers of one architecture."""

    def __init__(self, arch: Arch) -> None:
        self.arch = arch

    def conv(
        self, inputs: int, width: int, kernel: tuple[int, int, int], *, stride: tuple[int, int, int] = (1, 1, 1),
        active: bool = True,
    ) -> nn.Sequential:  # fmt: skip
        """Convolution, batch norm, activation."""
        arch = self.arch
        depth, height, width_ = (size // 2 if arch.padding == "same" else 0 for size in kernel)
        layers: list[nn.Module] = [
            nn.Conv3d(inputs, width, kernel, stride, (depth, height, width_), bias=not arch.batch_norm)
        ]
        if arch.batch_norm:
            layers.append(nn.BatchNorm3d(width))
        if active:
            layers.append(activation(arch.activation))
        return nn.Sequential(*layers)

    def cube(self, inputs: int, width: int, kernel: int, *, stride: int = 1, active: bool = True) -> nn.Sequential:
        return self.conv(inputs, width, (kernel,) * 3, stride=(stride,) * 3, active=active)

    def split(self, inputs: int, width: int, *, stride: int, active: bool) -> nn.Sequential:
        """A (2+1)D convolution; the channels between its parts keep the number of weights of the full one."""
        k = self.arch.kernel
        # Tran et al., section 3.5: the two convolutions have as many weights as one of k × k × k.
        inner = max(1, k * k * k * inputs * width // (k * k * inputs + k * width))
        return nn.Sequential(
            self.conv(inputs, inner, (1, k, k), stride=(1, stride, stride)),
            self.conv(inner, width, (k, 1, 1), stride=(stride, 1, 1), active=active),
        )

    def pool(self) -> nn.Module:
        return nn.AvgPool3d(2) if self.arch.downsample == "avg" else nn.MaxPool3d(2)

    def block(self, inputs: int, width: int, stride: int) -> nn.Module:
        arch = self.arch
        match arch.block:
            case "plain":
                return self.cube(inputs, width, arch.kernel, stride=stride)
            case "residual":
                body = nn.Sequential(
                    self.cube(inputs, width, arch.kernel, stride=stride),
                    self.cube(width, width, arch.kernel, active=False),
                )
            case "r2plus1d":
                body = nn.Sequential(
                    self.split(inputs, width, stride=stride, active=True),
                    self.split(width, width, stride=1, active=False),
                )
            case _:
                raise ValueError(f"no block named '{arch.block}'; they are plain, residual, r2plus1d")
        same = inputs == width and stride == 1
        shortcut = nn.Identity() if same else self.cube(inputs, width, 1, stride=stride, active=False)
        return Residual(body, shortcut, activation(arch.activation))


def _halved(sizes: list[int], arch: Arch) -> list[int]:
    # A convolution with stride 2 and padding rounds up, pooling rounds down.
    return [(size + 1) // 2 if arch.downsample == "stride" else size // 2 for size in sizes]


def _final_sizes(arch: Arch, sizes: list[int]) -> list[int]:
    """Depth, height and width before the head.

    Raises:
        Infeasible: If nothing would be left.
    """
    shown = "x".join(map(str, sizes))
    if arch.padding == "valid":
        if arch.block != "plain":
            raise Infeasible(f"a {arch.block} block adds its input to its output, which padding 'valid' makes smaller")
        sizes = [size - arch.stem_kernel + 1 for size in sizes]
    if arch.stem_downsamples:
        sizes = _halved(sizes, arch)
    lost = 0 if arch.padding == "same" else arch.kernel - 1
    for index, depth in enumerate(arch.depths):
        if index > 0:
            if min(sizes) < 2:
                raise Infeasible(f"a volume of {shown} is too small to halve before stage {index}")
            sizes = _halved(sizes, arch)
        sizes = [size - lost * depth for size in sizes]
        if min(sizes) < 1:
            raise Infeasible(f"stage {index} leaves nothing of a volume of {shown}")
    if arch.head == "flatten":
        if min(sizes) < 2:
            raise Infeasible(f"a volume of {shown} is too small to halve before the head")
        sizes = [size // 2 for size in sizes]
    return sizes


def accepts(spec: DataSpec) -> str | None:
    """Return None for volumes of one size with a vector as output, else the reason why not."""
    if spec.modality != "voxels" or len(spec.inputs) != 1:
        return "it takes voxels (channels, depth, height, width)"
    if None in spec.inputs[0].shape:
        return "it takes volumes of one size"
    return plain_answer(spec)


def _volume(spec: DataSpec) -> tuple[int, list[int]]:
    """Channels, and [depth, height, width]."""
    channels, *sizes = (size for size in spec.inputs[0].shape if size is not None)
    return channels, sizes


def sample(trial: Trial, spec: DataSpec) -> Arch:
    """Sample an architecture."""
    # The search begins with the middle of each range and list (the first of two), so their order is a choice.
    _, sizes = _volume(spec)
    n_stages = trial.suggest_int("stages", 1, max(1, min(3, min(sizes).bit_length() - 1)))
    width = 4 * trial.suggest_int("width_by_4", 1, 6, log=True)
    growth = trial.suggest_categorical("growth", [2.0, 1.5, 1.0]) if n_stages > 1 else 1.0
    block = trial.suggest_categorical("block", ["residual", "plain", "r2plus1d"])
    head = trial.suggest_categorical("head", ["global", "flatten"])
    return Arch(
        depths=tuple(trial.suggest_int(f"depth_{i}", 1, 2) for i in range(n_stages)),
        widths=tuple(4 * max(1, round(width * growth**i / 4)) for i in range(n_stages)),
        block=block,
        downsample=trial.suggest_categorical("downsample", ["stride", "max", "avg"]) if n_stages > 1 else "max",
        stem_width=width,
        stem_kernel=trial.suggest_categorical("stem_kernel", [3, 5]),
        stem_downsamples=trial.suggest_categorical("stem_downsamples", [True, False]) if min(sizes) >= 8 else False,
        head=head,
        hidden=(64,) if head == "flatten" and trial.suggest_categorical("hidden", [False, True]) else (),
        # A residual sum without batch norm grows with the depth; only plain blocks may go without.
        batch_norm=trial.suggest_categorical("batch_norm", [True, False]) if block == "plain" else True,
        dropout=trial.suggest_categorical("dropout", [0.0, 0.2]),
    )


def build(arch: Arch, spec: DataSpec) -> nn.Module:
    """Build the network.

    Raises:
        Infeasible: If the volume is too small for the stages.
    """
    channels, sizes = _volume(spec)
    sizes = _final_sizes(arch, sizes)
    parts = _Parts(arch)
    strided = arch.downsample == "stride"
    stem_stride = 2 if arch.stem_downsamples and strided else 1
    net = nn.Sequential(*parts.cube(channels, arch.stem_width, arch.stem_kernel, stride=stem_stride))
    if arch.stem_downsamples and not strided:
        net.append(parts.pool())
    width = arch.stem_width
    for stage, (depth, stage_width) in enumerate(zip(arch.depths, arch.widths, strict=True)):
        if stage > 0 and not strided:
            net.append(parts.pool())
        for index in range(depth):
            net.append(parts.block(width, stage_width, 2 if stage > 0 and index == 0 and strided else 1))
            width = stage_width
    net.append(nn.AdaptiveAvgPool3d(1) if arch.head == "global" else parts.pool())
    net.append(nn.Flatten())
    inputs = width * (sizes[0] * sizes[1] * sizes[2] if arch.head == "flatten" else 1)
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


POINTS = {
    "voxnet": Arch(
        depths=(1,), widths=(32,), block="plain", stem_width=32, stem_kernel=5, stem_downsamples=True, head="flatten",
        hidden=(128,), activation="leaky_relu", batch_norm=False, padding="valid",
    ),
    "r3d-10": Arch(depths=(1, 1, 1, 1), widths=(64, 128, 256, 512), stem_width=64),
    "r(2+1)d-10": Arch(depths=(1, 1, 1, 1), widths=(64, 128, 256, 512), block="r2plus1d", stem_width=64),
}  # fmt: skip

# int8: ONNX Runtime has no fast int8 kernel for Conv3d (measured, static: 3.2 times slower); int8 weights with fp32
# arithmetic are what pays.
SPACE = Space(
    name="cnn3d",
    arch=Arch,
    accepts=accepts,
    sample=sample,
    build=build,
    training=TrainingSpace(
        default=Training(lr=6e-3, epochs=18, batch_size=32, weight_decay=0.02, ema=0.98, augment=("flip",)),
        ranges={
            "lr": LogUniform(2e-3, 2e-2),
            "weight_decay": LogUniform(1e-3, 0.1),
            "augment": Categorical((("flip",), ("flip", "shift"), ())),
            "label_smoothing": Categorical((0.0, 0.1)),
        },
    ),
    task="solids",
    budget=Budget(trials=12, epochs=18, rungs=3, eta=3),
    paper="Tran, Wang, Torresani, Ray, LeCun & Paluri 2018, arXiv:1711.11248; Maturana & Scherer 2015, VoxNet",
    points=POINTS,
)
