"""Bad data get one sentence each: what is wrong, its value, what is allowed and what to do."""

import gzip
import io
import re
import struct
import sys
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from searchkit.core.data_spec import MOST_CHARACTERS
from searchkit.core.errors import BadInput
from searchkit.tasks import registry

Source = dict[str, Any]
Case = Callable[[Path], Source]
CASES: list[Any] = []


def refused(*words: str) -> Callable[[Case], Case]:
    """Register a case: the source that it returns must be refused in a sentence with these patterns."""

    def register(case: Case) -> Case:
        CASES.append(pytest.param(case, words, id=case.__name__))
        return case

    return register


def table(folder: Path, lines: list[str], name: str = "t.csv", **source: Any) -> Source:
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"data": str(folder / name), "target": "y", **source}


def rows(n: int = 30, y: Callable[[int], str] = lambda k: "ab"[k % 2], x: Callable[[int], str] = str) -> list[str]:
    return ["x,z,y", *(f"{x(k)},{k % 5},{y(k)}" for k in range(n))]


def archive(folder: Path, **arrays: Any) -> Source:
    np.savez(folder / "a.npz", **arrays)
    return {"data": str(folder / "a.npz")}


X = np.random.default_rng(0).normal(size=(40, 5))
Y = np.arange(40) % 2

# ── Anomalies and noise ──────────────────────────────────────────────────────────────────────────────────────────────


@refused("--anomaly '10' is no class of the task 'digits-anomaly'; its classes are 0, 1, 2", "Did you mean '1'")
def anomaly_of_no_class(folder: Path) -> Source:
    return {"task": "digits-anomaly", "anomaly": "10"}


@refused("--anomaly 'a, b' holds out every class of", "name fewer")
def anomaly_of_all_classes(folder: Path) -> Source:
    return {**archive(folder, x=X, y=np.array(["a", "b"])[Y]), "anomaly": "a, b"}


@refused("has no target, which anomaly needs", "add y")
def anomaly_without_labels(folder: Path) -> Source:
    return {**archive(folder, x=X), "anomaly": "1"}


@refused("--problem anomaly needs the class, or classes, to hold out", "--anomaly LABEL, of 0, 1")
def anomaly_without_a_class(folder: Path) -> Source:
    return {**archive(folder, x=X, y=Y), "kind": "anomaly"}


@refused("--anomaly 1 is for --problem anomaly, not for classification", "leave one of them out")
def anomaly_of_another_kind(folder: Path) -> Source:
    return {**archive(folder, x=X, y=Y), "anomaly": "1", "kind": "classification"}


@refused("has 1 of class '1' and none for test", "at least one for val and one for test")
def anomaly_of_a_single_example(folder: Path) -> Source:
    return {**archive(folder, x=X, y=(np.arange(40) == 7).astype(int)), "anomaly": "1"}


@refused("The target of '.*' holds 0.5, which is no class")
def anomaly_of_a_quantity(folder: Path) -> Source:
    return {**archive(folder, x=X, y=np.arange(40) + 0.5), "anomaly": "1"}


@refused("--noise 'snow:1' is no noise", "gaussian:LEVEL", "such as gaussian:0.5")
def noise_of_no_kind(folder: Path) -> Source:
    return {**archive(folder, x=X), "noise": "snow:1"}


@refused("--noise 'mask:1.5' is no noise", "mask:SHARE, of the values that are lost, above 0 and below 1")
def noise_that_masks_more_than_all(folder: Path) -> Source:
    return {**archive(folder, x=X), "noise": "mask:1.5"}


@refused("--noise 'gaussian:0.5' is for --problem denoising, not for reconstruction")
def noise_of_another_kind(folder: Path) -> Source:
    return {**archive(folder, x=X), "noise": "gaussian:0.5", "kind": "reconstruction"}


