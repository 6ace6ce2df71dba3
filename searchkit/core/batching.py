"""How examples are laid out in arrays: count them, select some, or iterate over batches.

Each `TensorSpec` has one of three layouts:

- One entry per example along `axis`: images, table rows, series.
- A variable number of entries per example, given by another tensor, one example after the other: the nodes and edges of
  many graphs. Indices inside an example are relative to that example, so concatenating examples only concatenates their
  entries.
- Not batched: all examples share the tensor, e.g. the one graph that node classification is asked about.

All functions take numpy arrays and torch tensors alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from searchkit.core.data_spec import TensorSpec
from searchkit.core.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

Values = TypeVar("Values", np.ndarray, "Tensor")
Rows: TypeAlias = "slice | np.ndarray | Tensor"


def count(ports: Sequence[TensorSpec], values: Mapping[str, Any]) -> int | None:
    """Return the number of examples.

    Args:
        ports: Layouts of the tensors.
        values: The tensors, by name.

    Returns:
        The number of examples, or None if every tensor is shared by all examples.

    Raises:
        BadInput: If tensors disagree on the number of examples, or a counted tensor has another number of entries than
            its counts add up to.
    """
    found = {p.name: int(values[p.name].shape[p.axis]) for p in ports if p.batched and p.counted_by is None}
    if not found:
        return None
    if len(set(found.values())) > 1:
        raise BadInput(
            f"The inputs differ in their number of rows: {sorted(set(found.values()))}; give one row per example."
        )
    for port in ports:
        if port.counted_by is not None:
            counts = _counts(values[port.counted_by])
            have, wanted = int(values[port.name].shape[port.axis]), int(counts.sum())
            if have != wanted or (counts < 0).any():
                raise BadInput(
                    f"'{port.name}' has {have:,} entries and '{port.counted_by}' counts {wanted:,}; give as "
                    "many entries as are counted, one example after the other."
                )
    return next(iter(found.values()))


def take(ports: Sequence[TensorSpec], values: Mapping[str, Values], rows: Rows) -> dict[str, Values]:
    """Select examples from every tensor, in the given order.

    Args:
        ports: Layouts of the tensors.
        values: The tensors, by name.
        rows: A slice (gives views) or integer indices of shape (n,) (gives copies).

    Returns:
        The selected part of each tensor, by name; shared tensors are returned whole.
    """
    return {port.name: _take(port, values, rows) for port in ports}


def batches(ports: Sequence[TensorSpec], values: Mapping[str, Values], size: int) -> Iterator[dict[str, Values]]:
    """Iterate over all examples in batches.

    Args:
        ports: Layouts of the tensors.
        values: The tensors, by name.
        size: Examples per batch; the last batch may have fewer.

    Yields:
        One batch, by tensor name; everything at once if all examples share every tensor.

    Raises:
        BadInput: If `count` refuses the tensors.
    """
    n = count(ports, values)
    if n is None:
        yield {port.name: values[port.name] for port in ports}
        return
    for start in range(0, n, size):
        yield take(ports, values, slice(start, min(start + size, n)))


def fullest(ports: Sequence[TensorSpec], values: Mapping[str, np.ndarray], n: int) -> np.ndarray:
    """Return the indices of the examples with the most entries, e.g. the largest graphs.

    Args:
        ports: Layouts of the tensors.
        values: The tensors, by name.
        n: How many examples to return.

    Returns:
        Indices in ascending order; the first n examples if nothing is counted.
    """
    counters = sorted({port.counted_by for port in ports if port.counted_by is not None})
    if not counters:
        return np.arange(min(n, count(ports, values) or 0))
    most = np.minimum.reduce([values[name] for name in counters])
    return np.sort(np.argsort(-most, kind="stable")[:n])


def keys(ports: Sequence[TensorSpec], values: Mapping[str, np.ndarray]) -> list[bytes]:
    """Return one byte string per example, equal for equal examples; used to find duplicates."""
    columns = []
    for port in ports:
        array = values[port.name]
        if not port.batched:
            continue
        if port.counted_by is None:
            parts = list(np.moveaxis(array, port.axis, 0))
        else:
            parts = np.split(array, np.cumsum(values[port.counted_by])[:-1], axis=port.axis)
        columns.append([part.tobytes() for part in parts])
    return [b"".join(key) for key in zip(*columns, strict=True)]


def sizes(port: TensorSpec, found: tuple[int, ...]) -> tuple[int | None, ...]:
    """Return the `shape` of a tensor spec as it is in a given array.

    Args:
        port: The spec; its `shape` has None for axes that vary.
        found: Shape of the array.

    Returns:
        For a batched tensor the sizes found, since every example in the array has them. For a shared tensor, axes that
        vary stay None.
    """
    if port.batched:
        return found[: port.axis] + found[port.axis + 1 :]
    if len(found) != len(port.shape):
        return found
    return tuple(None if size is None else now for size, now in zip(port.shape, found, strict=True))


def _take(port: TensorSpec, values: Mapping[str, Values], rows: Rows) -> Values:
    array = values[port.name]
    if not port.batched:
        return array
    if port.counted_by is not None:
        rows = _entries(_counts(values[port.counted_by]), rows)
    if isinstance(rows, np.ndarray) and not isinstance(array, np.ndarray):
        import torch

        rows = torch.from_numpy(rows).to(array.device)
    taken: Values = array[(slice(None),) * port.axis + (rows,)]
    return taken


def _counts(counts: Any) -> np.ndarray:
    return counts if isinstance(counts, np.ndarray) else np.asarray(counts.cpu().numpy())


def _entries(counts: np.ndarray, rows: Rows) -> slice | np.ndarray:
    """The positions of the entries of the examples `rows`."""
    ends = np.cumsum(counts, dtype=np.int64)
    # Neighboring examples are one run of entries: a slice keeps this a view, and it is what batching asks for.
    if isinstance(rows, slice):
        first, last, _ = rows.indices(len(counts))
        before = int(ends[first - 1]) if first else 0
        return slice(before, int(ends[last - 1]) if last > first else before)
    index = _counts(rows)
    if index.dtype == bool:
        index = np.flatnonzero(index)
    chosen = counts[index].astype(np.int64)
    # Each chosen example has a run of entries in the array and one in the result: offset is the start of the former
    # less that of the latter, so a position in the result plus the offset is the position in the array.
    offset = (ends - counts)[index] - (np.cumsum(chosen) - chosen)
    return np.repeat(offset, chosen) + np.arange(chosen.sum())
