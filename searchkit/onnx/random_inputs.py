"""Random inputs for an exported file of which only the file is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from searchkit.core.data_spec import Arrays
from searchkit.core.errors import BadInput
from searchkit.onnx.io import PAST, ports, session

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}


def draw_inputs(path: Path, *, seed: int | None = 0) -> Arrays:
    """Make one example of random inputs with the right shapes and types.

    Floats are normal, integers are 1, since they may be lengths, tokens or indices. Varying axes have length 1; 2 if
    another input counts them or all examples share them, so that index 1 exists; a cache is empty.

    Args:
        path: The file.
        seed: Seed of the random numbers; None for zeros.

    Raises:
        BadInput: If an input has a type that cannot be drawn.
    """
    rng = np.random.default_rng(seed)
    drawn = {}
    opened = session(path)
    taken = ports(opened)
    counters = {port.counted_by for port in taken}
    for value, port in zip(opened.get_inputs(), taken, strict=True):
        if value.type not in _DTYPES:
            raise BadInput(f"{path} takes '{value.name}' as {value.type}; inputs are drawn for {', '.join(_DTYPES)}.")
        varying = 1 if port.batched and port.counted_by is None else 2
        shape = tuple(size if isinstance(size, int) else 0 if size == PAST else varying for size in value.shape)
        dtype = np.dtype(_DTYPES[value.type])
        if dtype.kind != "f":
            drawn[value.name] = np.full(shape, 2 if port.name in counters else 1).astype(dtype)
        else:
            drawn[value.name] = (np.zeros(shape) if seed is None else rng.standard_normal(shape)).astype(dtype)
    return drawn
