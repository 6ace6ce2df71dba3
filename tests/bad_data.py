"""What the tests of bad data share: sources to spoil, and the check that each is refused in one clear sentence."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from searchkit.core.data_spec import MOST_CHARACTERS
from searchkit.core.errors import BadInput
from searchkit.tasks import registry

Source = dict[str, Any]
Case = Callable[[Path], Source]


def registered_in(cases: list[Any]) -> Callable[..., Callable[[Case], Case]]:
    """The decorator of the cases of one file, which keeps them in this list."""

    def refused(*words: str) -> Callable[[Case], Case]:
        """Register a case: the source that it returns must be refused in a sentence with these patterns."""

        def register(case: Case) -> Case:
            cases.append(pytest.param(case, words, id=case.__name__))
            return case

        return register

    return refused


def check_refused(source: Source, words: tuple[str, ...]) -> None:
    """The source is refused in one sentence in which every pattern is found."""
    with pytest.raises(BadInput) as caught:
        registry.load(source)
    sentence = str(caught.value)
    for pattern in words:
        assert re.search(pattern, sentence), f"{pattern!r} is not in: {sentence}"
    assert "\n" not in sentence and sentence.endswith((".", "?")) and len(sentence) <= MOST_CHARACTERS, sentence
    assert "Traceback" not in sentence and "Error(" not in sentence and caught.value.exit_status == 2


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