@refused("has categories or missing values, which cannot be reconstructed")
def noise_on_categories(folder: Path) -> Source:
    source = table(folder, ["x,c", *(f"{k},{'ab'[k % 2]}" for k in range(30))], noise="gaussian:0.5")
    return {name: value for name, value in source.items() if name != "target"}


@refused("A denoising has no target, and --target 'y' was given")
def noise_with_a_target(folder: Path) -> Source:
    return table(folder, rows(), noise="gaussian:0.5")


# ── The source ───────────────────────────────────────────────────────────────────────────────────────────────────────


@refused("No task named 'digit'", "did you mean 'digits'", "`searchkit tasks` lists all")
def unknown_task(folder: Path) -> Source:
    return {"task": "digit"}


@refused("from a task or from a path", "neither", "--data PATH")
def no_data_at_all(folder: Path) -> Source:
    return {}


@refused("--task 'digits' and --data '.*' exclude one another", "not both")
def task_and_data(folder: Path) -> Source:
    return {"task": "digits", "data": str(folder)}


@refused("no field 'tagret'", "target")
def unknown_key(folder: Path) -> Source:
    return {"data": str(folder), "tagret": "y"}


@refused("--modality 'video' is unknown", "tabular, image, series, tokens, voxels or graph")
def unknown_modality(folder: Path) -> Source:
    return archive(folder, x=X, y=Y) | {"modality": "video"}


@refused("--problem 'ranking' is unknown", "anomaly, classification, denoising, exact-seq2seq, forecasting")
def unknown_kind(folder: Path) -> Source:
    return archive(folder, x=X, y=Y) | {"kind": "ranking"}


@refused("task 'iris' brings its own target; leave out --target\\.")
def target_of_a_task(folder: Path) -> Source:
    return {"task": "iris", "target": "species"}


@refused("no file or folder", "nowhere.csv", r"\.csv, \.parquet.*subfolder per class")
def missing_file(folder: Path) -> Source:
    return {"data": str(folder / "nowhere.csv"), "target": "y"}


@refused("t.csv' is empty")
def empty_file(folder: Path) -> Source:
    (folder / "t.csv").touch()
    return {"data": str(folder / "t.csv"), "target": "y"}


@refused("model.pkl", "no reader knows", r"\.npz")
def unknown_format(folder: Path) -> Source:
    (folder / "model.pkl").write_bytes(b"x")
    return {"data": str(folder / "model.pkl")}


@refused("--target 'y' is for tables", "a.npz")
def target_of_an_archive(folder: Path) -> Source:
    return archive(folder, x=X, y=Y) | {"target": "y"}


# ── Tables ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@refused("no column 'price'", "columns are x, z, y")
def unknown_column(folder: Path) -> Source:
    return table(folder, rows(), target="price")


@refused("no column '9'", "columns are x, z, y")
def column_index_too_large(folder: Path) -> Source:
    return table(folder, rows(), target="9")


@refused("needs --target COLUMN", "x, z, y")
def table_without_target(folder: Path) -> Source:
    return table(folder, rows(), target=None)


@refused("one class, 'a', in every row", "at least 2")
def one_class(folder: Path) -> Source:
    return table(folder, rows(y=lambda k: "a"))


@refused("Class 'c'", "in test and not in train", "train has a, b")
def class_absent_from_train(folder: Path) -> Source:
    table(folder, rows(y=lambda k: "abc"[k % 3]), "test.csv")
    return table(folder, rows(), test_data=str(folder / "test.csv"))


@refused("target 'y'", "missing .* in 2 rows", "line 6", "remove those rows or fill in")
def nan_target(folder: Path) -> Source:
    return table(folder, rows(y=lambda k: "nan" if k in (4, 9) else f"{k}.5"))


@refused("target .* holds the text 'a'", "regression needs numbers")
def text_target_for_regression(folder: Path) -> Source:
    return table(folder, rows(), kind="regression")


@refused("Column 'x'", "is text: 60 different values such as 'note number 0'", "take it out")
def column_of_text(folder: Path) -> Source:
    return table(folder, rows(60, x=lambda k: f"note number {k}"))


