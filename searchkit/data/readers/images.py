"""Read a folder of images, one subfolder a class, optionally inside train/, val/ and test/.

PNG, JPEG and BMP; all images have one size.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from searchkit.core.errors import BadInput
from searchkit.data.dataset import RawDataset

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP"}
SPLITS = ("train", "val", "test")
GRAY = ("1", "L")
# What Pillow raises on a file that is cut or changed; it names no error of its own for most of them.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
COLOR = ("P", "RGB", "RGBA", "LA", "CMYK", "YCbCr")


def read_image_folder(folder: Path) -> RawDataset:
    """Read all images: (n, H, W) uint8 if all are gray, else (n, H, W, 3) RGB.

    Raises:
        BadInput: There is no class folder, a file is damaged, or sizes differ.
    """
    tops = _folders(folder)
    splits = [split for split in SPLITS if folder / split in tops]
    # Only if every folder is named as a split: train may also be a class, beside car and bus.
    if "train" in splits and len(splits) == len(tops):
        parts = {split: _files_by_class(folder / split) for split in splits}
    else:
        parts = {"train": _files_by_class(folder)}
    classes = sorted(parts["train"])
    files: list[Path] = []
    target: list[int] = []
    given: dict[str, np.ndarray] = {}
    for split, by_class in parts.items():
        absent = sorted(set(by_class) - set(classes))
        if absent:
            raise BadInput(
                f"Class '{absent[0]}' of '{folder}' is in {split} and not in train (train has "
                f"{', '.join(classes[:10])}); "
                "add it to train or remove it."
            )
        start = len(files)
        for name, members in by_class.items():
            files += members
            target += [classes.index(name)] * len(members)
        if split != "train":
            given[split] = np.arange(start, len(files))
    return RawDataset(
        name=folder.resolve().name,
        x=_read_all(files),
        target=np.array(target, dtype=np.int64),
        where=f"'{folder}'",
        modality="image",
        given=given,
        labels=tuple(classes),
    )


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in _visible(folder) if entry.is_dir()]


def _files_by_class(folder: Path) -> dict[str, list[Path]]:
    loose = [entry for entry in _visible(folder) if not entry.is_dir()]
    if loose:
        raise BadInput(
            f"'{loose[0]}' lies beside the class folders; move it into the folder of its class or take it away."
        )
    by_class: dict[str, list[Path]] = {}
    for sub in _folders(folder):
        members = _visible(sub)
        for file in members:
            if file.is_dir() or file.suffix.lower() not in FORMATS:
                raise BadInput(
                    f"'{file}' is no image; a class folder holds {', '.join(FORMATS)} files, so take it away."
                )
        if not members:
            raise BadInput(f"The class folder '{sub}' is empty; put images of the class in it or take it away.")
        by_class[sub.name] = members
    if not by_class:
        raise BadInput(f"The folder '{folder}' is empty; it must have one subfolder of images per class.")
    if len(by_class) < 2:
        raise BadInput(
            f"The folder '{folder}' has one class, '{next(iter(by_class))}'; at least 2 subfolders are needed."
        )
    return by_class


def _read_all(files: list[Path]) -> np.ndarray:
    pictures = [_read(file) for file in files]
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape[:2] != pictures[0].shape[:2]:
            raise BadInput(
                f"'{file}' is {picture.shape[1]}x{picture.shape[0]} and '{files[0]}' is "
                f"{pictures[0].shape[1]}x{pictures[0].shape[0]}; images must be of one size, so resize them."
            )
    if any(picture.ndim == 3 for picture in pictures):
        # A gray picture among colored ones: (H, W) to (H, W, 3).
        pictures = [p if p.ndim == 3 else np.repeat(p[:, :, None], 3, axis=2) for p in pictures]
    return np.stack(pictures)


def _read(file: Path) -> np.ndarray:
    """Decode one image to (H, W) or (H, W, 3) uint8."""
    try:
        with Image.open(file, formats=[FORMATS[file.suffix.lower()]]) as image:
            image.load()  # open reads the header alone: a file that is cut shows here
            if image.mode not in GRAY + COLOR:
                raise BadInput(
                    f"'{file}' is an image of mode {image.mode}; 8-bit gray and RGB can be read, so convert it."
                )
            return np.asarray(image.convert("L" if image.mode in GRAY else "RGB"))
    # Both before DAMAGED, which holds their base class OSError. `find` says that a file may not be read.
    except PermissionError:
        raise
    except UnidentifiedImageError as error:
        raise BadInput(
            f"'{file}' is no {FORMATS[file.suffix.lower()]} image in spite of its name; replace it."
        ) from error
    except DAMAGED as error:
        raise BadInput(f"'{file}' is a damaged image ({error}); copy it again or take it away.") from error
