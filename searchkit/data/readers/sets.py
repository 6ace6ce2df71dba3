"""Read two unpaired sets of images from one archive, for image translation.

The arrays are a and b, or a_train, b_train, a_test and b_test, optionally with a_val and b_val. No image of one set
belongs to an image of the other.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from searchkit.core.data_spec import Arrays
from searchkit.core.errors import BadInput
from searchkit.data.dataset import RawDataset

LAYOUT = "two sets of pictures: a and b, or a_train, b_train, a_test and b_test, and optionally a_val and b_val"


def sets_of(path: Path, arrays: Arrays) -> RawDataset:
    """Stack the images of both sets, split by split; the target tells the sets apart.

    Raises:
        BadInput: An array is missing, or images differ in shape or type.
    """
    splits = [""] if {"a", "b"} & set(arrays) else [s for s in ("_train", "_val", "_test") if f"a{s}" in arrays]
    wanted = [f"{name}{split}" for split in splits for name in ("a", "b")]
    missing = [name for name in wanted if name not in arrays]
    if missing or set(arrays) != set(wanted) or splits[0] not in ("", "_train"):
        held = ", ".join(sorted(arrays))
        lacks = f" and lacks '{missing[0]}'" if missing else ""
        raise BadInput(f"The archive '{path}' holds {held}{lacks}; it must hold {LAYOUT}.")
    parts = [arrays[name] for name in wanted]
    for name, part in zip(wanted, parts, strict=True):
        if part.shape[1:] != parts[0].shape[1:]:
            raise BadInput(
                f"'{name}' of '{path}' has pictures of shape {part.shape[1:]} and '{wanted[0]}' of "
                f"{parts[0].shape[1:]}; both sets must be of one shape, so resize them."
            )
        if part.dtype.kind not in "biuf":
            raise BadInput(f"'{name}' of '{path}' is of type {part.dtype}; pictures are numbers.")
    # parts are a, b, a, b, …: every second end closes a split, and the last of them is the end of all.
    ends = np.cumsum([len(part) for part in parts])
    rows = dict(zip(splits, np.split(np.arange(ends[-1]), ends[1::2][:-1]), strict=True))
    return RawDataset(
        name=path.stem,
        x=np.concatenate(parts),
        target=np.concatenate([np.full(len(part), k % 2, np.int64) for k, part in enumerate(parts)]),
        where=f"'{path}'",
        modality="image",
        given={split[1:]: chosen for split, chosen in rows.items() if split in ("_val", "_test")},
        labels=("a", "b"),
        kind="restyling",
    )
