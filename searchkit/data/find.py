"""A user's own data: the path decides which reader looks at it. Each returns a `RawDataset` or raises."""

from __future__ import annotations

import errno
from pathlib import Path

from searchkit.core.errors import BadInput
from searchkit.data.dataset import RawDataset
from searchkit.data.readers.csv import DELIMITERS, read_table
from searchkit.data.readers.graphs import graph_text_in, is_graph_text, read_graph_text
from searchkit.data.readers.idx import is_idx, read_idx_folder
from searchkit.data.readers.images import FORMATS, read_image_folder
from searchkit.data.readers.npz import read_npz
from searchkit.data.readers.pairs import find_pairs, is_parallel_folder
from searchkit.data.readers.text import find_text, is_text_folder, split_of
from searchkit.data.readers.times import read_series
from searchkit.data.readers.ts import read_ts
from searchkit.data.readers.wav import is_wav_folder, read_wav_folder
from searchkit.data.source import Source

TABLES = (".csv", ".tsv", ".data", ".parquet")

ALLOWED = (
    "a table (.csv, .parquet), an .npz, .ts or .txt file, or a folder of idx, .wav or text files, or of images with "
    "one subfolder per class"
)

TAKEN_BY = {
    "target": "tables and parallel texts",
    "test_data": "tables, texts, .ts files and texts of graphs",
    "test_files": "folders of wav files",
    "steps": "wav and .ts files",
}

"""The options that only some readers look at."""


def find(source: Source) -> RawDataset:
    """Read a user's data by the reader that its path and the problem ask for.

    Raises:
        BadInput: nothing is there, or nothing that a reader knows.
    """
    assert source.data is not None
    path = Path(source.data)
    try:
        if not path.exists():
            raise BadInput(f"There is no file or folder '{path}'; --data takes {ALLOWED}.")
        # Before the other readers of .txt: a file of graphs would also pass for plain text.
        text = graph_text_in(path) if path.is_dir() else path
        if text is not None and text.is_file() and text.suffix.lower() == ".txt" and is_graph_text(text):
            _refuse_others(source, path, "test_data")
            return read_graph_text(text, source.test_data)
        if source.reads == "series":
            if path.suffix.lower() not in TABLES:
                raise BadInput(
                    "--problem forecasting continues a table with a row a step, .csv or .parquet, and "
                    f"'{path}' is none; leave it out."
                )
            _refuse_others(source, path, "target")
            return read_series(path, source)
        if path.is_file() and path.stat().st_size == 0:
            raise BadInput(f"The file '{path}' is empty; --data takes {ALLOWED}.")
        # Before folders of text, for train.de and train.en are also named as the training split of a text.
        if source.reads == "pairs" or (path.is_dir() and is_parallel_folder(path)):
            _refuse_others(source, path, "target", "test_data")
            return find_pairs(path, source)
        if path.is_dir():
            return _read_folder(path, source)
        if path.suffix.lower() in TABLES or (path.suffix.lower() == ".txt" and is_delimited(path, source)):
            _refuse_others(source, path, "target", "test_data")
            return read_table(path, source)
        if path.suffix.lower() == ".npz":
            _refuse_others(source, path)
            return read_npz(path)
        if path.suffix.lower() == ".ts":
            _refuse_others(source, path, "test_data", "steps")
            return read_ts(path, source)
        if is_text(path, source):
            _refuse_others(source, path, "test_data")
            return find_text(path, source)
    except PermissionError as error:
        raise BadInput(
            f"'{error.filename}' may not be read: permission denied; change its permissions or copy it."
        ) from error
    # Of the test split alone: what --data names was found above.
    except FileNotFoundError as error:
        raise BadInput(f"There is no file '{error.filename}'; give the path of one that exists.") from error
    except IsADirectoryError as error:
        raise BadInput(f"'{error.filename}' is a folder, and a file is wanted there; give the path of one.") from error
    # Path.exists raises on a name that is too long for the file system, instead of returning False.
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise BadInput(f"There is no file or folder '{path}': the name is too long; --data takes {ALLOWED}.") from error
    raise BadInput(f"'{path}' is of a kind that no reader knows; --data takes {ALLOWED}.")


def _read_folder(path: Path, source: Source) -> RawDataset:
    # idx files are asked for first: train-images-idx3-ubyte is also named as the training split of a text.
    if not is_idx(path) and is_wav_folder(path, tuple(FORMATS)):
        _refuse_others(source, path, "test_files", "steps")
        return read_wav_folder(path, source)
    if not is_idx(path) and is_text_folder(path):
        _refuse_others(source, path, "test_data")
        return find_text(path, source)
    _refuse_others(source, path)
    return read_idx_folder(path) if is_idx(path) else read_image_folder(path)


def is_delimited(path: Path, source: Source) -> bool:
    """Whether a .txt file is a table: it has a target, or its first lines have a delimiter equally often."""
    if source.target is not None or source.modality == "tabular":
        return True
    if source.reads == "text" or source.encoding is not None:
        return False
    # As bytes: nothing has checked yet that the file is UTF-8.
    with open(path, "rb") as file:
        lines = [line for line in (file.readline() for _ in range(20)) if line.strip()]
    counts = ({line.count(mark.encode()) for line in lines} for mark in DELIMITERS)
    return any(len(count) == 1 and count != {0} for count in counts)


def is_text(path: Path, source: Source) -> bool:
    """By its name (TREC.train.all), or by what is said of it."""
    named = path.suffix.lower() in (".txt", ".text", ".md") or split_of(path) is not None
    return named or source.reads == "text" or source.encoding is not None


def _refuse_others(source: Source, path: Path, *taken: str) -> None:
    """Raises BadInput on an option that the reader of `path` does not look at."""
    for name, readers in TAKEN_BY.items():
        value = getattr(source, name)
        if value is not None and name not in taken:
            flag = "--" + name.replace("_", "-")
            raise BadInput(f"{flag} '{value}' is for {readers}, and '{path}' is none; leave it out.")