@refused("Column 'x'", "numbers but for '1O.5' on line 13", "correct it")
def mistyped_number(folder: Path) -> Source:
    return table(folder, rows(60, x=lambda k: "1O.5" if k == 11 else f"{k}.5"))


@refused("t.csv' has 1 row", "at least 10")
def one_row(folder: Path) -> Source:
    return table(folder, rows(1))


@refused("header and 0 rows", "at least 10")
def header_alone(folder: Path) -> Source:
    return table(folder, ["x,z,y"])


@refused("Line 5", "has 2 cells and the first has 3")
def ragged_line(folder: Path) -> Source:
    return table(folder, [*rows()[:4], "1,2", *rows()[5:]])


@refused("more than one column named 'x'", "rename")
def repeated_column(folder: Path) -> Source:
    return table(folder, ["x,x,y", *rows()[1:]])


@refused("no column but the target 'y'")
def target_alone(folder: Path) -> Source:
    return table(folder, ["y", *(str(k % 2) for k in range(30))])


@refused("no text in UTF-8", "byte .* 0xff")
def not_utf8(folder: Path) -> Source:
    (folder / "t.csv").write_bytes(b"x,y\n1,\xff\n" * 20)
    return {"data": str(folder / "t.csv"), "target": "y"}


@refused("Column 'x'", "is inf in row 3", "finite")
def infinite_value(folder: Path) -> Source:
    return table(folder, rows(x=lambda k: "inf" if k == 3 else str(k)))


@refused("30 different values in 30 rows, too many for classes", "--problem regression")
def a_quantity_as_classes(folder: Path) -> Source:
    return table(folder, rows(y=str), kind="classification")


@refused("test table .*test.csv' has 2 columns and .*t.csv' has 3")
def columns_unlike_those_of_train(folder: Path) -> Source:
    table(folder, ["x,y", "1,a"] * 10, "test.csv")
    return table(folder, rows(), test_data=str(folder / "test.csv"))


@refused("Column 'x' of .*test.csv' is 'seven' on line 9", "numeric in train")
def word_in_a_numeric_test_column(folder: Path) -> Source:
    table(folder, rows(x=lambda k: "seven" if k == 7 else str(k)), "test.csv")
    return table(folder, rows(), test_data=str(folder / "test.csv"))


@refused("no file .*gone.csv")
def missing_test_table(folder: Path) -> Source:
    return table(folder, rows(), test_data=str(folder / "gone.csv"))


@refused("is 3 in every row", "nothing to learn")
def constant_quantity(folder: Path) -> Source:
    return table(folder, rows(y=lambda k: "3"), kind="regression")


@refused("reconstruction has no target", "'y' was given")
def reconstruction_with_a_target(folder: Path) -> Source:
    return table(folder, rows(), kind="reconstruction")


@refused("categories or missing values", "complete numeric columns")
def reconstruction_of_words(folder: Path) -> Source:
    return table(folder, rows(), kind="reconstruction", target=None)


@refused("not a complete Parquet file", "save it again")
def corrupt_parquet(folder: Path) -> Source:
    (folder / "t.parquet").write_bytes(b"PAR1" + b"\0" * 50)
    return {"data": str(folder / "t.parquet"), "target": "y"}


