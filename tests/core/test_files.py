"""A file that is written is whole or not there."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import pytest

from searchkit.core.files import append_row, read_rows, replacing, write_atomically

ROOT = Path(__file__).parents[2] / "searchkit"


def test_a_file_takes_the_old_ones_place_and_others_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("first", "größer"):
        write_atomically(path, text)
        assert path.read_bytes() == text.encode()
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff" and path.stat().st_mode & 0o777 == 0o644
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_what_fails_on_the_way_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomically(path, "old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_the_content_is_on_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    real_sync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append("sync"), real_sync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("replace"), real_replace(a, b)))
    write_atomically(tmp_path / "a.txt", "text")
    assert done == ["sync", "replace"]


def test_no_other_module_makes_a_file_beside_its_place() -> None:
    """One mechanism: a second copy of it would be mended alone."""
    holders = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*.py") if "os.replace(" in p.read_text(encoding="utf-8")]
    assert holders == ["core/files.py"]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\r\n", "ß"])
def test_a_row_may_hold_any_character(mark: str, tmp_path: Path) -> None:
    """str.splitlines takes many of them for the end of a line."""
    rows = [{"reason": f"a{mark}b"}, {"n": 2}]
    for row in rows:
        append_row(tmp_path / "a.jsonl", row)
    assert read_rows(tmp_path / "a.jsonl") == rows


def test_torn_rows_are_left_out(tmp_path: Path) -> None:
    torn = '{"a": "ß"}\n{"a": "ß'.encode()[:-1] + b'\n[1]\n\n{"b": 2}'
    (tmp_path / "a.jsonl").write_bytes(torn)
    assert read_rows(tmp_path / "a.jsonl") == [{"a": "ß"}, {"b": 2}] and read_rows(tmp_path / "none.jsonl") == []


OPENING = ("read_text", "write_text", "open", "fdopen")


def without_encoding(path: Path) -> list[int]:
    """The lines that open a file as text and do not say its encoding, which is then that of the user's locale."""
    text = path.read_text(encoding="utf-8")
    if not any(f"{name}(" in text for name in OPENING):
        return []
    found = []
    for call in (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)):
        is_method = isinstance(call.func, ast.Attribute)
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if name not in OPENING or any(keyword.arg == "encoding" for keyword in call.keywords):
            continue
        modes = [arg.value for arg in call.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        if name.endswith("_text"):
            is_text = is_method  # a function of this name is one of ours
        else:  # Run.open, Image.open and their like are methods too, and take no mode
            is_text = not any("b" in mode for mode in modes) and (not is_method or bool(modes) or not call.args)
        found += [call.lineno] if is_text else []
    return found


def test_every_text_file_has_its_encoding_said() -> None:
    found = {str(path.relative_to(ROOT)): without_encoding(path) for path in ROOT.rglob("*.py")}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_a_text_without_its_encoding_is_found(tmp_path: Path) -> None:
    said = ["p.read_text()", "p.write_text(t, errors='replace')", "open(p)", "open(p, 'a+')", "p.open()", "p.open('w')"]
    fine = ["p.read_text(encoding='utf-8')", "open(p, 'rb')", "p.open('wb')", "Run.open(p)", "read_text(p, source)"]
    (tmp_path / "a.py").write_text("\n".join([*said, *fine]), encoding="utf-8")
    assert without_encoding(tmp_path / "a.py") == [1, 2, 3, 4, 5, 6]
