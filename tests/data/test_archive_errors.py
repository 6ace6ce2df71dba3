"""Bad archives of arrays and volumes get one sentence each."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_data import Case, Source, X, Y, archive, check_refused, registered_in

from searchkit.core.errors import BadInput
from searchkit.tasks import registry

CASES: list[Any] = []
refused = registered_in(CASES)


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


# ── The test ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("case", "words"), CASES)
def test_bad_data_get_one_clear_sentence(tmp_path: Path, case: Case, words: tuple[str, ...]) -> None:
    check_refused(case(tmp_path), words)


def test_there_are_more_than_25() -> None:
    assert len(CASES) > 25


@pytest.mark.parametrize("size", range(0, 700, 23))
def test_an_archive_cut_anywhere_is_refused(tmp_path: Path, size: int) -> None:
    source = archive(tmp_path, x=X[:12, :2], y=Y[:12])
    blob = Path(source["data"]).read_bytes()
    assert len(blob) > 700
    Path(source["data"]).write_bytes(blob[:size])
    with pytest.raises(BadInput, match="not a complete .npz|is empty"):
        registry.load(source)
