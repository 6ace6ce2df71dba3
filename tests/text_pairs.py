"""Small files of sentences in two languages: what the tests of pairs share."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

from searchkit.tasks import registry
from searchkit.tasks.text.writing import WritingTask

Source = dict[str, Any]

NOUNS = {"Hund": "dog", "Katze": "cat", "Vogel": "bird", "Fisch": "fish", "Baum": "tree", "Haus": "house"}
VERBS = {"sieht": "sees", "sucht": "seeks", "liebt": "loves", "malt": "paints"}


def german_and_english(n: int = 60) -> tuple[list[str], list[str]]:
    sides: tuple[list[str], list[str]] = ([], [])
    for k in range(n):
        (a, b), (c, d), (e, f) = (list(w.items())[k // s % len(w)] for w, s in ((NOUNS, 1), (VERBS, 6), (NOUNS, 5)))
        sides[0].append(f"Ein {a} {c} einen {e}{'.' if k % 3 else ' und schweigt.'}")
        sides[1].append(f"A {b} {d} a {f}{'.' if k % 3 else ' in silence.'}")
    return sides


def parallel(folder: Path, parts: dict[str, int] | None = None, *, packed: bool = False) -> Path:
    for name, n in (parts or {"train": 60}).items():
        for language, lines in zip(("de", "en"), german_and_english(n), strict=True):
            text = ("\n".join(lines) + "\n").encode()
            file = folder / f"{name}.{language}{'.gz' if packed else ''}"
            file.write_bytes(gzip.compress(text) if packed else text)
    return folder


def loaded(**source: Any) -> WritingTask:
    task = registry.load({name: str(value) if isinstance(value, Path) else value for name, value in source.items()})
    assert isinstance(task, WritingTask)
    return task
