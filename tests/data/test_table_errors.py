"""Bad tables get one sentence each: what is wrong, its value, what is allowed and what to do."""

import sys
from pathlib import Path
from typing import Any

import pytest
from bad_data import Case, Source, check_refused, registered_in, rows, table

from searchkit.core.errors import BadInput
from searchkit.tasks import registry

CASES: list[Any] = []
refused = registered_in(CASES)


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


@refused("d.csv' is a folder, and a file is wanted")
def folder_as_a_test_table(folder: Path) -> Source:
    (folder / "d.csv").mkdir()
    return table(folder, rows(), test_data=str(folder / "d.csv"))


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


# ── The test ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("case", "words"), CASES)
def test_bad_data_get_one_clear_sentence(tmp_path: Path, case: Case, words: tuple[str, ...]) -> None:
    check_refused(case(tmp_path), words)


@pytest.mark.parametrize(
    ("between", "cell", "line"),
    [("", "0", 13), ("\n", "0", 24), ("", '"0\n1"', 24), ("\n", '"0\r\n1\n2"', 46)],
    ids=["plain", "blank lines", "quoted line breaks", "both"],
)
@pytest.mark.parametrize("fault", ["a word among numbers", "a cell too few"])
def test_a_row_is_named_by_the_line_at_which_it_begins(
    fault: str, between: str, cell: str, line: int, tmp_path: Path
) -> None:
    text = "x,z,y\n"
    for k in range(60):
        x = "1O.5" if fault == "a word among numbers" and k == 11 else f"{k}.5"
        y = "" if fault == "a cell too few" and k == 11 else f",{'ab'[k % 2]}"
        text += f"{x},{cell}{y}\n{between}"
    (tmp_path / "t.csv").write_bytes(text.encode())
    with pytest.raises(BadInput, match=f"[Ll]ine {line}\\b"):
        registry.load({"data": str(tmp_path / "t.csv"), "target": "y"})


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
