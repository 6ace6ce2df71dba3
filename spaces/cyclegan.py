"""Networks that redraw a picture in the style of another set: encoder, residual blocks, decoder, all convolutions.

The generator of CycleGAN (Zhu et al. 2017, arXiv:1703.10593), which is that of Johnson et al. 2016, arXiv:1603.08155:
the picture is halved a few times by strided convolutions, changed by residual blocks, and enlarged again, by transposed
convolutions or by nearest neighbours and a convolution (Odena et al. 2016, Deconvolution and checkerboard artifacts).
The way back and the critics are the task's; what is searched, pruned and shipped is the one network. Batch norm where
the paper has instance norm: it costs nothing once it is folded into the convolution before it.
"""

from __future__ import annotations

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
    """widths: channels at the picture's own size and after each halving. blocks: residual, at the smallest size.
    kernel: of the first and the last convolution. enlarge: transposed or nearest. skip: what each halving was made of
    is added where its size comes back (Ronneberger et al. 2015, arXiv:1505.04597, who concatenate).
    """

    widths: tuple[int, ...]
    blocks: int = 2
    kernel: int = 3
    enlarge: str = "transposed"
    activation: str = "relu"
    batch_norm: bool = True
    skip: bool = False


def accepts(spec: DataSpec) -> str | None:
    if not spec.generates or spec.modality != "image" or spec.outputs[0].shape != spec.inputs[0].shape:
        return "it redraws pictures as those of another set; give it two sets and ask for --problem image-translation"
    return None


def _picture(spec: DataSpec) -> tuple[int, int, int]:
    channels, height, width = (size or 1 for size in spec.outputs[0].shape)
    return channels, height, width


def _maps(size: tuple[int, int], depth: int) -> list[tuple[int, int]]:
    """The size of each map from the picture on. Raises Infeasible where the last would be too small."""
    sizes = [size]
    for _ in range(depth):
        if min(sizes[-1]) < 4:
            raise Infeasible(f"a picture of {size} cannot be halved {depth} times")
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def _most_halvings(spec: DataSpec) -> int:
    """As many as leave 4 a side, 3 at most."""
    _, height, width = _picture(spec)
    side, most = min(height, width), 0
    while side >= 7 and most < 3:
        side, most = (side + 1) // 2, most + 1
    return most


def sample(trial: Trial, spec: DataSpec) -> Arch:
    halvings = trial.suggest_int("halvings", 0, _most_halvings(spec))
    widths = tuple(8 * trial.suggest_int(f"width_{i}_by_8", 1, 2 * 2**i, log=True) for i in range(halvings + 1))
    return Arch(
        widths,
        blocks=trial.suggest_int("blocks", 1, 4),
        kernel=trial.suggest_categorical("kernel", [3, 5]),
        enlarge=trial.suggest_categorical("enlarge", ["transposed", "nearest"]) if halvings else "transposed",
        activation=trial.suggest_categorical("activation", ["relu", "leaky_relu"]),
        batch_norm=trial.suggest_categorical("batch_norm", [True, False]),
        skip=trial.suggest_categorical("skip", [False, True]) if halvings else False,
    )


class Residual(nn.Module):
    """x + f(x), (B, C, H, W), without an activation after the sum."""

    def __init__(self, width: int, arch: Arch) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, 1, 1, bias=not arch.batch_norm),
            *_active(width, arch),
            nn.Conv2d(width, width, 3, 1, 1, bias=not arch.batch_norm),
            *([nn.BatchNorm2d(width)] if arch.batch_norm else []),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.body(x)
        return y


