"""Write answers token by token with a network that says which comes next: the most likely one, or a beam of the best.

A bundle gets a copy of this file, so that an answer is written by the same lines in a test and in the field; it imports
numpy alone. `ask(rows, previous)` is the network: for the sources numbered `rows`, (k,), and their answers so far,
`previous`, (k, T), each begun with the mark, it gives (k, T, V) log-probabilities of the token after each. The mark
ends an answer too, and is in none that these functions return.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

Ask: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]

AT_ONCE = 64
"""Sources of one call."""


def greedy(ask: Ask, n: int, *, mark: int, longest: int) -> list[list[int]]:
    """The answers to sources 0 to n − 1: the most likely token at each step, at most `longest` of them."""
    made: list[list[int]] = [[] for _ in range(n)]
    for start in range(0, n, AT_ONCE):
        open_ = list(range(start, min(start + AT_ONCE, n)))
        for _ in range(longest):
            if not open_:
                break
            # (k, T + 1) without padding: all open answers have as many tokens, one for each step so far.
            last = ask(np.array(open_), np.array([[mark, *made[row]] for row in open_]))[:, -1].argmax(1)
            for row, token in zip(open_, last.tolist(), strict=True):
                if token != mark:
                    made[row].append(token)
            open_ = [row for row, token in zip(open_, last.tolist(), strict=True) if token != mark]
    return made


def beam(ask: Ask, row: int, *, mark: int, longest: int, width: int, alpha: float = 0.6) -> list[int]:
    """The best output for source `row` that a beam of `width` finds.

    Outputs are ranked by log-probability over ((5 + length) / 6)^alpha, so that short ones are not preferred for their
    shortness (Wu et al. 2016, arXiv:1609.08144, section 7).
    """
    open_: list[tuple[float, list[int]]] = [(0.0, [])]
    done: list[tuple[float, list[int]]] = []

    def worth(total: float, length: int) -> float:
        return total / float(((5 + length) / 6) ** alpha)

    for _ in range(longest):
        answers = ask(np.full(len(open_), row), np.array([[mark, *tokens] for _, tokens in open_]))[:, -1]
        grown = []
        for (total, tokens), answer in zip(open_, answers, strict=True):
            # The `width` best continuations of all outputs are among the `width` best of each.
            for token in np.argsort(-answer, kind="stable")[:width].tolist():
                grown.append((total + float(answer[token]), tokens, token))
        grown.sort(key=lambda one: -one[0])
        open_ = []
        for total, tokens, token in grown[:width]:
            if token == mark:
                done.append((worth(total, len(tokens) + 1), tokens))
            else:
                open_.append((total, [*tokens, token]))
        # no answer that is still open can become worth more than its log-probability at the greatest length
        if not open_ or (done and max(done)[0] >= worth(open_[0][0], longest + 1)):
            break
    # those of the greatest length end there; any other that is open is worth less than one that is done
    done += [(worth(total, len(tokens) + 1), tokens) for total, tokens in open_]
    return max(done, key=lambda one: one[0])[1]
