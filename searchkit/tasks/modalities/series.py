"""Series (C, L), standardized for each channel, and tokens (L,), taken as they are; `lengths` if rows differ in length.

Padding lies at the end. It counts in no statistic, and a scaled series is 0 there, whatever the file held.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from torch import Generator, Tensor, nn

from searchkit.core.data_spec import Arrays, TensorSpec
from searchkit.core.errors import BadInput, NotInstalled
from searchkit.core.task import Task
from searchkit.data.dataset import Dataset, RawDataset, standard_dtype
from searchkit.data.scaling import channel_statistics
from searchkit.data.source import Source
from searchkit.tasks.prepare import make_task

EMBEDDED = {"mnist1d": "one-dimensional digits: 4,000 and 1,000 series of 40 steps, 10 classes (mnist1d, generated)"}


class ScaleSeries(nn.Module):
    """Standardize series for each channel; padding becomes 0."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: np.ndarray, std: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1))

    def forward(self, series: Tensor, lengths: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """(B, C, L), and (B,) lengths if they vary, to float32 and the lengths."""
        scaled = (series.to(torch.float32) - self.mean) / self.std
        if lengths is None:
            return scaled
        steps = torch.arange(series.shape[2], device=series.device)
        return torch.where(steps < lengths.view(-1, 1, 1), scaled, 0.0), lengths


class UnscaleSeries(nn.Module):
    """The inverse of `ScaleSeries`, to float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, scale: ScaleSeries) -> None:
        super().__init__()
        self.register_buffer("mean", scale.mean.clone())
        self.register_buffer("std", scale.std.clone())

    def forward(self, series: Tensor) -> Tensor:
        """(B, C, L) model values to raw values."""
        return series * self.std + self.mean


class AsTokens(nn.Module):
    """Tokens as int64, and the other inputs as they are."""

    def forward(self, tokens: Tensor, *others: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Tokens (B, L); `others`: lengths if they vary, and the target so far if it is a text."""
        tokens = tokens.to(torch.int64)
        return (tokens, *others) if others else tokens


def jitter(x_BCL: Tensor, generator: Generator) -> Tensor:
    """Add Gaussian noise with a twentieth of the channel's deviation (Um et al. 2017, arXiv:1706.00527)."""
    return x_BCL + 0.05 * torch.randn(x_BCL.shape, generator=generator, device=x_BCL.device)


def scale(x_BCL: Tensor, generator: Generator) -> Tensor:
    """Multiply each channel of each series by a factor with mean 1 and deviation 0.1 (Um et al. 2017)."""
    factor = torch.randn((*x_BCL.shape[:2], 1), generator=generator, device=x_BCL.device)
    return x_BCL * (1 + 0.1 * factor)


def shift(x_BCL: Tensor, generator: Generator) -> Tensor:
    """Shift each series by up to an eighth of its steps in both directions; 0, the mean of train, fills the gap."""
    steps = x_BCL.shape[2]
    reach = max(1, steps // 8)
    moved = torch.randint(-reach, reach + 1, (len(x_BCL), 1), generator=generator, device=x_BCL.device)
    index = torch.arange(steps, device=x_BCL.device) + moved
    values = x_BCL.gather(2, index.clamp(0, steps - 1)[:, None, :].expand_as(x_BCL))
    is_inside = (index >= 0) & (index < steps)
    return torch.where(is_inside[:, None, :], values, 0.0)


def _lengths(found: RawDataset, longest: int) -> Arrays:
    if found.lengths is None:
        return {}
    lengths = found.lengths
    if lengths.shape != (len(found.x),) or lengths.dtype.kind not in "iu":
        raise BadInput(
            f"lengths of {found.where} has shape {lengths.shape} and type {lengths.dtype}; it must be {len(found.x)} "
            "whole numbers."
        )
    wrong = np.flatnonzero((lengths < 1) | (lengths > longest))
    if len(wrong):
        raise BadInput(
            f"lengths of {found.where} is {lengths[wrong[0]]} at row {wrong[0]}; a length is from 1 to {longest}, the "
            "steps in x."
        )
    return {"lengths": lengths.astype(np.int64)}


def _length_port(data: Dataset) -> tuple[TensorSpec, ...]:
    return (TensorSpec("lengths", (), "int64"),) if "lengths" in data.inputs else ()


@dataclass(frozen=True)
class Series:
    """The modality of series."""

    augmentations: Mapping[str, Callable[[Tensor, Generator], Tensor]] = field(
        default_factory=lambda: {"jitter": jitter, "scale": scale, "shift": shift}
    )
    corrupts: frozenset[str] = frozenset({"jitter"})
    form = "series"

    def arrange(self, found: RawDataset) -> Arrays:
        """Check the raw series and their lengths.

        Raises:
            BadInput: Values are not finite numbers, or lengths do not fit.
        """
        x = found.x[:, None, :] if found.x.ndim == 2 else found.x
        if x.ndim != 3 or 0 in x.shape:
            raise BadInput(
                f"x of {found.where} has shape {found.x.shape}; series are (n, channels, length) or (n, length)."
            )
        lengths = _lengths(found, x.shape[2])
        return {"series": standard_dtype(x, found.where)} | lengths

    def ports(self, data: Dataset) -> tuple[TensorSpec, ...]:
        """Raw inputs: "series", and "lengths" if they vary."""
        series = data.inputs["series"]
        return (TensorSpec("series", series.shape[1:], series.dtype.name), *_length_port(data))

    def preprocessor(self, data: Dataset) -> ScaleSeries:
        """Standardization with the statistics of train."""
        series = data.inputs["series"]
        lengths = data.inputs.get("lengths")
        valid = None if lengths is None else np.arange(series.shape[2]) < lengths[:, None]
        return ScaleSeries(*channel_statistics(series, data.rows["train"], 1, valid=valid))

    def restore(self, data: Dataset, preprocessor: nn.Module) -> nn.Module:
        """The inverse of the preprocessor."""
        assert isinstance(preprocessor, ScaleSeries)
        return UnscaleSeries(preprocessor)

    def vocabulary(self, data: Dataset) -> int:
        """0: the inputs are no tokens."""
        return 0


DROPPED = 0.1


def drop(tokens_BL: Tensor, generator: Generator) -> Tensor:
    """Replace a tenth of all tokens by number 0, the unknown token, so that no prediction depends on one word.

    Word dropout: Iyyer et al. 2015, Deep unordered composition rivals syntactic methods for text classification,
    section 3.1.
    """
    keep = torch.rand(tokens_BL.shape, generator=generator, device=tokens_BL.device) >= DROPPED
    return tokens_BL * keep


@dataclass(frozen=True)
class Tokens:
    """The modality of tokens."""

    augmentations: Mapping[str, Callable[[Tensor, Generator], Tensor]] = field(default_factory=lambda: {"drop": drop})
    corrupts: frozenset[str] = frozenset()
    form = "tokens"

    def arrange(self, found: RawDataset) -> Arrays:
        """Check the tokens and their lengths.

        Raises:
            BadInput: Tokens are not whole numbers from 0, or lengths do not fit.
        """
        x = found.x
        if x.ndim != 2 or 0 in x.shape or x.dtype.kind not in "iu":
            raise BadInput(
                f"x of {found.where} has shape {x.shape} and type {x.dtype}; tokens are (n, length) whole numbers."
            )
        if (x < 0).any():
            raise BadInput(f"x of {found.where} holds the token {x.min()}; tokens are numbered from 0.")
        return {"tokens": x.astype(np.int64)} | _lengths(found, x.shape[1]) | dict(found.more)

    def ports(self, data: Dataset) -> tuple[TensorSpec, ...]:
        """Raw inputs: "tokens", "lengths" if they vary, and "previous" if the target is a text.

        Text may have any length; the training rows are as long as the network is built for.
        """
        shape = data.inputs["tokens"].shape[1:] if data.tokenizer is None else (None,)
        so_far = (TensorSpec("previous", (None,), "int64", steps="steps"),) if "previous" in data.inputs else ()
        return (TensorSpec("tokens", shape, "int64"), *_length_port(data), *so_far)

    def preprocessor(self, data: Dataset) -> AsTokens:
        """Conversion to int64."""
        return AsTokens()

    def restore(self, data: Dataset, preprocessor: nn.Module) -> nn.Module:
        """Refuse: tokens are not reconstructed.

        Raises:
            BadInput: Always.
        """
        raise BadInput(f"{data.where} holds tokens, which cannot be reconstructed by squared error; give a target y.")

    def vocabulary(self, data: Dataset) -> int:
        """The number of tokens."""
        # Over all splits: a token that only test has needs a row in the embedding too.
        return int(data.inputs["tokens"].max()) + 1 if data.tokenizer is None else len(data.tokenizer["tokens"])


MODALITIES = {"series": Series(), "tokens": Tokens()}


@cache
def _mnist1d() -> tuple[np.ndarray, np.ndarray, int]:
    """MNIST-1D as published (Greydanus & Kobak 2020, arXiv:2011.14439): seed 42, 4,000 examples for training.

    The package seeds the global random generators, so their states are restored.
    """
    try:
        from mnist1d.data import get_dataset_args, make_dataset
    except ImportError as error:
        raise NotInstalled(
            "The task 'mnist1d' needs the package mnist1d, which is not installed; run pip install 'searchkit[demo]', "
            "or give data of your own."
        ) from error

    before, numpy_before = random.getstate(), np.random.get_state()
    try:
        made = make_dataset(get_dataset_args())
    finally:
        random.setstate(before)
        np.random.set_state(numpy_before)
    x = np.concatenate([made["x"], made["x_test"]]).astype(np.float32)[:, None, :]
    return x, np.concatenate([made["y"], made["y_test"]]).astype(np.int64), len(made["x"])


def load(source: Source) -> Task:
    """Load the packaged task `mnist1d`, or one of its variants."""
    x, target, n_train = _mnist1d()
    found = RawDataset("mnist1d", x, target, "the task 'mnist1d'", "series", given={"test": np.arange(n_train, len(x))})
    return make_task(found, source)
