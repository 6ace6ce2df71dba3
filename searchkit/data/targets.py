"""What is to be predicted of each example, as `Dataset` stores it: numbers, classes or labels out of what was found.

Each reader takes what was found and the problem's name, and refuses with one sentence what does not suit it.
"""

from __future__ import annotations

import numpy as np

from searchkit.core.errors import BadInput
from searchkit.data.dataset import Dataset, RawDataset, Target
from searchkit.data.source import Source
from searchkit.data.splits import quantile_strata


def given_target(found: RawDataset, kind: str) -> np.ndarray:
    """The target as it was found, one row an example: (n,) or (n, n_targets).

    Raises:
        BadInput: there is none, it has another shape or length, or a value is not finite.
    """
    target, where = found.target, found.where
    if target is None:
        raise BadInput(f"{where} has no target, which {kind} needs; add y, or ask for --problem reconstruction.")
    if len(target) != len(found.x):
        raise BadInput(
            f"{where} has {len(found.x)} examples and {len(target)} targets; give one target for each example."
        )
    if target.ndim > 2:
        raise BadInput(f"The target of {where} has shape {target.shape}; it must be (n,) or (n, n_targets).")
    if target.dtype.kind == "f" and not np.isfinite(target).all():
        bad = np.flatnonzero(~np.isfinite(target).reshape(len(target), -1).all(axis=1))
        raise BadInput(
            f"The target of {where} is not a finite number in {count_rows(len(bad))}, the first of them row {bad[0]}; "
            "remove those rows or fill in the value."
        )
    return target


def read_values(found: RawDataset, kind: str) -> Target:
    """Read numbers: (n, n_targets) float32.

    Raises:
        BadInput: a value is no number or too large, or all are the same.
    """
    target = given_target(found, kind)
    if target.dtype.kind not in "biuf":
        word = next(str(value) for value in target.reshape(-1) if not is_number(value))
        raise BadInput(
            f"The target of {found.where} holds the text '{word}', and regression needs numbers; "
            "choose another target or --problem classification."
        )
    with np.errstate(over="ignore"):
        values = target.reshape(len(target), -1).astype(np.float32)
    if not np.isfinite(values).all():
        raise BadInput(
            f"The target of {found.where} holds {np.abs(target).max():g}, too large for float32; choose a smaller unit."
        )
    if (values == values[0]).all():
        raise BadInput(f"The target of {found.where} is {values[0, 0]:g} in every row; there is nothing to learn.")
    return Target(values, strata=quantile_strata(values[:, 0], given=found.given))


def read_labels(found: RawDataset, kind: str) -> Target:
    """Read labels, any number of them an example: (n, n_labels) float32 of 0 and 1, and their names.

    Raises:
        BadInput: the target has another shape or other values.
    """
    target = given_target(found, kind)
    if target.ndim != 2 or not is_binary(target):
        raise BadInput(
            f"The target of {found.where} has shape {target.shape} and type {target.dtype}; multilabel needs (n, "
            "n_labels) of 0 and 1."
        )
    return Target(target.astype(np.float32), found.labels or tuple(str(k) for k in range(target.shape[1])))


def read_classes(found: RawDataset, kind: str) -> Target:
    """Read classes: (n,) int64 indices, and their names.

    Raises:
        BadInput: there is one class only, or almost as many as rows, or a value is a fraction.
    """
    target = given_target(found, kind)
    if target.ndim == 2 and target.shape[1] > 1:
        if not is_binary(target) or not (target.sum(axis=1) == 1).all():
            raise BadInput(
                f"The target of {found.where} has shape {target.shape}; classification needs (n,) class values, or "
                "one-hot rows."
            )
        target = target.argmax(axis=1)
    target = target.reshape(-1)
    if target.dtype.kind == "f" and (target != np.round(target)).any():
        value = target[target != np.round(target)][0]
        raise BadInput(f"The target of {found.where} holds {value:g}, which is no class; choose --problem regression.")
    if target.dtype.kind == "f":
        target = target.astype(np.int64)
    if target.dtype.kind == "S":
        target = np.char.decode(target, "utf-8", "replace")  # str() of bytes would name a class b'cat'
    classes, codes = np.unique(target, return_inverse=True)
    if len(classes) < 2:
        raise BadInput(
            f"The target of {found.where} has one class, '{classes[0]}', in every row; at least 2 are needed."
        )
    if len(classes) > max(2, len(target) // 2):
        raise BadInput(
            f"The target of {found.where} has {len(classes)} different values in {count_rows(len(target))}, too "
            "many for classes; choose another target, or --problem regression if it is a quantity."
        )
    # With names, the target holds indices into them; codes would close the gap of a class without any row.
    indices = (target if found.labels else codes).astype(np.int64)
    return Target(indices, found.labels or tuple(str(value) for value in classes), strata=indices)


def require_known(data: Dataset, found: RawDataset, source: Source) -> Dataset:
    """Check that train has every class of val and test, and two at least; the data stay as they are.

    Raises:
        BadInput: a class is missing.
    """
    assert data.target is not None
    target, labels, rows = data.target, data.labels, data.rows
    trained = np.unique(target[rows["train"]])
    for split in ("val", "test"):
        absent = np.setdiff1d(target[rows[split]], trained)
        if len(absent):
            known = ", ".join(labels[k] for k in trained[:10])
            raise BadInput(
                f"Class '{labels[absent[0]]}' of {found.where} is in {split} and not in train (train has {known}); "
                "add examples of it to train or remove it."
            )
    if len(trained) < 2:
        raise BadInput(
            f"The train split of {found.where} has one class, '{labels[trained[0]]}'; at least 2 are needed."
        )
    return data


def is_binary(target: np.ndarray) -> bool:
    """Whether all numbers are 0 or 1; False for words."""
    return target.dtype.kind in "biuf" and bool(np.isin(target, (0, 1)).all())


def is_number(value: object) -> bool:
    """Whether a value reads as a number, also if it is text."""
    try:
        float(str(value))
    except ValueError:
        return False
    return True


def count_rows(n: int) -> str:
    """Say how many rows there are: "1 row", "1,797 rows"."""
    return "1 row" if n == 1 else f"{n:,} rows"