# ── Archives ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@refused("not a complete .npz archive", "copy or save it again")
def truncated_npz(folder: Path) -> Source:
    source = archive(folder, x=X, y=Y)
    whole = Path(source["data"]).read_bytes()
    Path(source["data"]).write_bytes(whole[: len(whole) // 2])
    return source


@refused("not a complete .npz archive", "copy or save it again")
def flipped_bits_in_npz(folder: Path) -> Source:
    source = archive(folder, x=X, y=Y)
    blob = bytearray(Path(source["data"]).read_bytes())
    blob[300:310] = b"\xff" * 10
    Path(source["data"]).write_bytes(bytes(blob))
    return source


@refused("pickled objects, which may run code and are never read")
def pickled_npz(folder: Path) -> Source:
    return archive(folder, x=np.array([{"a": 1}] * 40, dtype=object), y=Y)


@refused("is not an .npz archive; write one with numpy.savez")
def random_bytes_called_npz(folder: Path) -> Source:
    """Which numpy takes for a pickle."""
    (folder / "a.npz").write_bytes(b"\x17\xa2 no archive" * 9)
    return {"data": str(folder / "a.npz")}


@refused("Every value of .* is missing", "at least one column")
def a_table_without_any_value(folder: Path) -> Source:
    return archive(folder, x=np.full((40, 3), np.nan, np.float32), y=Y)


@refused("pickled objects|not a complete .npz")
def a_pickle_called_npz(folder: Path) -> Source:
    (folder / "a.npz").write_bytes(b"\x80\x04}\x94.")
    return {"data": str(folder / "a.npz")}


@refused("single array", "numpy.savez")
def an_npy_called_npz(folder: Path) -> Source:
    with (folder / "a.npz").open("wb") as file:
        np.save(file, X)
    return {"data": str(folder / "a.npz")}


@refused("holds 'notes', which is no array|holds .*notes")
def npz_with_a_text_file(folder: Path) -> Source:
    with zipfile.ZipFile(folder / "a.npz", "w") as made:
        made.writestr("notes", "hello")
    return {"data": str(folder / "a.npz")}


@refused("holds images, labels", "must hold x and optionally y")
def npz_with_other_names(folder: Path) -> Source:
    return archive(folder, images=X, labels=Y)


@refused("lacks 'y_test'")
def npz_without_test_targets(folder: Path) -> Source:
    return archive(folder, x_train=X, y_train=Y, x_test=X)


@refused("'y' .* has 39 rows and 'x' has 40")
def npz_of_unequal_lengths(folder: Path) -> Source:
    return archive(folder, x=X, y=Y[:-1])


@refused(r"'x_test' .* shape \(4,\) and 'x_train' of \(5,\)")
def npz_of_unequal_shapes(folder: Path) -> Source:
    return archive(folder, x_train=X, y_train=Y, x_test=X[:, :4], y_test=Y)


@refused(r"shape \(40, 1, 2, 3, 4, 5\)", r"\(n, C, H, W\)")
def npz_of_too_many_axes(folder: Path) -> Source:
    return archive(folder, x=np.zeros((40, 1, 2, 3, 4, 5)), y=Y)


@refused(r"shape \(40, 8, 8, 7\)", "1, 3 or 4 channels")
def npz_of_seven_channels(folder: Path) -> Source:
    return archive(folder, x=np.zeros((40, 8, 8, 7)), y=Y)


@refused("Example 7", "holds nan", "finite")
def nan_in_a_series(folder: Path) -> Source:
    x = np.zeros((40, 2, 9))
    x[7, 1, 3] = np.nan
    return archive(folder, x=x, y=Y)


@refused("not a finite number in 1 row", "row 5", "fill in")
def nan_in_targets(folder: Path) -> Source:
    return archive(folder, x=X, y=np.where(np.arange(40) == 5, np.nan, X[:, 0]))


@refused("lengths .* is 12 at row 3", "from 1 to 9")
def length_beyond_the_series(folder: Path) -> Source:
    return archive(folder, x=np.zeros((40, 2, 9)), y=Y, lengths=np.where(np.arange(40) == 3, 12, 5))


@refused("token -1", "numbered from 0")
def negative_token(folder: Path) -> Source:
    return archive(folder, x=np.full((40, 6), -1), y=Y) | {"modality": "tokens"}


@refused("type float64", "whole numbers")
def fractional_tokens(folder: Path) -> Source:
    return archive(folder, x=X, y=Y) | {"modality": "tokens"}


@refused("no class; choose --problem regression")
def quantities_as_classes(folder: Path) -> Source:
    return archive(folder, x=X, y=X[:, 0]) | {"kind": "classification"}


@refused("no target, which classification needs", "--problem reconstruction")
def classes_without_targets(folder: Path) -> Source:
    return archive(folder, x=X) | {"kind": "classification"}


@refused("multilabel needs")
def one_column_as_many_labels(folder: Path) -> Source:
    return archive(folder, x=X, y=Y) | {"kind": "multilabel"}


@refused("'x' .* is empty or a single number")
def npz_without_rows(folder: Path) -> Source:
    return archive(folder, x=np.zeros((0, 5)), y=np.zeros(0, int))


@refused("Class '3'", "in test and not in train")
def npz_class_absent_from_train(folder: Path) -> Source:
    return archive(folder, x_train=X, y_train=Y, x_test=X, y_test=np.arange(40) % 2 * 3)


@refused("type <U1", "numbers")
def npz_of_words(folder: Path) -> Source:
    return archive(folder, x=np.full((40, 5), "a"), y=Y)


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


# ── Volumes ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@refused(r"shape \(40, 5, 6, 7, 2\)", "1, 3 or 4 channels", "second or the last")
def voxels_of_two_channels(folder: Path) -> Source:
    return archive(folder, x=np.zeros((40, 5, 6, 7, 2)), y=Y)


@refused(r"shape \(40, 8, 8\)", r"voxels are \(n, D, H, W\)")
def pictures_for_voxels(folder: Path) -> Source:
    return archive(folder, x=np.zeros((40, 8, 8)), y=Y) | {"modality": "voxels"}


@refused(r"shape \(40, 63\)", "bits of no cube", r"shape=\(D, H, W\)")
def bits_of_no_cube(folder: Path) -> Source:
    return archive(folder, x=np.zeros((40, 63), np.uint8), y=Y) | {"modality": "voxels"}


@refused(r"'shape' \(5, 6, 7\) says \(n, 27\)", r"numpy\.packbits")
def bits_that_do_not_fill_their_shape(folder: Path) -> Source:
    return archive(folder, x=np.zeros((40, 26), np.uint8), y=Y, shape=np.array([5, 6, 7]))


@refused(r"'shape' .* is \[5, 0, 7\]", "whole sizes")
def bits_of_an_empty_shape(folder: Path) -> Source:
    return archive(folder, x=np.zeros((40, 26), np.uint8), y=Y, shape=np.array([5, 0, 7]))


@refused("Example 3 .* holds inf", "finite")
def infinite_voxel(folder: Path) -> Source:
    x = np.zeros((40, 4, 4, 4))
    x[3, 1, 2, 3] = np.inf
    return archive(folder, x=x, y=Y) | {"modality": "voxels"}


# ── Sounds ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def wav(path: Path, *, channels: int = 1, width: int = 2, rate: int = 8000, n: int = 400) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, n, "NONE", ""))
        file.writeframes(bytes(k % 251 for k in range(n * channels * width)))
    return path


def sounds(folder: Path, **source: Any) -> Source:
    for k in range(24):
        wav(folder / "wav" / f"{'ab'[k % 2]}_{k}.wav", n=300 + 10 * k)
    return {"data": str(folder / "wav"), **source}


@refused("a_7.wav' is stereo", "mix it down")
def stereo_wav(folder: Path) -> Source:
    wav(folder / "wav" / "a_7.wav", channels=2)
    return sounds(folder)


@refused("a_70.wav' has 24-bit samples", "16-bit")
def wav_of_24_bits(folder: Path) -> Source:
    wav(folder / "wav" / "a_70.wav", width=3)
    return sounds(folder)


@refused("a_70.wav' has 8-bit samples", "16-bit")
def wav_of_8_bits(folder: Path) -> Source:
    wav(folder / "wav" / "a_70.wav", width=1)
    return sounds(folder)


@refused("b_71.wav' holds no samples", "take it away")
def wav_without_samples(folder: Path) -> Source:
    source = sounds(folder)
    with wave.open(str(folder / "wav" / "b_71.wav"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
    return source


@refused("b_71.wav' is not a complete 16-bit PCM wav file", "ends too early")
def wav_of_no_bytes(folder: Path) -> Source:
    source = sounds(folder)
    (folder / "wav" / "b_71.wav").touch()
    return source


@refused("b_71.wav' is not a complete 16-bit PCM wav file", "RIFF")
def text_called_wav(folder: Path) -> Source:
    source = sounds(folder)
    (folder / "wav" / "b_71.wav").write_text("this is no sound at all")
    return source


@refused("b_71.wav' is not a complete 16-bit PCM wav file", "unknown format: 3")
def wav_of_floats(folder: Path) -> Source:
    source = sounds(folder)
    blob = bytearray(wav(folder / "wav" / "b_71.wav").read_bytes())
    blob[20] = 3
    (folder / "wav" / "b_71.wav").write_bytes(blob)
    return source


@refused("b_71.wav' says that it has 400 samples and holds 350")
def wav_cut_short(folder: Path) -> Source:
    source = sounds(folder)
    path = wav(folder / "wav" / "b_71.wav")
    path.write_bytes(path.read_bytes()[:-100])
    return source


@refused("b_71.wav' has 16000 samples a second and .*a_0.wav' has 8000", "resample")
def wavs_of_mixed_rates(folder: Path) -> Source:
    wav(folder / "wav" / "b_71.wav", rate=16000)
    return sounds(folder)


@refused("hello.wav' does not say its class", "CLASS_anything.wav")
def wav_without_a_class(folder: Path) -> Source:
    wav(folder / "wav" / "hello.wav")
    return sounds(folder)


@refused("notes.txt' is no wav file")
def text_among_sounds(folder: Path) -> Source:
    source = sounds(folder)
    (folder / "wav" / "notes.txt").write_text("hello")
    return source


@refused("a_0.wav' lies beside the class folders")
def wav_beside_the_classes(folder: Path) -> Source:
    wav(folder / "wav" / "c" / "1.wav")
    return sounds(folder)


@refused("folder .*c' is empty")
def empty_folder_of_sounds(folder: Path) -> Source:
    source = {"data": str(folder)}
    for k in range(24):
        wav(folder / "ab"[k % 2] / f"{k}.wav")
    (folder / "c").mkdir()
    return source


@refused(r"--test-files '\*_99.wav' fits 0 of the 24 files", "some and not all")
def names_of_test_that_are_not_there(folder: Path) -> Source:
    return sounds(folder, test_files="*_99.wav")


@refused("folder test, and --test-files", "leave one out")
def names_of_test_beside_a_test_folder(folder: Path) -> Source:
    for k in range(24):
        wav(folder / ("test" if k > 20 else "train") / f"{'ab'[k % 2]}_{k}.wav")
    return {"data": str(folder), "test_files": "*_1.wav"}


@refused("differ in length", "at most 530 samples", "--steps N")
def spectrogram_pictures_of_unequal_sounds(folder: Path) -> Source:
    return sounds(folder, features="logmel", modality="image")


@refused("holds sounds", "--modality image", "--features logmel")
def pictures_of_raw_samples(folder: Path) -> Source:
    return sounds(folder, modality="image")


@refused("--features logmel is for sounds", "no sounds", "leave it out")
def spectrogram_of_a_table(folder: Path) -> Source:
    return archive(folder, x=X, y=Y) | {"features": "logmel"}


@refused("--features 'mfcc' is unknown", "raw or logmel")
def unknown_features(folder: Path) -> Source:
    return sounds(folder, features="mfcc")


@refused("--steps 0 is out of range", "at least 1")
def no_steps(folder: Path) -> Source:
    return sounds(folder, steps=0)


@refused("--steps '50' is for wav and .ts files", "leave it out")
def steps_of_an_archive(folder: Path) -> Source:
    return archive(folder, x=X, y=Y) | {"steps": 50}


@refused("task 'tones' brings its own length; leave out --steps\\.")
def steps_of_a_task(folder: Path) -> Source:
    return {"task": "tones", "steps": 50}


@refused("task 'tones' brings its own target and test split; leave out --target and --test-files\\.")
def target_and_test_files_of_a_task(folder: Path) -> Source:
    return {"task": "tones", "target": "pitch", "test_files": "*_0.wav"}


# ── Series in .ts files ──────────────────────────────────────────────────────────────────────────────────────────────

TRUE = ("@univariate true", "@equalLength true", "@seriesLength 4", "@classLabel true a b")
TS_ROWS = [f"{k},{k % 3}.5,-{k},1e-3:{'ab'[k % 2]}" for k in range(24)]


def ts(folder: Path, says: tuple[str, ...] = TRUE, rows: list[str] = TS_ROWS, name: str = "X_TRAIN.ts") -> Source:
    (folder / name).write_text("\n".join(["# made up", *says, "@data", *rows]) + "\n", encoding="utf-8")
    return {"data": str(folder / name)}


@refused("Line 7 of .*X_TRAIN.ts' has 2 channels and the header says 1")
def ts_that_is_not_univariate(folder: Path) -> Source:
    return ts(folder, rows=["1,2,3,4:5,6,7,8:a", *TS_ROWS])


@refused("says @univariate true and @dimensions 3")
def ts_of_three_univariate_channels(folder: Path) -> Source:
    return ts(folder, ("@univariate true", "@dimensions 3", "@classLabel true a b"))


@refused("has 1 channels and the header says 3")
def ts_of_other_dimensions(folder: Path) -> Source:
    return ts(folder, ("@dimensions 3", "@classLabel true a b"))


@refused("Line 31 .* has 3 values a channel and @seriesLength says 4")
def ts_of_another_length(folder: Path) -> Source:
    return ts(folder, rows=[*TS_ROWS, "1,2,3:a"])


@refused("has 3 values a channel and @equalLength says true")
def ts_of_unequal_equal_lengths(folder: Path) -> Source:
    return ts(folder, ("@equalLength true", "@classLabel true a b"), rows=[*TS_ROWS, "1,2,3:a"])


@refused("of the class 'c', which @classLabel does not name", r"\(a b\)")
def ts_of_an_unnamed_class(folder: Path) -> Source:
    return ts(folder, rows=[*TS_ROWS, "1,2,3,4:c"])


@refused("names the class 'c', which no row has")
def ts_of_a_class_without_rows(folder: Path) -> Source:
    return ts(folder, (*TRUE[:3], "@classLabel true a b c"))


@refused("Line 7 .* holds a missing value", "fill it in")
def ts_with_a_missing_value(folder: Path) -> Source:
    return ts(folder, rows=["1,?,3,4:a", *TS_ROWS])


@refused("Line 7 .* holds 'x2'", "finite number")
def ts_with_a_word_for_a_value(folder: Path) -> Source:
    return ts(folder, rows=["1,x2,3,4:a", *TS_ROWS])


@refused("channels of 3 and of 4 values")
def ts_of_ragged_channels(folder: Path) -> Source:
    return ts(folder, ("@dimensions 2", "@classLabel true a b"), rows=["1,2,3,4:5,6,7:a"])


@refused("has 2 channels and line 6 has 1", "as many")
def ts_of_ragged_rows(folder: Path) -> Source:
    return ts(folder, ("@equalLength true", "@classLabel true a b", "@missing false"), ["1,2:a", "1,2:3,4:a", *TS_ROWS])


@refused("no line @data")
def ts_without_data(folder: Path) -> Source:
    (folder / "X.ts").write_text("@univariate true\n")
    return {"data": str(folder / "X.ts")}


@refused("no rows after @data")
def ts_without_rows(folder: Path) -> Source:
    return ts(folder, rows=[])


@refused("Line 2 .* is '1,2,3,4:a'", "before @data")
def ts_without_a_header(folder: Path) -> Source:
    (folder / "X.ts").write_text("# rows\n1,2,3,4:a\n")
    return {"data": str(folder / "X.ts")}


@refused("time stamps, which are not read")
def ts_with_time_stamps(folder: Path) -> Source:
    return ts(folder, ("@timeStamps true", *TRUE))


@refused("@univariate of .* is 'maybe'", "true or false")
def ts_of_a_flag_that_is_none(folder: Path) -> Source:
    return ts(folder, ("@univariate maybe", *TRUE[1:]))


@refused("@seriesLength", "is 'long'", "whole number")
def ts_of_a_length_that_is_none(folder: Path) -> Source:
    return ts(folder, ("@seriesLength long", "@classLabel true a b"))


@refused("says true and names no class")
def ts_of_no_named_class(folder: Path) -> Source:
    return ts(folder, ("@classLabel true",))


@refused("X_TEST.ts' has the classes a c and .*X_TRAIN.ts' has a b", "the same")
def ts_of_other_classes_in_test(folder: Path) -> Source:
    ts(folder, (*TRUE[:3], "@classLabel true a c"), ["1,2,3,4:a", "1,2,3,4:c"], "X_TEST.ts")
    return ts(folder)


@refused("X_TEST.ts' has 2 channels and .*X_TRAIN.ts' has 1", "the same")
def ts_of_other_channels_in_test(folder: Path) -> Source:
    ts(folder, ("@dimensions 2", TRUE[3]), ["1,2,3,4:1,2,3,4:a"], "X_TEST.ts")
    return ts(folder)


@refused("no text in UTF-8")
def ts_in_another_encoding(folder: Path) -> Source:
    (folder / "X.ts").write_bytes(b"# caf\xe9\n@data\n")
    return {"data": str(folder / "X.ts")}


@refused("--target 'y' is for tables")
def target_of_a_ts_file(folder: Path) -> Source:
    return ts(folder) | {"target": "y"}


# ── The test ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("case", "words"), CASES)
def test_bad_data_get_one_clear_sentence(tmp_path: Path, case: Case, words: tuple[str, ...]) -> None:
    source = case(tmp_path)
    with pytest.raises(BadInput) as caught:
        registry.load(source)
    sentence = str(caught.value)
    for pattern in words:
        assert re.search(pattern, sentence), f"{pattern!r} is not in: {sentence}"
    assert "\n" not in sentence and sentence.endswith((".", "?")) and len(sentence) <= MOST_CHARACTERS, sentence
    assert "Traceback" not in sentence and "Error(" not in sentence and caught.value.exit_status == 2


def test_there_are_more_than_25() -> None:
    assert len(CASES) > 25


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadInput, match=r"pip install 'searchkit\[parquet\]'"):
        registry.load({"data": str(tmp_path / "t.parquet"), "target": "y"})


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite may run as root, whom no mode stops, so the system's own refusal is raised here."""
    source = table(tmp_path, rows())

    def refuse(path: Path, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BadInput, match="t.csv' may not be read: permission denied"):
        registry.load(source)


@pytest.mark.parametrize("size", range(0, 700, 23))
def test_an_archive_cut_anywhere_is_refused(tmp_path: Path, size: int) -> None:
    source = archive(tmp_path, x=X[:12, :2], y=Y[:12])
    blob = Path(source["data"]).read_bytes()
    assert len(blob) > 700
    Path(source["data"]).write_bytes(blob[:size])
    with pytest.raises(BadInput, match="not a complete .npz|is empty"):
        registry.load(source)


def test_an_unknown_module_in_a_stored_task_is_refused() -> None:
    with pytest.raises(BadInput, match="packed by 'os', which this searchkit does not have"):
        registry.unpack({"module": "os"}, {})
