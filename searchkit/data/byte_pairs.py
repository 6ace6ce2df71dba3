"""Tokenizers learned from text: its words, its characters, or the pairs that stand together most often, merged.

Sennrich et al. 2016, arXiv:1508.07909, on characters: Gage's byte pair encoding (1994) within pieces of text. A merge
touches only the pieces that hold its pair, and the next pair comes from a heap, so a million characters take seconds in
plain Python. What applies the merges is `tokenizer`.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable

from searchkit.core.errors import BadInput
from searchkit.core.serialization import JSON
from searchkit.data.tokenizer import PIECES, WORDS, merge_pair


def learn(
    texts: Iterable[str], *, size: int | None, where: str, steps: int, lowercase: bool = False, prefix: str = ""
) -> dict[str, JSON]:
    """Learn a tokenizer of characters and of pairs of them.

    Args:
        texts: What to learn from: the training texts alone.
        size: Tokens at most, number 0 among them; None for the characters alone.
        where: What an error calls the texts.
        steps: How many tokens the network takes at most; kept with the tokenizer.
        lowercase: Whether texts are folded to lower case.
        prefix: What stands before every text.

    Returns:
        Plain JSON, as `Tokenizer` takes it.

    Raises:
        BadInput: the characters alone are more than `size`.
    """
    texts = [prefix + (text.lower() if lowercase else text) for text in texts]
    alphabet = sorted({character for text in texts for character in text})
    tokens = ["", *alphabet]
    merges: list[list[int]] = []
    if size is not None:
        if size <= len(tokens):
            raise BadInput(
                f"A vocabulary of {size} leaves no room for pairs: {where} has {len(alphabet)} different characters; "
                "give a larger one, or leave it out."
            )
        numbers = {token: number for number, token in enumerate(tokens)}
        # Each distinct piece is merged once and weighted by how often it occurs: a text repeats its words.
        counts = Counter(piece for text in texts for piece in PIECES.findall(text))
        merges = _merges({tuple(numbers[c] for c in piece): n for piece, n in counts.items()}, len(tokens), size)
        for a, b in merges:
            tokens.append(tokens[a] + tokens[b])
    return {"tokens": tokens, "merges": merges, "lowercase": lowercase, "prefix": prefix, "steps": steps}


def learn_words(texts: Iterable[str], *, size: int, steps: int) -> dict[str, JSON]:
    """Learn a tokenizer of the most frequent words, folded to lower case.

    A word that occurs once is left out, so that the network learns from train what an unknown word is like.

    Args:
        texts: What to learn from: the training texts alone.
        size: Tokens at most, number 0 among them.
        steps: How many tokens the network takes at most; kept with the tokenizer.

    Returns:
        Plain JSON, as `Tokenizer` takes it.
    """
    counts = Counter(word for text in texts for word in WORDS.findall(text.lower()))
    # Words of one count by the alphabet, so that the vocabulary does not depend on the order of the texts.
    common = sorted((word for word, n in counts.items() if n > 1), key=lambda word: (-counts[word], word))
    tokens = ["", *common[: size - 1]]
    return {"tokens": tokens, "merges": [], "lowercase": True, "prefix": "", "steps": steps, "words": True}


def _merges(counts: dict[tuple[int, ...], int], first: int, size: int) -> list[list[int]]:
    """The pairs to merge, most frequent first, until there are `size` tokens or no pair occurs twice.

    Of pairs that are equally frequent, the one with the smaller numbers comes first. counts: pieces as token numbers,
    with how often each occurs. first: the number of the first new token.
    """
    pieces, weights = [list(piece) for piece in counts], list(counts.values())
    # How often each pair occurs, and the indices of the pieces that hold it.
    totals: Counter[tuple[int, int]] = Counter()
    holders: defaultdict[tuple[int, int], set[int]] = defaultdict(set)
    for index, piece in enumerate(pieces):
        for pair in zip(piece, piece[1:], strict=False):
            totals[pair] += weights[index]
            holders[pair].add(index)
    heap = [(-n, pair) for pair, n in totals.items()]  # heapq gives the smallest first
    heapq.heapify(heap)
    merges: list[list[int]] = []
    while heap and first + len(merges) < size:
        n, pair = heapq.heappop(heap)
        if -n != totals[pair]:  # counted anew since, and in the heap with that count too
            continue
        if -n < 2:
            break
        new = first + len(merges)
        merges.append(list(pair))
        changed: set[tuple[int, int]] = set()
        # A piece may have lost the pair to an earlier merge: it is counted down and up again by the same amounts.
        for index in holders.pop(pair):
            for old in zip(pieces[index], pieces[index][1:], strict=False):
                totals[old] -= weights[index]
                changed.add(old)
            pieces[index] = merge_pair(pieces[index], pair, new)
            for made in zip(pieces[index], pieces[index][1:], strict=False):
                totals[made] += weights[index]
                holders[made].add(index)
                changed.add(made)
        # In any order: the heap sorts by count and pair, so the order of a set cannot change the result.
        for other in changed:
            if totals[other] > 0:
                heapq.heappush(heap, (-totals[other], other))
    return merges
