"""Tokenizers: characters, byte pairs and words."""

from __future__ import annotations

import ast
import json
import sys
from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from small_texts import PROSE

from searchkit.data import tokenizer
from searchkit.data.byte_pairs import learn, learn_words
from searchkit.data.tokenizer import PIECES, Tokenizer, merge_pair


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=200), st.integers(0, 40))
def test_what_is_encoded_is_decoded(text: str, pairs: int) -> None:
    size = len(set(text)) + 2 + pairs
    for words in (
        Tokenizer(learn([text], size=None, where="it", steps=8)),
        Tokenizer(learn([text], size=size, where="it", steps=8)),
    ):
        assert words.decode(words.encode(text)) == text
        assert sum(words.characters()[number] for number in words.encode(text)) == len(text)


def test_merges_are_those_of_counting_everything_anew() -> None:
    """The heap and the counts that it keeps up give what a count of the whole text gives after every merge."""
    plain = learn([PROSE], size=90, where="it", steps=8)
    first = len(plain["tokens"]) - len(plain["merges"])
    numbers = {token: number for number, token in enumerate(plain["tokens"][:first])}
    pieces = [[numbers[c] for c in piece] for piece in PIECES.findall(PROSE)]
    for k, merged in enumerate(plain["merges"]):
        counts = Counter(pair for piece in pieces for pair in zip(piece, piece[1:], strict=False))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        assert tuple(merged) == best
        pieces = [merge_pair(piece, best, first + k) for piece in pieces]
    assert Tokenizer(plain).encode(PROSE) == [number for piece in pieces for number in piece]
    assert len(plain["merges"]) > 20


def test_the_first_merge_of_gages_example() -> None:
    plain = learn(["aaabdaaabac"], size=6, where="it", steps=8)
    assert plain["tokens"] == ["", "a", "b", "c", "d", "aa"] and plain["merges"] == [[1, 1]]
    assert Tokenizer(plain).encode("aaab") == [5, 1, 2]


def test_a_character_that_train_never_had_is_token_0() -> None:
    words = Tokenizer(learn(["abc"], size=None, where="it", steps=8))
    assert words.encode("aéb") == [1, 0, 2] and words.decode([1, 0, 2]) == f"a{tokenizer.UNKNOWN}b"


def test_words_are_the_most_frequent_and_one_that_stands_once_is_unknown() -> None:
    plain = learn_words(["Who was he ?", "Who wrote it, and who was it ?"], size=6, steps=8)
    assert plain["tokens"] == ["", "who", "?", "it", "was"]  # by number, then by the alphabet
    words = Tokenizer(json.loads(json.dumps(plain)))
    assert words.encode("WHO was Galileo?") == [1, 4, 0, 2]
    assert words.decode([1, 4, 0, 2]) == f"who was {tokenizer.UNKNOWN} ?"
    assert learn_words(["a a b b"], size=2, steps=8)["tokens"] == ["", "a"]


def test_the_tokenizer_needs_the_standard_library_alone() -> None:
    tree = ast.parse(Path(tokenizer.__file__).read_text(encoding="utf-8"))
    imported = {n.names[0].name for n in ast.walk(tree) if isinstance(n, ast.Import)}
    imported |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= set(sys.stdlib_module_names)
