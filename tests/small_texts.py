"""A small prose and small lines with labels: what the tests of text share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Source = dict[str, Any]

WORDS = ("the", "value", "of", "an", "object", "is", "a", "list", "that", "holds", "each", "name", "here")
PROSE = " ".join(WORDS[k * k % 13] + ("." if k % 11 == 0 else "") + ("\n" if k % 17 == 0 else "") for k in range(1500))


def prose(folder: Path, text: str = PROSE, **source: Any) -> Source:
    (folder / "prose.txt").write_text(text, encoding="utf-8")
    return {"data": str(folder / "prose.txt"), "kind": "language", **source}


def lines(n: int = 60) -> list[str]:
    return [
        f"{'good bad'.split()[k % 2]} {WORDS[k % 13]} {WORDS[k * 5 % 13]} {'yes no'.split()[k % 2]}" for k in range(n)
    ]
