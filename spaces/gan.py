"""Generators that draw a picture of noise: DCGAN, or one whose every layer is modulated by a style.

The adversary is the task's; what is searched, pruned and shipped is the generator alone. The losses (minimax,
Wasserstein with gradient penalty, least squares) are a choice of the training.

"dcgan" (Radford et al. 2016, arXiv:1511.06434) starts with a transposed convolution over the whole first map and
doubles it with others; nothing is reshaped, so that channels can be cut anywhere. "style" (Karras et al. 2019,
arXiv:1812.04948) starts from a learned picture; a mapping network makes a style of the noise, and each layer is
normalised in every picture by itself, then scaled and shifted by the style. Not to be confused with StyleGAN itself: no
noise is added inside the network, which so answers alike to the same input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from searchkit.core.data_spec import DataSpec
from searchkit.core.errors import Infeasible
from searchkit.core.space import Budget, Space, Trial
from searchkit.core.training import Categorical, LogUniform, Training, TrainingSpace
from searchkit.nn.blocks.layers import activation, initialise_


@dataclass(frozen=True)
class Arch:
    """kind: dcgan or style. widths: channels from the first map on; each is followed by a doubling. kernel: of the
    convolutions after the first. batch_norm: of dcgan. style: units of the style, and of the layers that map to it.
    """

    widths: tuple[int, ...]
    kind: str = "dcgan"
    kernel: int = 4
    activation: str = "relu"
    batch_norm: bool = True
    style: int = 32
    mapping: int = 2


def accepts(spec: DataSpec) -> str | None:
    if not spec.generates or spec.modality != "noise" or len(spec.outputs[0].shape) != 3:
        return "it draws pictures of noise; give it pictures and ask for generation (--problem generation)"
    return None


def _picture(spec: DataSpec) -> tuple[int, int, int]:
    channels, height, width = (size or 1 for size in spec.outputs[0].shape)
    return channels, height, width


def _noise(spec: DataSpec) -> int:
    return spec.inputs[0].shape[0] or 1


def _maps(size: tuple[int, int], depth: int) -> list[tuple[int, int]]:
    """The size of each map from the first on to the picture. Raises Infeasible where the first would be too small."""
    sizes = [size]
    for _ in range(depth):
        if min(sizes[-1]) < 4:
            raise Infeasible(f"a picture of {size} cannot be halved {depth} times")
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes[::-1]


def _depths(spec: DataSpec) -> tuple[int, int]:
    """The least brings the first map down to 7 or fewer a side, one more is the most, where it can be."""
    _, *size = _picture(spec)
    least, side = 1, (max(size) + 1) // 2
    while side > 7:
        least, side = least + 1, (side + 1) // 2
    most, side = 1, (min(size) + 1) // 2
    while side >= 4:
        most, side = most + 1, (side + 1) // 2
    return min(least, most), min(least + 1, most)


def sample(trial: Trial, spec: DataSpec) -> Arch:
    kind = trial.suggest_categorical("kind", ["dcgan", "style"])
    low, high = _depths(spec)
    depth = trial.suggest_int("depth", low, high)
    widths = tuple(8 * trial.suggest_int(f"width_{i}_by_8", 1, 16, log=True) for i in range(depth))
    act = trial.suggest_categorical("activation", ["relu", "leaky_relu"])
    if kind == "style":
        return Arch(
            widths,
            kind,
            kernel=3,
            activation=act,
            style=8 * trial.suggest_int("style_by_8", 2, 8, log=True),
            mapping=trial.suggest_int("mapping", 1, 3),
        )
    _, *size = _picture(spec)
    is_even = all(side % 2**depth == 0 for side in size)
    return Arch(
        widths,
        kind,
        kernel=trial.suggest_categorical("kernel", [3, 4, 5] if is_even else [3, 5]),
        activation=act,
        batch_norm=trial.suggest_categorical("batch_norm", [True, False]),
    )


def build(arch: Arch, spec: DataSpec) -> nn.Module:
    """Raises Infeasible where the picture is too small for the depth, or of an odd side and the kernel even."""
    make = {"dcgan": _dcgan, "style": _style}[arch.kind]
    return make(arch, spec)


# ── DCGAN ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class AsMap(nn.Module):
    """(B, Z) -> (B, Z, 1, 1)."""

    def forward(self, noise: Tensor) -> Tensor:
        return noise[:, :, None, None]


def _dcgan(arch: Arch, spec: DataSpec) -> nn.Module:
    channels, height, width = _picture(spec)
    maps = _maps((height, width), len(arch.widths))
    padding = (arch.kernel - 1) // 2

    def active(units: int) -> list[nn.Module]:
        return [*([nn.BatchNorm2d(units)] if arch.batch_norm else []), activation(arch.activation)]

    first = arch.widths[0]
    layers = [AsMap(), nn.ConvTranspose2d(_noise(spec), first, maps[0], bias=not arch.batch_norm), *active(first)]
    before = first
    for index, (small, large) in enumerate(zip(maps[:-1], maps[1:], strict=True)):
        # 2(n - 1) - 2·padding + kernel + extra is the side of the larger map
        extra = tuple(b - (2 * (a - 1) - 2 * padding + arch.kernel) for a, b in zip(small, large, strict=True))
        if min(extra) < 0:
            raise Infeasible(f"a kernel of {arch.kernel} cannot take a map of {small} to one of {large}")
        last = index == len(maps) - 2
        units = channels if last else arch.widths[index + 1]
        layers.append(
            nn.ConvTranspose2d(before, units, arch.kernel, 2, padding, extra, bias=last or not arch.batch_norm)  # type: ignore[arg-type]
        )
        layers += [] if last else active(units)
        before = units
    net = nn.Sequential(*layers, nn.Tanh())
    for module in net.modules():
        if isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.02 if arch.batch_norm else (2.0 / _n_products(module)) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


def _n_products(layer: nn.ConvTranspose2d) -> float:
    """That one value of the output is a sum of: the first layer's kernel meets one value, the others' stride of 2 takes
    a quarter of the kernel to each.
    """
    return layer.in_channels * (1.0 if layer.stride == (1, 1) else math.prod(layer.kernel_size) / 4)


# ── Style ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Modulate(nn.Module):
    """Adaptive instance normalisation (Huang & Belongie 2017, arXiv:1703.06868): x (B, C, H, W), style (B, S)."""

    def __init__(self, units: int, style: int) -> None:
        super().__init__()
        self.scale = nn.Linear(style, units)
        self.shift = nn.Linear(style, units)
        for linear, bias in ((self.scale, 1.0), (self.shift, 0.0)):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.constant_(linear.bias, bias)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        centred = x - x.mean((2, 3), keepdim=True)
        normal = centred * torch.rsqrt(centred.square().mean((2, 3), keepdim=True) + 1e-5)
        y: Tensor = normal * self.scale(style)[:, :, None, None] + self.shift(style)[:, :, None, None]
        return y


class Styled(nn.Module):
    """x (B, C, h, w), style (B, S) -> (B, D, H, W): enlarged, convolved, modulated."""

    def __init__(self, inputs: int, units: int, size: tuple[int, int], arch: Arch) -> None:
        super().__init__()
        self.enlarge = nn.Upsample(size=size)
        self.conv = nn.Conv2d(inputs, units, arch.kernel, 1, arch.kernel // 2, bias=False)
        self.modulate = Modulate(units, arch.style)
        self.activation = activation(arch.activation)
        nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        y: Tensor = self.activation(self.modulate(self.conv(self.enlarge(x)), style))
        return y


class StyleGenerator(nn.Module):
    """noise (B, Z) -> (B, C, H, W) in [-1, 1]."""

    def __init__(self, arch: Arch, noise: int, channels: int, maps: list[tuple[int, int]]) -> None:
        super().__init__()
        units = [noise, *[arch.style] * arch.mapping]
        mapped: list[nn.Module] = []
        for inputs, outputs in zip(units[:-1], units[1:], strict=True):
            mapped += [nn.Linear(inputs, outputs), activation(arch.activation)]
        self.mapping = nn.Sequential(*mapped)
        initialise_(self.mapping, arch.activation)
        # the learned picture, as the kernel of a layer: so its channels are cut like any other's
        self.start = nn.ConvTranspose2d(1, arch.widths[0], maps[0], bias=False)
        nn.init.normal_(self.start.weight)
        self.begin = Modulate(arch.widths[0], arch.style)
        after = [*arch.widths[1:], arch.widths[-1]]
        self.blocks = nn.ModuleList(
            Styled(inputs, outputs, size, arch)
            for inputs, outputs, size in zip(arch.widths, after, maps[1:], strict=True)
        )
        self.paint = nn.Conv2d(after[-1], channels, 1)

    def forward(self, noise: Tensor) -> Tensor:
        style = self.mapping(noise)
        x = self.begin(self.start(noise.new_ones(1, 1, 1, 1)), style)
        for block in self.blocks:
            x = block(x, style)
        return torch.tanh(self.paint(x))


def _style(arch: Arch, spec: DataSpec) -> nn.Module:
    channels, height, width = _picture(spec)
    return StyleGenerator(arch, _noise(spec), channels, _maps((height, width), len(arch.widths)))


SPACE = Space(
    name="gan",
    arch=Arch,
    accepts=accepts,
    sample=sample,
    build=build,
    training=TrainingSpace(
        default=Training(
            objective="least-squares",
            lr=1e-3,
            momentum=0.5,
            epochs=40,
            batch_size=32,
            weight_decay=0.0,
            clip_norm=0.0,
            schedule="linear",
            ema=0.995,
        ),
        ranges={
            "objective": Categorical(("minimax", "wasserstein", "least-squares")),
            "lr": LogUniform(3e-4, 3e-3),
            "momentum": Categorical((0.0, 0.5)),
            "batch_size": Categorical((32, 64)),
        },
    ),
    task="digits-generation",
    budget=Budget(trials=12, epochs=40, rungs=3, eta=3),
    paper="Radford et al. 2016, arXiv:1511.06434; Karras et al. 2019, arXiv:1812.04948",
    points={
        "dcgan-digits": Arch(widths=(64, 32)),
        "style-digits": Arch(widths=(32, 32), kind="style", kernel=3),
    },
)
