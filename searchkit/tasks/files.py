"""A user's own data: the path decides which reader looks at it. Readers return `Found`, or refuse with one sentence."""

from __future__ import annotations

from pathlib import Path

from searchkit.types import BadInput, Task

from .data import Found
from .files_csv import read_table
from .files_graphs import graph_text_in, is_graph_text, read_graph_text
from .files_idx import is_idx, read_idx_folder
from .files_images import read_image_folder
from .files_npz import read_npz
from .prepare import make_task
from .source import Source

TABLES = (".csv", ".tsv", ".txt", ".data", ".parquet")
ALLOWED = (
    "a .csv or .parquet table, an .npz archive, a folder of idx files, one sub-folder of images a class, or a text of "
    "graphs"
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
            _refuse_table_options(source, path)
            return read_idx_folder(path) if is_idx(path) else read_image_folder(path)
        if path.stat().st_size == 0:
            raise BadInput(f"The file '{path}' is empty; --data takes {ALLOWED}.")
        if path.suffix.lower() in TABLES:
            return read_table(path, source)
        if path.suffix.lower() == ".npz":
            _refuse_table_options(source, path)
            return read_npz(path)
    except PermissionError as error:
        raise BadInput(
            f"'{error.filename}' may not be read: permission denied; change its permissions or copy it."
        ) from error
    raise BadInput(f"'{path}' is of a kind that no reader knows; --data takes {ALLOWED}.")


def _refuse_table_options(source: Source, path: Path, *, but: str = "") -> None:
    for flag, value in (("--target", source.target), ("--test-data", source.test_data)):
        if value is not None and flag != but:
            raise BadInput(f"{flag} '{value}' is for tables, and '{path}' is none; leave it out.")