class ResnetGenerator(nn.Module):
    """(B, C, H, W) -> (B, C, H, W) in [-1, 1]."""

    def __init__(self, arch: Arch, channels: int, maps: list[tuple[int, int]]) -> None:
        super().__init__()
        first, *rest = arch.widths
        padding, bias = arch.kernel // 2, not arch.batch_norm
        self.skip = arch.skip
        self.begin = nn.Sequential(
            nn.Conv2d(channels, first, arch.kernel, 1, padding, bias=bias), *_active(first, arch)
        )
        self.halve = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, width, 3, 2, 1, bias=bias), *_active(width, arch))
            for before, width in zip(arch.widths, rest, strict=False)
        )
        self.blocks = nn.Sequential(*(Residual(arch.widths[-1], arch) for _ in range(arch.blocks)))
        self.enlarge = nn.ModuleList(
            nn.Sequential(*_enlarge(arch, before, width, small, large), *_active(width, arch))
            for before, width, small, large in zip(
                arch.widths[:0:-1], arch.widths[-2::-1], maps[:0:-1], maps[-2::-1], strict=True
            )
        )
        self.paint = nn.Conv2d(first, channels, arch.kernel, 1, padding)

    def forward(self, x: Tensor) -> Tensor:
        x = self.begin(x)
        seen = []
        for halve in self.halve:
            seen.append(x)
            x = halve(x)
        x = self.blocks(x)
        for enlarge in self.enlarge:
            x = enlarge(x)
            x = x + seen.pop() if self.skip else x
        return torch.tanh(self.paint(x))


def _active(width: int, arch: Arch) -> list[nn.Module]:
    return [*([nn.BatchNorm2d(width)] if arch.batch_norm else []), activation(arch.activation)]


def _enlarge(arch: Arch, before: int, width: int, small: tuple[int, int], large: tuple[int, int]) -> list[nn.Module]:
    bias = not arch.batch_norm
    if arch.enlarge == "nearest":
        return [nn.Upsample(size=large), nn.Conv2d(before, width, 3, 1, 1, bias=bias)]
    extra = (large[0] - 2 * small[0] + 1, large[1] - 2 * small[1] + 1)  # of 2(n - 1) - 2 + 3: to an odd side or an even
    return [nn.ConvTranspose2d(before, width, 3, 2, 1, extra, bias=bias)]


def build(arch: Arch, spec: DataSpec) -> nn.Module:
    """Raises Infeasible where the picture is too small for the halvings."""
    channels, height, width = _picture(spec)
    net = ResnetGenerator(arch, channels, _maps((height, width), len(arch.widths) - 1))
    initialise_(net, arch.activation)
    for module in net.modules():
        if isinstance(module, nn.ConvTranspose2d):
            # Kaiming's rule counts the kernel's values over all outputs; each sum here has about a quarter of them, of
            # as many inputs as there are
            nn.init.normal_(module.weight, std=(2.0 / (module.in_channels * 9 / 4)) ** 0.5)
    nn.init.xavier_uniform_(net.paint.weight, gain=0.5)  # the first answers are grey, where tanh is steep
    return net


SPACE = Space(
    name="cyclegan",
    arch=Arch,
    accepts=accepts,
    sample=sample,
    build=build,
    training=TrainingSpace(
        default=Training(
            objective="least-squares",
            lr=2e-3,
            momentum=0.5,
            epochs=16,
            batch_size=16,
            weight_decay=0.0,
            clip_norm=0.0,
            schedule="linear",
            ema=0.995,
        ),
        ranges={
            "objective": Categorical(("minimax", "wasserstein", "least-squares")),
            "lr": LogUniform(5e-4, 5e-3),
            "momentum": Categorical((0.0, 0.5)),
            "batch_size": Categorical((16, 32)),
        },
    ),
    task="digits-restyling",
    budget=Budget(trials=8, epochs=16, rungs=2, eta=3),
    paper="Zhu et al. 2017, arXiv:1703.10593; Johnson et al. 2016, arXiv:1603.08155",
    points={
        "johnson-digits": Arch(widths=(16, 32), blocks=3),
        "cyclegan": Arch(widths=(64, 128, 256), blocks=6, kernel=7),
    },
)
