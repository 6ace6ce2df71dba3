"""Greedy decoding and beam search."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest

from searchkit.tasks.text import decoding


def test_the_loop_needs_numpy_alone() -> None:
    tree = ast.parse(Path(decoding.__file__).read_text(encoding="utf-8"))
    imported = {n.names[0].name for n in ast.walk(tree) if isinstance(n, ast.Import)}
    imported |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported == {"__future__", "collections.abc", "typing", "numpy"}


def test_a_beam_finds_what_greed_misses() -> None:
    """Two steps: the likeliest first token leads to worse odds than the other."""
    odds = {(): [0.6, 0.4, 0.0], (0,): [0.3, 0.3, 0.4], (1,): [0.05, 0.05, 0.9]}

    def ask(rows: np.ndarray, previous: np.ndarray) -> np.ndarray:
        out = np.zeros((len(rows), previous.shape[1], 3))
        for answer, so_far in zip(out, previous.tolist(), strict=True):
            answer[-1] = odds.get(tuple(so_far[1:]), [0.0, 0.0, 1.0])
        with np.errstate(divide="ignore"):
            return np.log(out)

    assert decoding.greedy(ask, 1, mark=2, longest=3) == [[0]]
    assert decoding.beam(ask, 0, mark=2, longest=3, width=1) == [0]
    assert decoding.beam(ask, 0, mark=2, longest=3, width=2) == [1]


@pytest.mark.parametrize("width", [1, 2, 3])
def test_an_answer_of_the_greatest_length_is_one_too(width: int) -> None:
    """The mark has one chance in ten at each step: three tokens and no mark are likelier than any that ends before."""

    def ask(rows: np.ndarray, previous: np.ndarray) -> np.ndarray:
        return np.log(np.broadcast_to([0.85, 0.05, 0.1], (len(rows), previous.shape[1], 3)))

    assert decoding.greedy(ask, 1, mark=2, longest=3) == [[0, 0, 0]]
    assert decoding.beam(ask, 0, mark=2, longest=3, width=width) == [0, 0, 0]
