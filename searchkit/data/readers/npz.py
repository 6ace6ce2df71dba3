"""Read NumPy archives; pickled objects are refused.

An archive holds x and y, or x_train, y_train, x_test and y_test, optionally with x_val, y_val and lengths. One with
`edges` is a graph (`readers.graphs`), and one with a and b is two sets of images (`readers.sets`). The names of
MedMNIST (Yang et al. 2023), train_images and train_labels, stand for x_train and y_train. An archive with `shape` holds
x as bits, packed by `numpy.packbits` for each example.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from searchkit.core.data_spec import Arrays
from searchkit.core.errors import DAMAGED_ARRAYS, BadInput
from searchkit.data.dataset import RawDataset
from searchkit.data.readers.graphs import graphs_of
from searchkit.data.readers.sets import sets_of

LAYOUT = (
    "x and optionally y, or x_train, x_test and optionally y_train, y_test, x_val, y_val; lengths go with each x; "
    "or two sets of pictures, a and b"
)
ALIASES = {
    f"{split}_{theirs}": f"{ours}_{split}"
    for split in ("train", "val", "test")
    for theirs, ours in (("images", "x"), ("labels", "y"))
}


def read_npz(path: Path) -> RawDataset:
    """Read an archive.

    Raises:
        BadInput: The file is damaged, holds pickled objects, or lacks an array.
    """
    arrays = _read(path)
    if "edges" in arrays:
        return graphs_of(path, arrays)
    if not {"x", "x_train"} & set(arrays) and {"a", "b"} & {name.split("_")[0] for name in arrays}:
        return sets_of(path, arrays)
    arrays = {ALIASES.get(name, name): values for name, values in arrays.items()}
    packed_shape = arrays.pop("shape", None)
    known = {f"{part}{split}" for part in ("x", "y", "lengths") for split in ("", "_train", "_val", "_test")}
    unknown = sorted(set(arrays) - known)
    if ("x" in arrays) == ("x_train" in arrays) or unknown:
        held = ", ".join(sorted(arrays)) or "nothing"
        raise BadInput(f"The archive '{path}' holds {held}; it must hold {LAYOUT}.")
    splits = [""] if "x" in arrays else [f"_{split}" for split in ("train", "val", "test") if f"x_{split}" in arrays]
    for part in ("y", "lengths"):
        _require_complete(path, arrays, part, splits)
    given: dict[str, np.ndarray] = {}
    start = 0
    for split in splits:
        n = len(arrays[f"x{split}"])
        if split in ("_val", "_test"):
            given[split[1:]] = np.arange(start, start + n)
        start += n
    x = _join(path, arrays, "x", splits)
    return RawDataset(
        name=path.stem,
        x=x if packed_shape is None else _unpacked(path, x, packed_shape),
        target=_join(path, arrays, "y", splits) if f"y{splits[0]}" in arrays else None,
        lengths=_join(path, arrays, "lengths", splits) if f"lengths{splits[0]}" in arrays else None,
        where=f"'{path}'",
        given=given,
    )


def _read(path: Path) -> Arrays:
    try:
        with path.open("rb") as file:  # numpy leaves a file of its own open when the archive is damaged
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise BadInput(f"'{path}' is a single array and no .npz archive; use numpy.savez(path, x=x, y=y).")
            with archive:
                # numpy reads an array when it is asked for: damage shows here, and not when the archive is opened.
                arrays = {name.lower(): archive[name] for name in archive.files}
    # Before DAMAGED_ARRAYS, which holds ValueError too: numpy raises it for pickles as well as for damage.
    except ValueError as error:
        if "pickle" in str(error).lower():
            if not _begins(path, b"PK", b"\x93NUMPY", b"\x80"):  # numpy takes any other bytes for a pickle
                raise BadInput(
                    f"'{path}' is not an .npz archive; write one with numpy.savez(path, x=x, y=y)."
                ) from error
            raise BadInput(
                f"'{path}' holds pickled objects, which may run code and are never read; save plain arrays with "
                "numpy.savez."
            ) from error
        raise _corrupt(path, error) from error
    except DAMAGED_ARRAYS as error:
        if isinstance(error, PermissionError):
            raise
        raise _corrupt(path, error) from error
    for name, values in arrays.items():
        if not isinstance(values, np.ndarray):
            raise BadInput(f"'{path}' holds '{name}', which is no array; save plain arrays with numpy.savez.")
        if (values.ndim == 0 or len(values) == 0) and name != "edges":
            raise BadInput(f"'{name}' of '{path}' is empty or a single number; its first axis must be the examples.")
    return arrays


def _begins(path: Path, *starts: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(8).startswith(starts)


def _unpacked(path: Path, x: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Unpack bits, (n, bytes), to (n, *shape) uint8 of 0 and 1.

    Raises:
        BadInput: The bits do not fill the shape.
    """
    if shape.ndim != 1 or shape.dtype.kind not in "iu" or (shape < 1).any():
        raise BadInput(f"'shape' of '{path}' is {shape.tolist()}; it must be the whole sizes of one example's axes.")
    # −(−size // 8) rounds up: packbits fills the last byte of an example with zeros.
    size = math.prod(shape.tolist())
    if x.ndim != 2 or x.dtype != np.uint8 or x.shape[1] != -(-size // 8):
        raise BadInput(
            f"x of '{path}' has shape {x.shape} and type {x.dtype}, and its 'shape' {tuple(shape.tolist())} says "
            f"(n, {-(-size // 8)}) of uint8: the bits of numpy.packbits(x.reshape(n, -1), axis=1); pack it so, or "
            "leave shape out."
        )
    return np.unpackbits(x, axis=1, count=size).reshape(len(x), *shape.tolist())


def _corrupt(path: Path, error: Exception) -> BadInput:
    reason = str(error) or type(error).__name__
    return BadInput(f"'{path}' is not a complete .npz archive ({reason}); copy or save it again.")


def _require_complete(path: Path, arrays: Arrays, part: str, splits: list[str]) -> None:
    has = [f"{part}{split}" in arrays for split in splits]
    if any(has) and not all(has):
        missing = f"{part}{splits[has.index(False)]}"
        raise BadInput(f"The archive '{path}' lacks '{missing}'; give {part} for every x or for none.")
    stray = [name for name in arrays if name.split("_")[0] == part and name.removeprefix(part) not in splits]
    if stray:
        raise BadInput(f"The archive '{path}' holds '{stray[0]}' without its x; it must hold {LAYOUT}.")
    for split in splits:
        if any(has) and len(arrays[f"{part}{split}"]) != len(arrays[f"x{split}"]):
            raise BadInput(
                f"'{part}{split}' of '{path}' has {len(arrays[f'{part}{split}'])} rows and 'x{split}' has "
                f"{len(arrays[f'x{split}'])}; they must be equal."
            )


def _join(path: Path, arrays: Arrays, part: str, splits: list[str]) -> np.ndarray:
    parts = [arrays[f"{part}{split}"] for split in splits]
    for split, values in zip(splits, parts, strict=True):
        if values.shape[1:] != parts[0].shape[1:]:
            raise BadInput(
                f"'{part}{split}' of '{path}' has examples of shape {values.shape[1:]} and '{part}{splits[0]}' of "
                f"{parts[0].shape[1:]}; they must be equal."
            )
        # np.concatenate would turn the numbers into text.
        if (values.dtype.kind in "US") != (parts[0].dtype.kind in "US"):
            raise BadInput(
                f"'{part}{split}' of '{path}' is of type {values.dtype}, the others of {parts[0].dtype}; use one type."
            )
    return np.concatenate(parts)
