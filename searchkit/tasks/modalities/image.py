"""Images: raw values in any axis order to (C, H, W), standardized for each channel by the statistics of train."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Generator, Tensor, nn

from searchkit.core.data_spec import Arrays, TensorSpec
from searchkit.core.errors import BadInput
from searchkit.core.task import Task
from searchkit.data.dataset import Dataset, RawDataset, standard_dtype
from searchkit.data.scaling import channel_statistics
from searchkit.data.source import Source
from searchkit.tasks.prepare import make_task

EMBEDDED = {"digits": "handwritten digits: 1,797 gray images of 8x8, 10 classes (scikit-learn)"}

CHANNELS = (1, 3, 4)


def channel_order(shape: tuple[int | None, ...]) -> str:
    """Judge the axis order of one image: "HW", "CHW" or "HWC".

    An axis of at most a few entries can be channels. If both can, the order that leaves a square wins, else the last
    axis.
    """
    if len(shape) == 2:
        return "HW"
    first, last = shape[0] in CHANNELS, shape[2] in CHANNELS
    if first and last:
        return "CHW" if shape[1] == shape[2] and shape[0] != shape[1] else "HWC"
    return "CHW" if first else "HWC"


class ScaleImage(nn.Module):
    """Standardize images: (B, H, W), (B, C, H, W) or (B, H, W, C) of any number type to (B, C, H, W) float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, axes: str, mean: np.ndarray, std: np.ndarray) -> None:
        super().__init__()
        self.axes = axes
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Reorder the axes and standardize each channel."""
        image = image.to(torch.float32)
        if self.axes == "HW":
            image = image.unsqueeze(1)
        elif self.axes == "HWC":
            image = image.permute(0, 3, 1, 2)
        return (image - self.mean) / self.std


class UnscaleImage(nn.Module):
    """The inverse of `ScaleImage`, to float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, scale: ScaleImage) -> None:
        super().__init__()
        self.axes = scale.axes
        self.register_buffer("mean", scale.mean.clone())
        self.register_buffer("std", scale.std.clone())

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) model values to raw values, in the axis order of the raw images."""
        image = image_BCHW * self.std + self.mean
        if self.axes == "HW":
            return image.squeeze(1)
        return image.permute(0, 2, 3, 1) if self.axes == "HWC" else image


def crop(x_BCHW: Tensor, generator: Generator) -> Tensor:
    """Shift each image by up to an eighth of its side in both directions; the border is mirrored."""
    for axis in (2, 3):
        side = x_BCHW.shape[axis]
        reach = max(1, side // 8)
        # A side of one pixel has nothing to mirror.
        if side <= reach:
            continue
        shift = _integers(len(x_BCHW), -reach, reach, x_BCHW, generator)
        index = (torch.arange(side, device=x_BCHW.device) + shift[:, None]).abs()
        # Mirrored at 0 and then at side − 1; once each is enough, since a shift is shorter than the side.
        index = (side - 1) - ((side - 1) - index).abs()
        shape = (-1, 1, side, 1) if axis == 2 else (-1, 1, 1, side)
        x_BCHW = x_BCHW.gather(axis, index.view(shape).expand_as(x_BCHW))
    return x_BCHW


def flip(x_BCHW: Tensor, generator: Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    heads = torch.rand(len(x_BCHW), generator=generator, device=x_BCHW.device) < 0.5
    return torch.where(heads.view(-1, 1, 1, 1), x_BCHW.flip(3), x_BCHW)


def cutout(x_BCHW: Tensor, generator: Generator) -> Tensor:
    """Set a square of up to half the side to 0, the mean of train (DeVries & Taylor 2017, arXiv:1708.04552)."""
    n, _, height, width = x_BCHW.shape
    half = max(1, min(height, width) // 4)
    # (n, H) and (n, W): distances from a center in the image. A square near the edge is partly outside.
    rows = torch.arange(height, device=x_BCHW.device) - _integers(n, 0, height - 1, x_BCHW, generator)[:, None]
    columns = torch.arange(width, device=x_BCHW.device) - _integers(n, 0, width - 1, x_BCHW, generator)[:, None]
    in_rows, in_columns = (rows >= -half) & (rows < half), (columns >= -half) & (columns < half)
    return x_BCHW.masked_fill(in_rows[:, None, :, None] & in_columns[:, None, None, :], 0.0)


def _integers(n: int, low: int, high: int, like: Tensor, generator: Generator) -> Tensor:
    """Draw (n,) whole numbers from low to high, both included."""
    return torch.randint(low, high + 1, (n,), generator=generator, device=like.device)


@dataclass(frozen=True)
class Image:
    """The modality of images."""

    augmentations: Mapping[str, Callable[[Tensor, Generator], Tensor]] = field(
        default_factory=lambda: {"crop": crop, "flip": flip, "cutout": cutout}
    )
    corrupts: frozenset[str] = frozenset({"cutout"})
    form = "image"

    def arrange(self, found: RawDataset) -> Arrays:
        """Check the raw images, and keep uint8 as it is.

        Raises:
            BadInput: Values are not finite numbers.
        """
        x = found.x
        if x.ndim not in (3, 4) or 0 in x.shape:
            raise BadInput(
                f"x of {found.where} has shape {x.shape}; images are (n, H, W), (n, H, W, C) or (n, C, H, W)."
            )
        if x.ndim == 4 and x.shape[1] not in CHANNELS and x.shape[3] not in CHANNELS:
            raise BadInput(
                f"x of {found.where} has shape {x.shape}; images have 1, 3 or 4 channels, on the second or the last "
                "axis; volumes are read with --modality voxels."
            )
        return {"image": standard_dtype(x, found.where)}

    def ports(self, data: Dataset) -> tuple[TensorSpec, ...]:
        """The raw input "image"."""
        image = data.inputs["image"]
        return (TensorSpec("image", image.shape[1:], image.dtype.name),)

    def preprocessor(self, data: Dataset) -> ScaleImage:
        """Standardization with the statistics of train."""
        axes = channel_order(data.inputs["image"].shape[1:])
        channel_axis = {"HW": None, "CHW": 1, "HWC": 3}[axes]
        return ScaleImage(axes, *channel_statistics(data.inputs["image"], data.rows["train"], channel_axis))

    def restore(self, data: Dataset, preprocessor: nn.Module) -> nn.Module:
        """The inverse of the preprocessor."""
        assert isinstance(preprocessor, ScaleImage)
        return UnscaleImage(preprocessor)

    def vocabulary(self, data: Dataset) -> int:
        """0: the inputs are no tokens."""
        return 0


MODALITIES = {"image": Image()}


def digits(name: str, *, labeled: bool = True) -> RawDataset:
    """scikit-learn's 1,797 handwritten digits of 8 × 8 pixels, with or without their labels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return RawDataset(
        name=name,
        # Stored as float64, but whole numbers from 0 to 16, which uint8 holds exactly.
        x=bunch.images.astype(np.uint8),
        target=bunch.target.astype(np.int64) if labeled else None,
        where=f"the task '{name}'",
        modality="image",
    )


def load(source: Source) -> Task:
    """Load the packaged task `digits`."""
    return make_task(digits("digits"), source)
