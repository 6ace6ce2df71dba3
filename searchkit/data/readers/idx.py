"""Read a folder of idx files, the format of MNIST (LeCun, Cortes & Burges).

The files are named train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-… and t10k-labels-…, with or without
.gz. An idx file holds two zero bytes, a type code, the number of axes, the length of each axis as a big-endian 32-bit
number, and the values.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from searchkit.core.errors import BadInput
from searchkit.data.dataset import RawDataset

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
TYPE_WORDS = ("ubyte", "byte", "short", "int", "float", "double")
PARTS = {"train": ("train",), "val": ("val",), "test": ("t10k", "test")}


def is_idx(folder: Path) -> bool:
    """Whether the folder holds files that are named as idx files."""
    return any(_is_idx_name(file.name) for file in folder.iterdir())


def _is_idx_name(name: str) -> bool:
    stem = name.lower().removesuffix(".gz")
    # Both are in use: train-images-idx3-ubyte and train-images.idx3-ubyte.
    return stem.endswith(".idx") or ("idx" in stem and stem.rpartition("-")[2] in TYPE_WORDS)


def read_idx_folder(folder: Path) -> RawDataset:
    """Read images and labels, and the test split if its files are there.

    Raises:
        BadInput: A file is missing or damaged, or images and labels differ in number.
    """
    files = sorted(file for file in folder.iterdir() if _is_idx_name(file.name))
    images: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    given: dict[str, np.ndarray] = {}
    start = 0
    for split, prefixes in PARTS.items():
        found_images = _one(folder, files, prefixes, "images")
        if found_images is None:
            continue
        found_labels = _one(folder, files, prefixes, "labels")
        if found_labels is None:
            raise BadInput(f"The folder '{folder}' has '{found_images.name}' and no file of its labels; add it.")
        x, y = read_idx(found_images), read_idx(found_labels)
        _require_pair(found_images, x, found_labels, y)
        images.append(x)
        labels.append(y)
        if split != "train":
            given[split] = np.arange(start, start + len(x))
        start += len(x)
    if not images or len(given) == len(images):
        held = ", ".join(file.name for file in files)
        raise BadInput(
            f"The folder '{folder}' has no idx file of training images (it has {held}); name it "
            "train-images-idx3-ubyte."
        )
    shapes = {x.shape[1:] for x in images}
    if len(shapes) > 1:
        raise BadInput(
            f"The idx files in '{folder}' hold examples of shapes {' and '.join(map(str, sorted(shapes)))}; use one "
            "shape."
        )
    return RawDataset(
        name=folder.resolve().name,
        x=np.concatenate(images),
        target=np.concatenate(labels),
        where=f"'{folder}'",
        given=given,
    )


def _one(folder: Path, files: list[Path], prefixes: tuple[str, ...], what: str) -> Path | None:
    fitting = [file for file in files if file.name.lower().startswith(prefixes) and what in file.name.lower()]
    if len(fitting) > 1:
        names = " and ".join(file.name for file in fitting)
        raise BadInput(f"The folder '{folder}' has more than one file of {what} ({names}); keep one.")
    return fitting[0] if fitting else None


def _require_pair(images: Path, x: np.ndarray, labels: Path, y: np.ndarray) -> None:
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise BadInput(f"'{labels}' has shape {y.shape} and type {y.dtype}; labels are a list of whole numbers.")
    if x.ndim < 2:
        raise BadInput(f"'{images}' has shape {x.shape}; images have at least 2 axes.")
    if len(x) != len(y):
        raise BadInput(f"'{images}' has {len(x)} images and '{labels}' has {len(y)} labels; they must be equal.")


def read_idx(path: Path) -> np.ndarray:
    """Read the array of one idx file, gzipped or not, in native byte order.

    Raises:
        BadInput: The file is not a complete idx file.
    """
    try:
        blob = gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadInput(f"'{path}' is not a complete gzip file ({error}); copy it again.") from error
    if len(blob) < 4 or blob[:2] != b"\0\0" or blob[2] not in TYPES or blob[3] == 0:
        raise BadInput(
            f"'{path}' begins with the bytes {blob[:4].hex(' ') or '(none)'}, which is no idx file; copy it again."
        )
    dtype, axes = np.dtype(TYPES[blob[2]]), blob[3]
    header = 4 + 4 * axes
    if len(blob) < header:
        raise BadInput(f"'{path}' ends inside its header, after {len(blob)} of {header} bytes; copy it again.")
    shape = struct.unpack(f">{axes}I", blob[4:header])
    wanted = header + math.prod(shape) * dtype.itemsize
    if len(blob) != wanted:
        raise BadInput(
            f"'{path}' has {len(blob)} bytes, and its header of shape {shape} asks for {wanted}; it is cut or damaged, "
            "copy it again."
        )
    if 0 in shape:
        raise BadInput(f"'{path}' has shape {shape}: it holds no examples; copy it again.")
    # frombuffer gives a read-only view; the copy is in the machine's own byte order, and torch takes no other.
    return np.frombuffer(blob, dtype, offset=header).reshape(shape).astype(dtype.newbyteorder("="))
