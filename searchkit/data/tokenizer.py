"""Text to tokens and back, by a tokenizer that is plain JSON: characters, pairs of them merged in order, or words.

Sennrich et al. 2016, arXiv:1508.07909. A bundle gets a copy of this file beside its tokenizer.json, so that text
becomes tokens by the same lines in training and in the field; it imports the standard library alone. What learns the
merges is `byte_pairs`.

    {"tokens": ["", "a", …], "merges": [[3, 7], …], "lowercase": false, "prefix": "", "steps": 64, "words": false}

tokens: the text of each; number 0, of no text, stands for padding and for every character, or word, that has no token.
merges: pairs of tokens, the first first; merge k makes the token len(tokens) − len(merges) + k. prefix: stands before
every text. steps: how many tokens the network takes at most. words: each token is a whole word or sign; the white space
between them is lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PIECES = re.compile(r" ?\w+| ?[^\w\s]+|\s+(?=\s)|\s")
"""Merges stay inside a piece: a word with the space before it, a run of signs or of white space (as GPT-2 has it)."""

WORDS = re.compile(r"\w+|[^\w\s]")
"""A word, or one sign. "don't" is three, as "do n't" of text that was split before is."""

UNKNOWN = "\N{REPLACEMENT CHARACTER}"


class Tokenizer:
    """Applies a tokenizer, given as plain JSON in the form above."""

    def __init__(self, plain: dict[str, Any]) -> None:
        self.tokens: list[str] = plain["tokens"]
        self.steps = int(plain["steps"])
        self.lowercase, self.prefix = bool(plain["lowercase"]), str(plain["prefix"])
        self.words = bool(plain.get("words", False))
        merges = [(int(a), int(b)) for a, b in plain["merges"]]
        first = len(self.tokens) - len(merges)
        self.numbers = {token: number for number, token in enumerate(self.tokens[:first]) if number}
        self.merged = {pair: first + k for k, pair in enumerate(merges)}
        self.pairs = {number: pair for pair, number in self.merged.items()}
        self._pieces: dict[str, list[int]] = {}  # a text repeats its words: each is merged once

    def encode(self, text: str) -> list[int]:
        """The token numbers of a text; 0 for what has no token."""
        text = self.prefix + (text.lower() if self.lowercase else text)
        if self.words or not self.merged:
            return [self.numbers.get(token, 0) for token in (WORDS.findall(text) if self.words else text)]
        found: list[int] = []
        for piece in PIECES.findall(text):
            if piece not in self._pieces:
                self._pieces[piece] = self._merge([self.numbers.get(character, 0) for character in piece])
            found += self._pieces[piece]
        return found

    def decode(self, numbers: Iterable[int]) -> str:
        """The text of token numbers; a replacement character for 0."""
        return (" " if self.words else "").join(self.tokens[number] if number else UNKNOWN for number in numbers)

    def characters(self) -> list[int]:
        """How many characters each token stands for."""
        return [max(1, len(token)) for token in self.tokens]

    def _merge(self, numbers: list[int]) -> list[int]:
        """The pair that was merged first in training goes first, everywhere in the piece."""
        while len(numbers) > 1:
            new = min(self.merged.get(pair, len(self.tokens)) for pair in zip(numbers, numbers[1:], strict=False))
            if new == len(self.tokens):
                break
            numbers = merge_pair(numbers, self.pairs[new], new)
        return numbers


def merge_pair(numbers: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """Each occurrence of the pair, from the left, becomes `new`."""
    found, k = [], 0
    while k < len(numbers):
        if k + 1 < len(numbers) and (numbers[k], numbers[k + 1]) == pair:
            found.append(new)
            k += 2
        else:
            found.append(numbers[k])
            k += 1
    return found


def load(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json file."""
    return Tokenizer(json.loads(path.read_text(encoding="utf-8")))
