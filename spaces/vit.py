"""Vision Transformer for small images: patches as steps of an encoder, optionally with a convolutional stem.

Dosovitskiy et al. 2021, arXiv:2010.11929. The stem is one convolution over patches that do not overlap, or a stack of
3×3 convolutions with stride 2 and a 1×1 convolution (Xiao et al. 2021, arXiv:2106.14881), which leaves as many steps.
Positions number the patches row by row, as in the paper. The class token is a step of zeros before the patches: its
position distinguishes it, so it needs no parameter. Images that the patches do not fill are padded on the right and at
the bottom with zeros, the mean of the training data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.core.data_spec import DataSpec
from searchkit.core.errors import Infeasible
from searchkit.core.space import Budget, Sharing, Space, Trial
from searchkit.core.training import Categorical, LogUniform, Training, TrainingSpace
from searchkit.nn.blocks.encoder import Block
from searchkit.nn.blocks.layers import initialize_, initialize_head_, n_outputs, plain_answer
from searchkit.nn.embedding import Positions
from searchkit.nn.sequence import pool

FEWEST_PATCHES, MOST_PATCHES = 4, 100
"""Bounds of the number of patches in the search.

Attention costs its square: 14×14 patches of a 28×28 image cost 16 times as much as 7×7.
"""


@dataclass(frozen=True)
class Arch:
    """The architecture.

    Attributes:
        patch: Side of a patch in pixels.
        stem: patches or convolutions.
        width: Channels of a step.
        heads: Attention heads.
        depth: Number of blocks.
        ffn: Width of the feed-forward network as a multiple of `width`.
        positions: Position embeddings: learned or sinusoidal.
        pooling: How the steps become one vector: mean, or token (a class token).
        activation: Activation of the feed-forward network.
        dropout: Dropout of the attention weights and of the branches.
    """

    patch: int = 2
    stem: str = "convolutions"
    width: int = 64
    heads: int = 4
    depth: int = 2
    ffn: int = 2
    positions: str = "learned"
    pooling: str = "mean"
    activation: str = "relu"
    dropout: float = 0.0


class VisionTransformer(nn.Module):
    """Images (B, C, H, W) -> (B, outputs). The stem gives (B, D, H / patch, W / patch)."""

    def __init__(
        self, stem: nn.Module, positions: Positions, *, patch: int, blocks: list[Block], head: nn.Linear, pooling: str
    ) -> None:
        super().__init__()
        self.patch = patch
        self.stem = stem
        self.positions = positions
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(head.in_features)
        self.head = head
        self.token = pooling == "token"

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Run the network."""
        below, right = (-x_BCHW.shape[2] % self.patch, -x_BCHW.shape[3] % self.patch)
        if below or right:
            x_BCHW = F.pad(x_BCHW, (0, right, 0, below))
        steps_BLD = self.stem(x_BCHW).flatten(2).transpose(1, 2)
        # Zeros, to which the position embedding of step 0 is added.
        if self.token:
            steps_BLD = F.pad(steps_BLD, (0, 0, 1, 0))
        steps_BLD = self.positions(steps_BLD)
        for block in self.blocks:
            steps_BLD = block(steps_BLD, None)
        out: Tensor = self.head(pool(self.norm(steps_BLD), None, "first" if self.token else "mean"))
        return out


def accepts(spec: DataSpec) -> str | None:
    """Return None for images of one size with a vector as output, else the reason why not."""
    if spec.modality != "image" or len(spec.inputs) != 1:
        return "it takes images (channels, height, width)"
    if None in spec.inputs[0].shape:
        return "it takes images of one size"
    return plain_answer(spec)


def _image(spec: DataSpec) -> tuple[int, int, int]:
    channels, height, width = (size for size in spec.inputs[0].shape if size is not None)
    return channels, height, width


