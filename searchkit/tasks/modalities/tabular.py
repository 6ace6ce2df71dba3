"""Tables: one vector of raw numbers, in which a category is its code and a missing value is NaN.

The preprocessor does what a data scientist does before a network, and is part of the exported graph: the training
median and a flag replace missing values, numbers are standardized, categories are one-hot. A category that no training
row has becomes all zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Generator, Tensor, nn

from searchkit.core.data_spec import Arrays, TensorSpec
from searchkit.core.errors import BadInput
from searchkit.core.task import Task
from searchkit.data.dataset import Column, Dataset, RawDataset
from searchkit.data.source import Source
from searchkit.tasks.prepare import make_task

EMBEDDED = {
    "breast-cancer": "malignant or benign from 30 measurements of 569 tumors (scikit-learn)",
    "diabetes": "progression after a year from 10 measurements of 442 patients, a regression (scikit-learn)",
    "iris": "3 species from 4 measurements of 150 flowers (scikit-learn)",
    "wine": "3 cultivars from 13 measurements of 178 wines (scikit-learn)",
}

MAX_CATEGORIES = 100  # of a column get an input of their own, the most frequent in train


class EncodeTable(nn.Module):
    """Encode raw features, (B, n_columns), as (B, n_inputs) float32: scaled numbers, missing flags, one-hot codes.

    It uses comparisons alone, so that every ONNX runtime can do it.

    Args:
        numeric: Indices of numeric columns.
        flagged: Indices of columns that get a flag for missing values.
        pairs: The (column, code) of each one-hot input.
        statistics: Median, mean and deviation of each numeric column.
    """

    numeric: Tensor
    flagged: Tensor
    column: Tensor
    code: Tensor
    median: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self, numeric: list[int], flagged: list[int], pairs: list[tuple[int, int]], statistics: tuple[np.ndarray, ...]
    ) -> None:
        super().__init__()
        self.register_buffer("numeric", torch.tensor(numeric, dtype=torch.int64))
        self.register_buffer("flagged", torch.tensor(flagged, dtype=torch.int64))
        self.register_buffer("column", torch.tensor([column for column, _ in pairs], dtype=torch.int64))
        self.register_buffer("code", torch.tensor([code for _, code in pairs], dtype=torch.float32))
        for name, values in zip(("median", "mean", "std"), statistics, strict=True):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))
        self.is_plain = not flagged and not pairs

    def forward(self, features: Tensor) -> Tensor:
        """Encode a batch."""
        features = features.to(torch.float32)
        numbers = features if self.is_plain else features.index_select(1, self.numeric)
        # In a plain table too: val and test may lack values in columns that are complete in train.
        numbers = (torch.where(torch.isnan(numbers), self.median, numbers) - self.mean) / self.std
        if self.is_plain:
            return numbers
        missing = torch.isnan(features.index_select(1, self.flagged)).to(torch.float32)
        # NaN equals no code, so a missing category is all zeros.
        hot = (features.index_select(1, self.column) == self.code).to(torch.float32)
        return torch.cat([part for part in (numbers, missing, hot) if part.shape[1]], 1)


class DecodeTable(nn.Module):
    """The inverse of `EncodeTable` for numeric columns without missing values."""

    mean: Tensor
    std: Tensor

    def __init__(self, encode: EncodeTable) -> None:
        super().__init__()
        self.register_buffer("mean", encode.mean.clone())
        self.register_buffer("std", encode.std.clone())

    def forward(self, features: Tensor) -> Tensor:
        """(B, n_columns) scaled numbers to raw numbers."""
        return features * self.std + self.mean


def _statistics(train: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Median, mean and deviation of the columns of (n, d), with missing values filled by the median.

    A column without any value has median 0, and a constant one has deviation 1.
    """
    median = np.zeros(train.shape[1])
    has_values = ~np.isnan(train).all(axis=0)
    # nanmedian warns about a column without any value.
    median[has_values] = np.nanmedian(train[:, has_values], axis=0)
    filled = np.where(np.isnan(train), median, train)
    mean, std = filled.mean(axis=0), filled.std(axis=0)
    return median, mean, np.where(std > 1e-12 * np.maximum(1.0, np.abs(mean)), std, 1.0)


