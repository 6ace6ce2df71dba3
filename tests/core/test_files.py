"""A file that is written is whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from searchkit.core.files import replacing, write_atomically


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
    root = Path(__file__).parents[2] / "searchkit"
    holders = [str(p.relative_to(root)) for p in root.rglob("*.py") if "os.replace(" in p.read_text(encoding="utf-8")]
    assert holders == ["core/files.py"]
