"""Volumes in any axis order to (C, D, H, W), standardized for each channel by train; and the packaged task `solids`.

Volumes may be bit-packed by `numpy.packbits` for each example, eight voxels a byte, as organ masks often are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from torch import Generator, Tensor, nn

from searchkit.core.data_spec import Arrays, TensorSpec
from searchkit.core.errors import BadInput
from searchkit.core.task import Task
from searchkit.data.dataset import Dataset, RawDataset, standard_dtype
from searchkit.data.scaling import channel_statistics
from searchkit.data.source import Source
from searchkit.tasks.modalities.image import CHANNELS
from searchkit.tasks.prepare import make_task

EMBEDDED = {
    "solids": "spheres, cubes, cylinders, cones and tori: 1,500 noisy volumes of 12x12x12, 5 classes (generated)"
}

AXES = (2, 3, 4)  # of (B, C, D, H, W): those that are space


def channel_order(shape: tuple[int | None, ...]) -> str:
    """Judge the axis order of one volume: "DHW", "CDHW" or "DHWC".

    If either end can be channels, the order that leaves a cube wins, else the first axis.
    """
    if len(shape) == 3:
        return "DHW"
    first, last = shape[0] in CHANNELS, shape[3] in CHANNELS
    if first and last:
        return "DHWC" if len(set(shape[:3])) == 1 and len(set(shape[1:])) > 1 else "CDHW"
    return "DHWC" if last else "CDHW"


class ScaleVoxels(nn.Module):
    """Standardize volumes in any axis order and of any number type to (B, C, D, H, W) float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, axes: str, mean: np.ndarray, std: np.ndarray) -> None:
        super().__init__()
        self.axes = axes
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1, 1))

    def forward(self, voxels: Tensor) -> Tensor:
        """Reorder the axes and standardize each channel."""
        voxels = voxels.to(torch.float32)
        if self.axes == "DHW":
            voxels = voxels.unsqueeze(1)
        elif self.axes == "DHWC":
            voxels = voxels.permute(0, 4, 1, 2, 3)
        return (voxels - self.mean) / self.std


