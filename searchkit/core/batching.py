"""How examples lie in the arrays of a network: how many there are, and some of them by themselves.

Three ways, said by each `TensorSpec`. One entry an example along `axis` (pictures, rows, series). As many as another
port counts, one example after the other (the nodes and edges of many graphs at once): whatever such an entry refers to
is numbered within its own example, so that to put examples together is to put their entries in a row. And not batched:
all examples share all of it (the graph that questions about its nodes are asked of). Everything that takes some
examples out of others is here; arrays and tensors alike.
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
    """How many examples there are; None where nothing tells, for no port has an entry an example. Raises BadInput where
    the ports disagree, or a counted one has not as many entries as its counts say.
    """
    found = {p.name: int(values[p.name].shape[p.axis]) for p in ports if p.batched and p.counted_by is None}
    if not found:
        return None
    if len(set(found.values())) > 1:
        raise BadInput(
            f"The inputs differ in their number of rows: {sorted(set(found.values()))}; give one row each an example."
        )
    for port in ports:
        if port.counted_by is not None:
            counts = _counts(values[port.counted_by])
            have, wanted = int(values[port.name].shape[port.axis]), int(counts.sum())
            if have != wanted or (counts < 0).any():
                raise BadInput(
                    f"'{port.name}' has {have:,} entries and '{port.counted_by}' counts {wanted:,}; give as many "
                    "entries as are counted, one example after the other."
                )
    return next(iter(found.values()))


def take(ports: Sequence[TensorSpec], values: Mapping[str, Values], rows: Rows) -> dict[str, Values]:
    """The examples `rows`, in that order, by port name: a slice gives views; indices, (n,) whole numbers, copies."""
    return {port.name: _take(port, values, rows) for port in ports}


def batches(ports: Sequence[TensorSpec], values: Mapping[str, Values], size: int) -> Iterator[dict[str, Values]]:
    """All examples, `size` at a time. One part where no port has an entry an example. Raises BadInput, as `count`."""
    n = count(ports, values)
    if n is None:
        yield {port.name: values[port.name] for port in ports}
        return
    for start in range(0, n, size):
        yield take(ports, values, slice(start, min(start + size, n)))


def fullest(ports: Sequence[TensorSpec], values: Mapping[str, np.ndarray], n: int) -> np.ndarray:
    """Indices, ascending, of n examples with the most entries of what is counted; of the first n where nothing is."""
    counters = sorted({port.counted_by for port in ports if port.counted_by is not None})
    if not counters:
        return np.arange(min(n, count(ports, values) or 0))
    most = np.minimum.reduce([values[name] for name in counters])
    return np.sort(np.argsort(-most, kind="stable")[:n])


def keys(ports: Sequence[TensorSpec], values: Mapping[str, np.ndarray]) -> list[bytes]:
    """The bytes of each example, for a look whether two are the same; what all share tells none from another."""
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
    """The `shape` of a port of which there is an array of shape `found`: of what all examples share, None is kept for
    the axes that vary in `port`; of what each has, the sizes are those found, for all examples here have them.
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
    """Where the entries of the examples `rows` are."""
    ends = np.cumsum(counts, dtype=np.int64)
    if isinstance(rows, slice):
        first, last, _ = rows.indices(len(counts))
        before = int(ends[first - 1]) if first else 0
        return slice(before, int(ends[last - 1]) if last > first else before)
    index = _counts(rows)
    if index.dtype == bool:
        index = np.flatnonzero(index)
    chosen = counts[index].astype(np.int64)
    offset = (ends - counts)[index] - (np.cumsum(chosen) - chosen)
    return np.repeat(offset, chosen) + np.arange(chosen.sum())
