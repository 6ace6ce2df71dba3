"""What was found in the data, as plain JSON to show before training: counts, shapes, missing values, duplicates."""

from __future__ import annotations

import numpy as np

from searchkit.types import JSON, Port, freeze

from .data import Data


def summarise(data: Data, ports: tuple[Port, ...]) -> dict[str, JSON]:
    repeated, shared = duplicates(data)
    x = data.inputs[data.main]
    missing = int(np.isnan(x).sum()) if x.dtype.kind == "f" else 0
    return {
        "task": data.name,
        "source": data.where,
        "modality": data.modality,
        "kind": data.kind,
        "rows": {split: len(rows) for split, rows in data.rows.items()},
        "inputs": [{"name": port.name, "shape": list(port.shape), "dtype": port.dtype} for port in ports],
        "classes": _class_counts(data),
        "targets": list(data.targets),
        "columns": [freeze(column) for column in data.columns],
        "missing": missing,
        "missing_by_column": {
            column.name: int(count)
            for column, count in zip(data.columns, np.isnan(x).sum(axis=0) if data.columns else (), strict=True)
            if count
        },
        "duplicates": repeated,
        "in_train_and_test": shared,
        "split_seed": data.split_seed,
    }


def duplicates(data: Data) -> tuple[int, int]:
    """Rows whose inputs repeat those of an earlier row of the same split, and test rows whose inputs stand in train or
    val too. Targets are not compared."""
    keys = [b"".join(parts) for parts in zip(*(_row_bytes(values) for values in data.inputs.values()), strict=True)]
    seen = {split: {keys[row] for row in rows} for split, rows in data.rows.items()}
    repeated = sum(len(rows) - len(seen[split]) for split, rows in data.rows.items())
    known = seen["train"] | seen["val"]
    return repeated, sum(keys[row] in known for row in data.rows["test"])


def _row_bytes(values: np.ndarray) -> list[bytes]:
    return [row.tobytes() for row in np.ascontiguousarray(values)]


def _class_counts(data: Data) -> dict[str, int]:
    if data.target is None or not data.labels:
        return {}
    counts = data.target.sum(axis=0) if data.target.ndim == 2 else np.bincount(data.target, minlength=len(data.labels))
    return {label: int(count) for label, count in zip(data.labels, counts, strict=True)}
