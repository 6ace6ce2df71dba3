"""Windows of one stream, as the input of a forecast: the stream is kept once and cut when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Generator, Tensor, nn

from searchkit.core.data_spec import Arrays, TensorSpec
from searchkit.core.errors import BadInput
from searchkit.core.serialization import thaw
from searchkit.data.dataset import Dataset, RawDataset, standard_dtype
from searchkit.data.windows import Cut
from searchkit.tasks.modalities.series import ScaleSeries, jitter


def cut_of(data: Dataset) -> Cut:
    """How the examples of a dataset are cut from its stream."""
    assert data.windows is not None
    return thaw(Cut, data.windows)


class ScaleChannels(ScaleSeries):
    """(B, C, L) to float32 of mean 0 and deviation 1 by channel, with the channels that are forecast first.

    Args:
        mean: (C,) of the training rows.
        std: (C,) of the training rows.
        order: (C,) the channels in their new order.
    """

    order: Tensor

    def __init__(self, mean: np.ndarray, std: np.ndarray, order: tuple[int, ...]) -> None:
        super().__init__(mean[list(order)], std[list(order)])
        self.moves = order != tuple(range(len(order)))
        self.register_buffer("order", torch.tensor(order), persistent=False)

    def forward(self, series: Tensor, lengths: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Scale and reorder; lengths are passed on."""
        return super().forward(series.index_select(1, self.order) if self.moves else series, lengths)


class Windows:
    """A stream of rows, seen through windows; the augmentations leave it what comes after them."""

    augmentations: Mapping[str, Callable[[Tensor, Generator], Tensor]] = {"jitter": jitter}
    corrupts: frozenset[str] = frozenset()
    form = "series"

    def arrange(self, found: RawDataset) -> Arrays:
        """The stream as one input, a row a step.

        Raises:
            BadInput: a value is not a finite number.
        """
        return {"series": standard_dtype(found.x, found.where)}

    def ports(self, data: Dataset) -> tuple[TensorSpec, ...]:
        """Describe a window, (C, window)."""
        series = data.inputs["series"]
        return (TensorSpec("series", (series.shape[1], cut_of(data).window), series.dtype.name),)

    def preprocessor(self, data: Dataset) -> ScaleChannels:
        """Make the module that scales each channel by its train rows."""
        cut = cut_of(data)
        train = data.inputs["series"][: cut.ends[0]].astype(np.float64)
        mean, std = train.mean(axis=0), train.std(axis=0)
        # Rounding can leave a constant channel a tiny deviation, and dividing by it would blow that rounding up.
        std = np.where(std > 1e-12 * np.maximum(1.0, np.abs(mean)), std, 1.0)
        rest = (c for c in range(train.shape[1]) if c not in cut.targets)
        return ScaleChannels(mean, std, (*cut.targets, *rest))

    def restore(self, data: Dataset, preprocessor: nn.Module) -> nn.Module:
        """Refuse: a stream is continued, not rebuilt.

        Raises:
            BadInput: always.
        """
        raise BadInput(f"{data.where} is a series to forecast; for its reconstruction give an .npz file of windows.")

    def vocabulary(self, data: Dataset) -> int:
        """A series has no tokens."""
        return 0


MODALITIES = {"windows of a series": Windows()}
