"""Bad idx files and folders of images get one sentence each."""

import gzip
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_data import Case, Source, Y, check_refused, registered_in
from PIL import Image

CASES: list[Any] = []
refused = registered_in(CASES)


# ── idx files ────────────────────────────────────────────────────────────────────────────────────────────────────────

IMAGES = np.arange(40 * 5 * 5, dtype=np.uint8).reshape(40, 5, 5)


def idx(values: np.ndarray) -> bytes:
    return bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def idx_folder(folder: Path, images: bytes, labels: bytes, suffix: str = "") -> Source:
    (folder / f"train-images-idx3-ubyte{suffix}").write_bytes(images)
    (folder / f"train-labels-idx1-ubyte{suffix}").write_bytes(labels)
    return {"data": str(folder)}


LABELS = idx(Y.astype(np.uint8))


@refused("train-images-idx3-ubyte' has 516 bytes", "asks for 1016", "copy it again")
def truncated_idx(folder: Path) -> Source:
    return idx_folder(folder, idx(IMAGES)[:-500], LABELS)


@refused("ends inside its header, after 9 of 16 bytes")
def idx_cut_in_its_header(folder: Path) -> Source:
    return idx_folder(folder, idx(IMAGES)[:9], LABELS)


@refused("begins with the bytes 89 50 4e 47", "no idx file")
def idx_that_is_a_png(folder: Path) -> Source:
    return idx_folder(folder, b"\x89PNG" + idx(IMAGES), LABELS)


@refused("not a complete gzip file", "copy it again")
def truncated_gzip(folder: Path) -> Source:
    return idx_folder(folder, gzip.compress(idx(IMAGES))[:-40], gzip.compress(LABELS), ".gz")


@refused("not a complete gzip file")
def gzip_in_name_alone(folder: Path) -> Source:
    return idx_folder(folder, idx(IMAGES), LABELS, ".gz")


@refused("40 images .* 39 labels", "must be equal")
def idx_of_unequal_lengths(folder: Path) -> Source:
    return idx_folder(folder, idx(IMAGES), idx(Y[:-1].astype(np.uint8)))


@refused("'train-images-idx3-ubyte' and no file of its labels")
def idx_without_labels(folder: Path) -> Source:
    (folder / "train-images-idx3-ubyte").write_bytes(idx(IMAGES))
    return {"data": str(folder)}


@refused("no idx file of training images", "train-images-idx3-ubyte")
def idx_without_train(folder: Path) -> Source:
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(LABELS)
    return {"data": str(folder)}


# ── Folders of images ────────────────────────────────────────────────────────────────────────────────────────────────


def image_folder(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), n: int = 8) -> Source:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for k in range(n):
            Image.new("L", (6, 5), 10 * k).save(folder / name / f"{k}.png")
    return {"data": str(folder)}


@refused("notes.txt' is no image", r"\.png, \.jpg", "take it away")
def text_among_images(folder: Path) -> Source:
    source = image_folder(folder)
    (folder / "cat" / "notes.txt").write_text("hello")
    return source


@refused("readme.md' lies beside the class folders")
def file_beside_the_classes(folder: Path) -> Source:
    source = image_folder(folder)
    (folder / "readme.md").write_text("hello")
    return source


@refused("3.png' is a damaged image", "copy it again")
def truncated_png(folder: Path) -> Source:
    source = image_folder(folder)
    noise = np.random.default_rng(0).integers(0, 256, (5, 6)).astype(np.uint8)
    blob = io.BytesIO()
    Image.fromarray(noise).save(blob, "PNG")
    (folder / "dog" / "3.png").write_bytes(blob.getvalue()[:60])
    return source


@refused("3.png' is no PNG image in spite of its name")
def text_called_png(folder: Path) -> Source:
    source = image_folder(folder)
    (folder / "dog" / "3.png").write_text("hello")
    return source


@refused("5.png' is 7x5 and .*0.png' is 6x5", "one size")
def mixed_sizes(folder: Path) -> Source:
    source = image_folder(folder)
    Image.new("L", (7, 5)).save(folder / "dog" / "5.png")
    return source


@refused("one class, 'cat'", "at least 2")
def one_class_of_images(folder: Path) -> Source:
    return image_folder(folder, ("cat",))


@refused("folder .* is empty", "one subfolder")
def empty_folder(folder: Path) -> Source:
    return {"data": str(folder)}


@refused("class folder '.*bird' is empty")
def empty_class_folder(folder: Path) -> Source:
    source = image_folder(folder)
    (folder / "bird").mkdir()
    return source


@refused("Class 'fox'", "in test and not in train", "cat, dog")
def image_class_absent_from_train(folder: Path) -> Source:
    image_folder(folder / "train")
    image_folder(folder / "test", ("cat", "fox"))
    return {"data": str(folder)}


@refused("mode I;16", "8-bit")
def sixteen_bit_png(folder: Path) -> Source:
    source = image_folder(folder)
    Image.new("I;16", (6, 5)).save(folder / "cat" / "2.png")
    return source


@refused("has 4 rows", "at least 10")
def too_few_images(folder: Path) -> Source:
    return image_folder(folder, n=2)


# ── The test ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("case", "words"), CASES)
def test_bad_data_get_one_clear_sentence(tmp_path: Path, case: Case, words: tuple[str, ...]) -> None:
    check_refused(case(tmp_path), words)
