"""Packaged texts: Python's help on its own language, to be continued, or to be classified by page."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

from searchkit.core.task import Task
from searchkit.data.readers.text import Lines, from_lines, from_text
from searchkit.data.source import Source
from searchkit.data.tokenizer import WORDS
from searchkit.tasks.prepare import make_task

EMBEDDED = {
    "pydoc": "continue the help on Python's language, 465,000 characters of English (standard library, pydoc_data)",
    "pydoc-topics": "which page of that help a sentence is from: 8 pages (standard library, pydoc_data)",
}


@cache
def _topics() -> dict[str, str]:
    """Python's help on its own language as `pydoc` shows it: page to text."""
    from pydoc_data.topics import topics

    return dict(sorted(topics.items()))


PAGES = ("compound", "debugger", "formatstrings", "specialnames", "string-methods", "types", "typesmapping", "typesseq")

"""The largest pages that are not parts of each other."""

LEAST_WORDS, MOST_TOKENS = 6, 60

"""Between them is a sentence; what is longer, in words and signs, is a table or a program, and one of 500 would have
every row padded to its length."""


def _sentences() -> tuple[list[str], list[str]]:
    """Pages and their sentences; a sentence that two pages share is left out."""
    # A sentence counts once per page, whatever its case, so that the counter counts pages.
    found = {page: {s.lower(): s for s in _split_sentences(_topics()[page])} for page in PAGES}
    pages_of = Counter(folded for sentences in found.values() for folded in sentences)
    rows = [(page, s) for page, sentences in found.items() for folded, s in sentences.items() if pages_of[folded] == 1]
    return [page for page, _ in rows], [sentence for _, sentence in rows]


def _split_sentences(text: str) -> list[str]:
    whole = re.sub(r"\n\s*\n", " \0 ", text)  # a paragraph's end ends a sentence too
    parts = re.split(r"(?<=[.:;!?])\s+|\0", whole)
    sentences = (" ".join(part.split()) for part in parts)
    return [s for s in sentences if len(s.split()) >= LEAST_WORDS and len(WORDS.findall(s)) <= MOST_TOKENS]


def load(source: Source) -> Task:
    """Load the packaged task `pydoc` or `pydoc-topics`."""
    assert source.task is not None
    where = f"the task '{source.task}'"
    if source.task == "pydoc":
        text = "\n".join(_topics().values())
        return make_task(from_text(text, source.task, where, source), source)
    labels, texts = _sentences()
    return make_task(from_lines({"train": Lines(tuple(labels), tuple(texts))}, source.task, where, source), source)