class UnscaleVoxels(nn.Module):
    """The inverse of `ScaleVoxels`, to float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, scale: ScaleVoxels) -> None:
        super().__init__()
        self.axes = scale.axes
        self.register_buffer("mean", scale.mean.clone())
        self.register_buffer("std", scale.std.clone())

    def forward(self, voxels_BCDHW: Tensor) -> Tensor:
        """(B, C, D, H, W) model values to raw values, in the axis order of the raw volumes."""
        voxels = voxels_BCDHW * self.std + self.mean
        if self.axes == "DHW":
            return voxels.squeeze(1)
        return voxels.permute(0, 2, 3, 4, 1) if self.axes == "DHWC" else voxels


def flip(x_BCDHW: Tensor, generator: Generator) -> Tensor:
    """Mirror each volume along each of its three axes with probability 1/2."""
    for axis in AXES:
        heads = torch.rand(len(x_BCDHW), generator=generator, device=x_BCDHW.device) < 0.5
        x_BCDHW = torch.where(heads.view(-1, 1, 1, 1, 1), x_BCDHW.flip(axis), x_BCDHW)
    return x_BCDHW


def shift(x_BCDHW: Tensor, generator: Generator) -> Tensor:
    """Shift each volume by up to an eighth of its side along each axis; the border is repeated."""
    for axis in AXES:
        side = x_BCDHW.shape[axis]
        reach = max(1, side // 8)
        moved = torch.randint(-reach, reach + 1, (len(x_BCDHW), 1), generator=generator, device=x_BCDHW.device)
        index = (torch.arange(side, device=x_BCDHW.device) + moved).clamp(0, side - 1)
        shape = [-1, 1, 1, 1, 1]
        shape[axis] = side
        x_BCDHW = x_BCDHW.gather(axis, index.view(shape).expand_as(x_BCDHW))
    return x_BCDHW


def unpacked(packed: np.ndarray, where: str) -> np.ndarray:
    """Unpack (n, bytes) uint8 of `numpy.packbits` to (n, D, D, D) uint8 of 0 and 1.

    Raises:
        BadInput: The bits do not fill a cube.
    """
    # The floating-point cube root of a cube may lie just below the whole number: rounded, then checked exactly.
    side = round((8 * packed.shape[1]) ** (1 / 3))
    if packed.dtype != np.uint8 or side**3 != 8 * packed.shape[1]:
        raise BadInput(
            f"x of {where} has shape {packed.shape} and type {packed.dtype}, which are the packed bits of no cube; "
            "voxels are (n, D, H, W), with channels first or last, or bits of numpy.packbits, whose side, if they "
            "are no cube, the archive gives as shape=(D, H, W)."
        )
    return np.unpackbits(packed, axis=1).reshape(len(packed), side, side, side)


@dataclass(frozen=True)
class Voxels:
    """The modality of volumes."""

    augmentations: Mapping[str, Callable[[Tensor, Generator], Tensor]] = field(
        default_factory=lambda: {"flip": flip, "shift": shift}
    )
    corrupts: frozenset[str] = frozenset()
    form = "voxels"

    def arrange(self, found: RawDataset) -> Arrays:
        """Check the raw volumes, unpacked if they are bits.

        Raises:
            BadInput: Values are not finite numbers, or the shape is no volume.
        """
        x = unpacked(found.x, found.where) if found.x.ndim == 2 else found.x
        if x.ndim not in (4, 5) or 0 in x.shape:
            raise BadInput(
                f"x of {found.where} has shape {x.shape}; voxels are (n, D, H, W), (n, C, D, H, W) or (n, D, H, W, C)."
            )
        if x.ndim == 5 and x.shape[1] not in CHANNELS and x.shape[4] not in CHANNELS:
            raise BadInput(
                f"x of {found.where} has shape {x.shape}; voxels have 1, 3 or 4 channels, on the second or the last "
                "axis."
            )
        # standard_dtype would make float32 of bool, four times the bytes.
        return {"voxels": standard_dtype(x.astype(np.uint8) if x.dtype == np.bool_ else x, found.where)}

    def ports(self, data: Dataset) -> tuple[TensorSpec, ...]:
        """The raw input "voxels"."""
        voxels = data.inputs["voxels"]
        return (TensorSpec("voxels", voxels.shape[1:], voxels.dtype.name),)

    def preprocessor(self, data: Dataset) -> ScaleVoxels:
        """Standardization with the statistics of train."""
        axes = channel_order(data.inputs["voxels"].shape[1:])
        channel_axis = {"DHW": None, "CDHW": 1, "DHWC": 4}[axes]
        return ScaleVoxels(axes, *channel_statistics(data.inputs["voxels"], data.rows["train"], channel_axis))

    def restore(self, data: Dataset, preprocessor: nn.Module) -> nn.Module:
        """The inverse of the preprocessor."""
        assert isinstance(preprocessor, ScaleVoxels)
        return UnscaleVoxels(preprocessor)

    def vocabulary(self, data: Dataset) -> int:
        """0: the inputs are no tokens."""
        return 0


MODALITIES = {"voxels": Voxels()}


# ── Solids ───────────────────────────────────────────────────────────────────────────────────────────────────────────

SIDE = 12
EACH = 300  # examples of a class
SEED = 20150928  # of the data, which are the same for every run

CLASSES = ("cone", "cube", "cylinder", "sphere", "torus")


@cache
def _solids() -> tuple[np.ndarray, np.ndarray]:
    """Generate `solids`: (n, 12, 12, 12) uint8 intensities and (n,) int64 classes.

    Every class has the same distribution of volumes, positions and contrast, so that counting voxels identifies none.
    The seed is fixed. Cube roots and normal numbers come from numpy, which may round them otherwise on another machine;
    a few voxels may then differ.
    """
    generator = np.random.default_rng(SEED)
    n = EACH * len(CLASSES)
    target = generator.permutation(np.repeat(np.arange(len(CLASSES)), EACH))
    volume = generator.uniform(120.0, 270.0, n)  # voxels
    center = generator.uniform(-1.3, 1.3, (n, 3))
    x, y, z = _turned(generator.normal(size=(n, 4)), center)
    inside = np.zeros((n, SIDE**3), dtype=bool)
    for label, name in enumerate(CLASSES):
        rows = target == label
        inside[rows] = _inside(name, x[rows], y[rows], z[rows], np.cbrt(volume[rows])[:, None])
    contrast = generator.uniform(60.0, 110.0, (n, 1))
    clean = 128.0 + contrast * (inside - 0.5)
    noisy = clean + generator.normal(size=clean.shape) * generator.uniform(5.0, 12.0, (n, 1))
    voxels = np.clip(np.rint(noisy), 0, 255).astype(np.uint8).reshape(n, SIDE, SIDE, SIDE)
    return voxels, target.astype(np.int64)


def _turned(quaternion: np.ndarray, center: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Voxel coordinates in the rotated frame of each solid: three arrays (n, voxels).

    Args:
        quaternion: (n, 4), of any length but 0; a normal one gives a uniform rotation (Shoemake 1992, Uniform random
            rotations).
        center: (n, 3) centers of the solids.
    """
    a, b, c, d = (quaternion / np.sqrt((quaternion * quaternion).sum(axis=1, keepdims=True))).T[:, :, None]
    steps = np.arange(SIDE) - (SIDE - 1) / 2
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij")).reshape(3, 1, -1)
    u, v, w = grid - center.T[:, :, None]
    # The rotation matrix of the unit quaternion a + bi + cj + dk, times (u, v, w), each (n, voxels).
    x = (a * a + b * b - c * c - d * d) * u + 2 * (b * c - a * d) * v + 2 * (b * d + a * c) * w
    y = 2 * (b * c + a * d) * u + (a * a - b * b + c * c - d * d) * v + 2 * (c * d - a * b) * w
    z = 2 * (b * d - a * c) * u + 2 * (c * d + a * b) * v + (a * a - b * b - c * c + d * d) * w
    return x, y, z


def _inside(name: str, x: np.ndarray, y: np.ndarray, z: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Which points, (n, voxels), lie in a solid of volume size³ about the origin with axis z."""
    radial = np.sqrt(x * x + y * y)
    match name:
        case "sphere":
            return np.asarray(np.sqrt(x * x + y * y + z * z) <= size * (3 / (4 * np.pi)) ** (1 / 3))
        case "cube":
            return np.asarray(np.maximum(np.maximum(np.abs(x), np.abs(y)), np.abs(z)) <= size / 2)
        case "cylinder":  # twice as high as wide
            radius = size / (4 * np.pi) ** (1 / 3)
            return np.asarray((radial <= radius) & (np.abs(z) <= 2 * radius))
        case "cone":  # as high as wide; z = 0 at half its height
            radius = size * (3 / (2 * np.pi)) ** (1 / 3)
            return np.asarray((radial <= (radius - z) / 2) & (np.abs(z) <= radius))
    assert name == "torus", name  # its ring has twice the radius of its tube
    tube = size / (4 * np.pi**2) ** (1 / 3)
    return np.asarray(np.sqrt((radial - 2 * tube) * (radial - 2 * tube) + z * z) <= tube)


def load(source: Source) -> Task:
    """Load the packaged task `solids`."""
    x, target = _solids()
    found = RawDataset("solids", x, target, "the task 'solids'", "voxels", labels=CLASSES)
    return make_task(found, source)
