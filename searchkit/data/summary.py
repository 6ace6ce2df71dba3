"""What was found in the data: counts, shapes, missing values, duplicates; as plain JSON, and in words for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from searchkit.core import batching
from searchkit.core.data_spec import TensorSpec
from searchkit.core.serialization import JSON, freeze
from searchkit.data.dataset import Dataset
from searchkit.data.problems import problems


def summarize(data: Dataset, ports: tuple[TensorSpec, ...], *, examples: Dataset | None = None) -> dict[str, JSON]:
    """Count what is in the data.

    Args:
        data: Checked and split.
        ports: Of the raw inputs.
        examples: The same data with one row an example, if `data` keeps them otherwise.

    Returns:
        Plain JSON, kept in run.json; `describe` puts it into words.
    """
    repeated, shared = duplicates(examples or data, ports)
    x = data.inputs[data.main]
    missing = int(np.isnan(x).sum()) if x.dtype.kind == "f" else 0
    return {
        "task": data.name,
        "source": data.where,
        "modality": data.modality,
        "kind": data.kind,
        "rows": {split: len(rows) for split, rows in data.rows.items()},
        "inputs": [freeze(port) for port in ports],
        "classes": _class_counts(data),
        "targets": list(data.targets),
        "noise": data.noise,
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


def duplicates(data: Dataset, ports: tuple[TensorSpec, ...]) -> tuple[int, int]:
    """Count rows whose inputs occur more than once. Targets are not compared.

    Returns:
        The rows that repeat an earlier row of their split, and the test rows that are in train or val too.
    """
    keys = batching.keys(ports, data.inputs)
    seen = {split: {keys[row] for row in rows} for split, rows in data.rows.items()}
    repeated = sum(len(rows) - len(seen[split]) for split, rows in data.rows.items())
    known = seen["train"] | seen["val"]
    return repeated, sum(keys[row] in known for row in data.rows["test"])


MAX_NAMED = 12  # columns and classes; a screen has lines enough for so many


def describe(summary: Mapping[str, JSON]) -> dict[str, str]:
    """Put a summary into words: what is shown before training, a line each, in order."""
    rows, classes, targets = summary["rows"], summary["classes"], summary["targets"]
    parts = ", ".join(f"{split} {count:,}" for split, count in rows.items())
    kind: str = summary["kind"]
    known = problems().get(kind)
    predicts = kind if known is None else known.predicts.format(n=len(classes))
    named = [f"{label} ({count:,})" for label, count in classes.items()] or list(targets)
    missing = [f"{column} ({count:,})" for column, count in summary["missing_by_column"].items()]
    told = {
        "data": f"{summary['source']}, {summary['modality']}",
        "rows": f"{sum(rows.values()):,}: {parts} (split seed {summary['split_seed']})",
        "input": "; ".join(_shape(port) for port in summary["inputs"]),
        "columns": "; ".join(_columns(summary["columns"], kind) for kind in ("numeric", "categorical")).strip("; "),
        "predicts": predicts + (f": {_some(named)}" if named else ""),
        "metric": summary["goal"].replace("_", " "),
        "noise": summary.get("noise", ""),
        "missing": _count(summary["missing"], "value") + (f": {_some(missing)}" if missing else ""),
        "duplicates": _count(summary["duplicates"], "row") + " within a split",
        "overlap": _count(summary["in_train_and_test"], "row") + " of test also in train or val",
        "fingerprint": str(summary["fingerprint"]),
    } | summary.get("told", {})
    return {what: words for what, words in told.items() if words}


def _shape(port: Mapping[str, JSON]) -> str:
    sizes = " × ".join("any number" if size is None else f"{size:,}" for size in port["shape"]) or "1"
    counted = f", as many as {port['counted_by']}" if port.get("counted_by") else ""
    return f"{port['name']}, {sizes} of {port['dtype']}{counted}" + ("" if port.get("batched", True) else ", shared")


def _columns(columns: Sequence[Mapping[str, JSON]], kind: str) -> str:
    names = [
        column["name"] + (f" ({len(column['categories'])})" if column["categories"] else "")
        for column in columns
        if column["kind"] == kind
    ]
    return f"{len(names)} {kind}: {_some(names)}" if names else ""


def _some(names: Sequence[str]) -> str:
    rest = len(names) - MAX_NAMED
    return ", ".join(names[:MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")


def _class_counts(data: Dataset) -> dict[str, int]:
    if data.target is None or not data.labels:
        return {}
    counts = data.target.sum(axis=0) if data.target.ndim == 2 else np.bincount(data.target, minlength=len(data.labels))
    return {label: int(count) for label, count in zip(data.labels, counts, strict=True)}
