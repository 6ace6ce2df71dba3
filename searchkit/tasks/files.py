"""A user's own data: the path decides which reader looks at it. Readers return `Found`, or refuse with one sentence."""

from __future__ import annotations

from pathlib import Path

from searchkit.types import BadInput, Task

from .data import Found
from .files_csv import DELIMITERS, read_table
from .files_graphs import graph_text_in, is_graph_text, read_graph_text
from .files_idx import is_idx, read_idx_folder
from .files_images import read_image_folder
from .files_npz import read_npz
from .prepare import make_task
from .source import Source
from .text import find_text, is_text_folder, split_of

TABLES = (".csv", ".tsv", ".data", ".parquet")
ALLOWED = (
    "a .csv or .parquet table, an .npz archive, a .txt text or text of graphs, a folder of idx files or of train and "
    "test lines of text, or one sub-folder of images a class"
)


def load(source: Source) -> Task:
    return make_task(find(source), source)


def find(source: Source) -> Found:
    """Raises BadInput where there is nothing, or nothing that a reader knows."""
    assert source.data is not None
    path = Path(source.data)
    try:
        if not path.exists():
            raise BadInput(f"There is no file or folder '{path}'; --data takes {ALLOWED}.")
        text = graph_text_in(path) if path.is_dir() else path
        if text is not None and text.is_file() and text.suffix.lower() == ".txt" and is_graph_text(text):
            _refuse_table_options(source, path, but="--test-data")
            return read_graph_text(text, source.test_data)
        if path.is_dir():
            if not is_idx(path) and is_text_folder(path):
                return find_text(path, source)
            _refuse_table_options(source, path)
            return read_idx_folder(path) if is_idx(path) else read_image_folder(path)
        if path.stat().st_size == 0:
            raise BadInput(f"The file '{path}' is empty; --data takes {ALLOWED}.")
        if path.suffix.lower() in TABLES or (path.suffix.lower() == ".txt" and is_delimited(path, source)):
            return read_table(path, source)
        if path.suffix.lower() == ".npz":
            _refuse_table_options(source, path)
            return read_npz(path)
        if is_text(path, source):
            return find_text(path, source)
    except PermissionError as error:
        raise BadInput(
            f"'{error.filename}' may not be read: permission denied; change its permissions or copy it."
        ) from error
    raise BadInput(f"'{path}' is of a kind that no reader knows; --data takes {ALLOWED}.")


def is_delimited(path: Path, source: Source) -> bool:
    """Whether a .txt file is a table: it has a target, or its first lines have a delimiter equally often."""
    if source.target is not None or source.modality == "tabular":
        return True
    if source.kind == "language" or source.encoding is not None:
        return False
    with open(path, "rb") as file:
        lines = [line for line in (file.readline() for _ in range(20)) if line.strip()]
    counts = ({line.count(mark.encode()) for line in lines} for mark in DELIMITERS)
    return any(len(count) == 1 and count != {0} for count in counts)


def is_text(path: Path, source: Source) -> bool:
    """By its name (TREC.train.all), or by what is said of it."""
    named = path.suffix.lower() in (".txt", ".text", ".md") or split_of(path) is not None
    return named or source.kind == "language" or source.encoding is not None


def _refuse_table_options(source: Source, path: Path, *, but: str = "") -> None:
    for flag, value in (("--target", source.target), ("--test-data", source.test_data)):
        if value is not None and flag != but:
            raise BadInput(f"{flag} '{value}' is for tables, and '{path}' is none; leave it out.")