def _n_patches(spec: DataSpec, patch: int) -> int:
    _, height, width = _image(spec)
    # Rounded up: `forward` pads the image.
    return -(-height // patch) * -(-width // patch)


def _patches(spec: DataSpec) -> list[int]:
    """The sides worth trying: the two smallest powers of 2 with neither too many nor too few patches."""
    sides = [2**k for k in range(1, 11)]
    usual = [side for side in sides if FEWEST_PATCHES <= _n_patches(spec, side) <= MOST_PATCHES]
    return usual[:2] or [min(sides, key=lambda side: abs(_n_patches(spec, side) - MOST_PATCHES))]


def sample(trial: Trial, spec: DataSpec) -> Arch:
    """Sample an architecture."""
    # The search begins with the middle of each range and list (the first of two), so their order is a choice.
    patches = _patches(spec)
    return Arch(
        patch=trial.suggest_categorical("patch", patches) if len(patches) > 1 else patches[0],
        stem=trial.suggest_categorical("stem", ["convolutions", "patches"]),
        width=16 * trial.suggest_int("width_by_16", 2, 6, log=True),
        heads=trial.suggest_categorical("heads", [1, 2, 4]),
        depth=trial.suggest_int("depth", 1, 4),
        ffn=trial.suggest_int("ffn", 1, 4),
        positions=trial.suggest_categorical("positions", ["learned", "sinusoidal"]),
        pooling=trial.suggest_categorical("pooling", ["mean", "token"]),
        activation=trial.suggest_categorical("activation", ["relu", "gelu"]),
        dropout=trial.suggest_categorical("dropout", [0.0, 0.1]),
    )


def _stem(arch: Arch, channels: int) -> nn.Module:
    """The stem.

    Raises:
        Infeasible: If convolutions with stride 2 cannot make the patch.
    """
    if arch.stem == "patches":
        return nn.Conv2d(channels, arch.width, arch.patch, arch.patch)
    halvings = arch.patch.bit_length() - 1
    if arch.patch != 2**halvings:
        raise Infeasible(f"convolutions of stride 2 cannot make a patch of {arch.patch}; it has to be a power of 2")
    layers: list[nn.Module] = []
    for left in reversed(range(halvings)):  # the width doubles as the image halves
        width = max(8, arch.width >> left)
        layers += [nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.Conv2d(channels, arch.width, 1))


def build(arch: Arch, spec: DataSpec) -> nn.Module:
    """Build the network.

    Raises:
        Infeasible: If the width cannot be split into the heads, or convolutions cannot make the patch.
    """
    stem = _stem(arch, _image(spec)[0])
    initialize_(stem, "relu")  # the blocks initialize themselves, by Xavier
    blocks = [
        Block(arch.width, heads=arch.heads, ffn=arch.ffn, nonlinearity=arch.activation, dropout=arch.dropout)
        for _ in range(arch.depth)
    ]
    head = nn.Linear(arch.width, n_outputs(spec))
    initialize_head_(head)
    length = _n_patches(spec, arch.patch) + (1 if arch.pooling == "token" else 0)
    positions = Positions(arch.width, length=length, kind=arch.positions)
    return VisionTransformer(stem, positions, patch=arch.patch, blocks=blocks, head=head, pooling=arch.pooling)


def shares(arch: Arch, other: Arch) -> Sharing | None:
    """Say how the weights of `arch` lie in those of `other`: blocks by index, the first channels of each head."""

    def kind(arch: Arch) -> tuple[object, ...]:
        return (arch.patch, arch.stem, arch.heads, arch.positions, arch.pooling, arch.activation)

    if kind(arch) != kind(other):
        return None
    return Sharing({f"blocks.{index}": None for index in range(other.depth, arch.depth)})


# int8, measured: .58 of the latency at width 192, static and dynamic alike. vit needs long trainings: on Fashion-MNIST
# three epochs of a time budget gave .852, twenty .904.
SPACE = Space(
    name="vit",
    arch=Arch,
    accepts=accepts,
    sample=sample,
    build=build,
    training=TrainingSpace(
        default=Training(
            lr=3e-3, epochs=80, batch_size=64, weight_decay=0.05, ema=0.98, warmup=0.1, augment=("crop",)
        ),
        ranges={
            "lr": LogUniform(1e-3, 6e-3),
            "weight_decay": LogUniform(1e-2, 0.2),
            "augment": Categorical(
                (("crop", "flip"), (), ("crop",), ("flip",), ("crop", "cutout"), ("flip", "cutout")),
            ),
            "label_smoothing": Categorical((0.0, 0.1)),
        },
    ),
    task="digits",
    budget=Budget(trials=12, epochs=80, rungs=3, eta=3),
    paper="Dosovitskiy et al. 2021, arXiv:2010.11929",
    points={
        "ti-16": Arch(
            patch=16, stem="patches", width=192, heads=3, depth=12, ffn=4, pooling="token", activation="gelu",
        ),
        "s-16": Arch(
            patch=16, stem="patches", width=384, heads=6, depth=12, ffn=4, pooling="token", activation="gelu",
        ),
    },
    shares=shares,
)  # fmt: skip
