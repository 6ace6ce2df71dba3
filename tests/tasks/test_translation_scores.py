"""BLEU and chrF: by hand, and as sacrebleu computes them."""

from __future__ import annotations

import math
import random

import pytest
from text_pairs import german_and_english

from searchkit.tasks.text.translations import bleu, bleu_counts, bleu_interval, chrf, words


def test_words_are_those_of_mteval_13a() -> None:
    assert words("Hello, world! It's 3.5% (or 1,000).") == "Hello , world ! It's 3.5 % ( or 1,000 ) .".split()
    assert words("He said &quot;no&quot; in 1990-91 & left...") == 'He said " no " in 1990 - 91 & left . . .'.split()
    assert words("A well-known man's T-shirt") == ["A", "well-known", "man's", "T-shirt"]


def test_bleu_by_hand() -> None:
    """Papineni et al.'s own: of seven "the" two count. Then one corpus of two sentences, all its parts by hand."""
    counts = bleu_counts(["the the the the the the the"], ["the cat is on the mat"])
    assert counts[0, :4].tolist() == [7, 6, 2, 7]
    written = ["the cat sat on the mat", "a dog ran"]
    wanted = ["the cat is on the mat", "a dog ran off home"]
    precisions = [
        (5 + 3) / 9,
        (3 + 2) / 7,
        (1 + 1) / 5,
        1 / 2 / 3,
    ]  # no four words match, of three there are: half a one
    expected = 100 * math.exp(1 - 11 / 9) * math.prod(precisions) ** 0.25
    assert bleu(bleu_counts(written, wanted)) == pytest.approx(expected)
    assert bleu(bleu_counts(wanted, wanted)) == pytest.approx(100) and bleu(bleu_counts(["", ""], wanted)) == 0.0
    longer = [f"{text} and then it went away again" for text in wanted]
    low, high = bleu_interval(bleu_counts([*wanted, *longer] * 5, [*wanted, *wanted] * 5))
    assert low < bleu(bleu_counts([*wanted, *longer], [*wanted, *wanted])) < high


def test_bleu_and_chrf_are_sacrebleus() -> None:
    """On sentences that were spoilt more and more: the corpus, one sentence without matches of the higher orders, and
    chrF of each."""
    sacrebleu = pytest.importorskip("sacrebleu")
    rng = random.Random(0)
    signs = ("%", "&amp;", "!")
    wanted = [f"{text} It's 3,4{signs[k % 3]} well-known (or 5-{k})" for k, text in enumerate(german_and_english()[1])]
    known = [token for text in wanted for token in text.split()]

    def spoilt(text: str, share: float) -> str:
        tokens = [rng.choice([rng.choice(known), "", "xy.z"]) if rng.random() < share else t for t in text.split()]
        return " ".join(tokens)

    for share in (0.0, 0.3, 0.8):
        written = [spoilt(text, share) for text in wanted]
        assert bleu(bleu_counts(written, wanted)) == pytest.approx(sacrebleu.corpus_bleu(written, [wanted]).score)
        for one, other in zip(written[:20], wanted, strict=False):
            assert bleu(bleu_counts([one], [other])) == pytest.approx(sacrebleu.corpus_bleu([one], [[other]]).score)
            assert chrf(one, other) == pytest.approx(sacrebleu.sentence_chrf(one, [other]).score)


def test_chrf_by_hand() -> None:
    assert chrf("a cat", "a cat") == 100.0 and chrf("xyz", "abc") == 0.0 and chrf("", "") == 100.0
    assert chrf("", "abc") == 0.0 == chrf("abc", "")
    # "a bcd" for "abce": of 4, 3, 2, 1 n-grams 3, 2, 1, 0 match on both sides; there are none of 5 and of 6
    assert chrf("a bcd", "abce") == pytest.approx(100 * (3 / 4 + 2 / 3 + 1 / 2 + 0) / 4)
    # "abcd" for "abc": of 4, 3, 2 n-grams 3, 2, 1 match, which are all of the others; "abc" has none of 4
    precision = (3 / 4 + 2 / 3 + 1 / 2) / 3
    assert chrf("abcd", "abc") == pytest.approx(100 * 5 * precision / (4 * precision + 1))