@dataclass(frozen=True)
class Tabular:
    """The modality of tables; it has no augmentations."""

    augmentations: Mapping[str, Callable[[Tensor, Generator], Tensor]] = field(default_factory=dict)
    corrupts: frozenset[str] = frozenset()
    form = "tabular"

    def arrange(self, found: RawDataset) -> Arrays:
        """Check the raw table: (n, n_columns) float32, NaN if missing.

        Raises:
            BadInput: A value is infinite or no number, or all are missing.
        """
        x = found.x
        if x.ndim != 2 or 0 in x.shape:
            raise BadInput(f"x of {found.where} has shape {x.shape}; tabular data are (n, features).")
        if x.dtype.kind not in "biuf":
            raise BadInput(f"x of {found.where} is of type {x.dtype}; tabular data are numbers, NaN if missing.")
        # What is too large for float32 becomes inf, which is refused below; numpy would only warn of it.
        with np.errstate(over="ignore"):
            features = x.astype(np.float32)
        if np.isnan(features).all():
            raise BadInput(f"Every value of {found.where} is missing (NaN); give at least one column with values.")
        endless = np.argwhere(np.isinf(features))
        if len(endless):
            row, column = endless[0]
            name = found.columns[column].name if found.columns else str(column)
            raise BadInput(
                f"Column '{name}' of {found.where} is {x[row, column]} in row {row}; a value must be finite in "
                "float32, or missing."
            )
        return {"features": features}

    def ports(self, data: Dataset) -> tuple[TensorSpec, ...]:
        """The raw input "features"."""
        return (TensorSpec("features", data.inputs["features"].shape[1:], "float32"),)

    def preprocessor(self, data: Dataset) -> EncodeTable:
        """Encoding with the statistics and the categories of train."""
        train = data.of("train")["features"]
        kinds = [column.kind for column in data.columns] or ["numeric"] * train.shape[1]
        numeric = [k for k, kind in enumerate(kinds) if kind == "numeric"]
        flagged = [int(k) for k in np.flatnonzero(np.isnan(train).any(axis=0))]
        pairs = [
            (k, code) for k, kind in enumerate(kinds) if kind == "categorical" for code in _frequent_codes(train[:, k])
        ]
        return EncodeTable(numeric, flagged, pairs, _statistics(train[:, numeric].astype(np.float64)))

    def restore(self, data: Dataset, preprocessor: nn.Module) -> nn.Module:
        """The inverse of the preprocessor.

        Raises:
            BadInput: The table has categories or missing values.
        """
        assert isinstance(preprocessor, EncodeTable)
        if not preprocessor.is_plain:
            raise BadInput(
                f"{data.where} has categories or missing values, which cannot be reconstructed by squared error; "
                "keep complete numeric columns, or give a target."
            )
        return DecodeTable(preprocessor)

    def vocabulary(self, data: Dataset) -> int:
        """0: the inputs are no tokens."""
        return 0


def _frequent_codes(values: np.ndarray) -> list[int]:
    """The most frequent codes in a column, at most MAX_CATEGORIES, in ascending order."""
    codes, counts = np.unique(values[~np.isnan(values)], return_counts=True)
    return sorted(int(code) for code in codes[np.argsort(-counts, kind="stable")][:MAX_CATEGORIES])


MODALITIES = {"tabular": Tabular()}


def load(source: Source) -> Task:
    """Load a packaged table of scikit-learn."""
    from sklearn import datasets

    assert source.task is not None
    loaders = {
        "breast-cancer": datasets.load_breast_cancer,
        "diabetes": datasets.load_diabetes,
        "iris": datasets.load_iris,
        "wine": datasets.load_wine,
    }
    # By default scikit-learn scales this one by the statistics of all rows, those of test included.
    options = {"scaled": False} if source.task == "diabetes" else {}
    bunch = loaders[source.task](**options)
    is_quantity = source.task == "diabetes"
    found = RawDataset(
        name=source.task,
        x=bunch.data,
        target=bunch.target.astype(np.float64 if is_quantity else np.int64),
        where=f"the task '{source.task}'",
        modality="tabular",
        columns=tuple(Column(str(name), "numeric") for name in bunch.feature_names),
        labels=() if is_quantity else tuple(str(name) for name in bunch.target_names),
        targets=("progression",) if is_quantity else (),
    )
    return make_task(found, source)
