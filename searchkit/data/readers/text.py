"""Read text: a plain text for language modeling, or `label text` lines for classification.

A plain text is split in its own order: the last tenth is test and the tenth before it is val, since later text is what
is to be predicted. Labeled lines are split like any rows, or as the files say. The tokenizer learns from the training
split alone. Text is read as UTF-8 unless another encoding is named; guessing a wrong encoding would train on garbage
without a word.
"""

from __future__ import annotations

import codecs
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from searchkit.core.errors import BadInput
from searchkit.data.byte_pairs import learn, learn_words
from searchkit.data.dataset import RawDataset
from searchkit.data.problems import reading_of
from searchkit.data.sizes import MIN_ROWS
from searchkit.data.source import Source
from searchkit.data.splits import split_rows
from searchkit.data.tokenizer import Tokenizer

TEST_SHARE = 0.10

VAL_SHARE = 0.10

WINDOW = 64  # tokens

VOCABULARY = {"words": 8000, "pairs": 2000}

LONGEST_LINE = 512  # tokens; what is longer is cut


def read_text(path: Path, source: Source) -> str:
    """Read a text file, gzipped or not, with every line end as a line feed.

    Raises:
        BadInput: The file is empty, is no text, or has another encoding than `source.encoding`.
    """
    raw = _unpacked(path)
    wanted = source.encoding or "utf-8"
    try:
        # The canonical name: utf8, UTF-8 and U8 are all "utf-8".
        name = codecs.lookup(wanted).name
    except LookupError as error:
        raise BadInput(
            f"No encoding named '{wanted}'; name one that Python knows, such as utf-8 or latin-1."
        ) from error
    try:
        # utf-8-sig drops a byte order mark, which would be the first character of the text.
        text = raw.decode("utf-8-sig" if name == "utf-8" else wanted)
    except UnicodeDecodeError as error:
        byte = raw[error.start]
        raise BadInput(
            f"'{path}' is not {wanted}: byte {error.start:,} is 0x{byte:02x}; save it as UTF-8, or name the encoding "
            "that it is in, such as --encoding latin-1 or utf-16."
        ) from error
    if "\0" in text:
        raise BadInput(
            f"'{path}' holds a zero at character {text.index(chr(0)):,}, which no text does; if it is UTF-16, "
            "say --encoding utf-16."
        )
    if not text.strip():
        raise BadInput(f"The file '{path}' holds no text; give one that does.")
    return text.replace("\r\n", "\n").replace("\r", "\n")  # the other order would double Windows' line ends


def _unpacked(path: Path) -> bytes:
    if path.suffix.lower() != ".gz":
        return path.read_bytes()
    try:
        return gzip.decompress(path.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadInput(f"'{path}' is not a complete gzip file ({error}); pack it again, or unpack it.") from error


@dataclass(frozen=True)
class Lines:
    """Labels and texts of the `label text` lines of one file, in order."""

    labels: tuple[str, ...]
    texts: tuple[str, ...]


def read_lines(path: Path, source: Source) -> Lines:
    """Read `label text` lines; empty lines are skipped.

    Raises:
        BadInput: A line has a label and no text.
    """
    labels, texts = [], []
    for number, line in enumerate(read_text(path, source).split("\n"), 1):
        label, _, text = line.strip().partition(" ")
        if not label:
            continue
        if not text.strip():
            raise BadInput(
                f"Line {number} of '{path}' is '{label}', a label without a text; a line is a label, a space and the "
                "text. Complete the line, or remove it."
            )
        labels.append(label)
        texts.append(" ".join(text.split()))
    return Lines(tuple(labels), tuple(texts))


def is_labeled(text: str) -> bool:
    """Whether each line begins with one of a few words that occur on ten lines or more on average."""
    firsts = Counter(line.split(maxsplit=1)[0] for line in text.split("\n") if line.strip())
    return 2 <= len(firsts) <= max(2, sum(firsts.values()) // 10) and min(firsts.values()) >= 2


def find_text(path: Path, source: Source) -> RawDataset:
    """Read a text file, or a folder of files whose names contain train, dev and test.

    Raises:
        BadInput: The files do not fit the problem, or are too short.
    """
    if path.is_dir():
        return _find_folder(path, source)
    if source.kind is None:
        text = read_text(path, source)
        kind = "classification" if is_labeled(text) else "language"
    else:
        kind = source.kind
    if reading_of(kind) == "text":
        later = None if source.test_data is None else read_text(Path(source.test_data), source)
        return from_text(read_text(path, source), path.stem, f"'{path}'", source, later=later)
    parts = {"train": read_lines(path, source)}
    if source.test_data is not None:
        parts["test"] = read_lines(Path(source.test_data), source)
    return from_lines(parts, path.stem, f"'{path}'", source)


_SPLIT_WORDS = {"train": "train", "dev": "val", "val": "val", "valid": "val", "validation": "val", "test": "test"}

_OTHERS = frozenset(".csv .tsv .parquet .json .npy .npz .gz .zip .pkl .pt .png .jpg .wav .ts".split())

"""A file whose name says train and ends in one of these is no text."""


def files_by_split(folder: Path) -> dict[str, Path]:
    """Find the files of a folder by the split that their names contain; the first if two name the same split."""
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        split = split_of(file)
        if file.is_file() and split is not None:
            found.setdefault(split, file)
    return found


def split_of(file: Path) -> str | None:
    """The split that a text file's name contains; None if there is none, or the file is of another type."""
    return split_of_name(file.name) if file.suffix.lower() not in _OTHERS else None


def split_of_name(name: str) -> str | None:
    """The split that a name contains as a word: "train", "val" or "test"; None if it contains none or several."""
    words = re.split(r"[^a-z]+", name.lower())
    splits = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    return splits.pop() if len(splits) == 1 else None


def is_text_folder(folder: Path) -> bool:
    """Whether a file of the folder is named as the training split of a text."""
    return "train" in files_by_split(folder)


def _find_folder(folder: Path, source: Source) -> RawDataset:
    files = files_by_split(folder)
    if source.reads == "text":
        raise BadInput(f"'{folder}' is a folder, and a text to be continued is one file; give that file.")
    for flag, value in (("--test-data", source.test_data), ("--target", source.target)):
        if value is not None:
            raise BadInput(
                f"{flag} '{value}' does not go with the folder '{folder}', whose files say it; leave it out."
            )
    parts: dict[str, Lines] = {
        split: read_lines(files[split], source) for split in ("train", "val", "test") if split in files
    }
    return from_lines(parts, folder.name, f"'{folder}'", source)


def from_text(text: str, name: str, where: str, source: Source, *, later: str | None = None) -> RawDataset:
    """Cut a text into windows of tokens, each with the same window one step later as its target.

    Args:
        text: The text of train, val and, unless `later` is given, test.
        name: Name of the task.
        where: How errors name the text.
        source: Options: window, vocabulary, kind of tokens.
        later: The text of the test split, if it is a separate one.

    Raises:
        BadInput: The text is too short for ten windows, or words are asked for.
    """
    steps = source.window or WINDOW
    # In characters, not tokens: the tokenizer learns from train, so the text is split before there are tokens.
    cut = len(text) if later is not None else round(len(text) * (1 - TEST_SHARE))
    first = round(cut - len(text) * VAL_SHARE)
    parts = {"train": text[:first], "val": text[first:cut], "test": text[cut:] if later is None else later}
    if len(text) <= steps * MIN_ROWS:  # no token is shorter than a character
        raise BadInput(_too_short(where, len(text), "characters", steps))
    if source.tokens == "words":
        raise BadInput(
            "Words cannot be continued as text, for what stands between them is lost; --tokens takes pairs or "
            "characters for a text to be continued."
        )
    size = VOCABULARY["pairs"] if source.tokens == "pairs" and source.vocabulary is None else source.vocabulary
    plain = learn([parts["train"]], size=None if source.tokens == "characters" else size, where=where, steps=steps)
    tokenizer = Tokenizer(plain)
    tokens, targets, begin = [], [], 0
    given: dict[str, np.ndarray] = {}
    for split, part in parts.items():
        stream = np.array(tokenizer.encode(part), dtype=np.int64)
        n = (len(stream) - 1) // steps  # the last window's target is one token later
        if n < 1:
            raise BadInput(_too_short(f"the {split} split of {where}", len(stream), "tokens", steps))
        tokens.append(stream[: n * steps].reshape(n, steps))
        targets.append(stream[1 : n * steps + 1].reshape(n, steps))
        given[split] = np.arange(begin, begin + n)
        begin += n
    if begin < MIN_ROWS:
        raise BadInput(_too_short(where, sum(map(np.size, tokens)), "tokens", steps))
    return RawDataset(
        name=name,
        x=np.concatenate(tokens),
        target=np.concatenate(targets),
        where=where,
        modality="tokens",
        given={split: given[split] for split in ("val", "test")},
        kind="language",
        tokenizer=plain,
    )


def _too_short(where: str, n: int, unit: str, steps: int) -> str:
    begun = where[0].upper() + where[1:]
    return (
        f"{begun} has {n:,} {unit}, and a window takes {steps} and the one that follows; at least {MIN_ROWS} windows "
        "are needed, one of them in each split. Give a longer text, or a smaller --window."
    )


def from_lines(parts: dict[str, Lines], name: str, where: str, source: Source) -> RawDataset:
    """Tokenize labeled lines; the tokenizer learns from the rows of train alone.

    Args:
        parts: Lines by split: "train", and "val" and "test" if they are given.
        name: Name of the task.
        where: How errors name the data.
        source: Options: vocabulary, kind of tokens, split seed.

    Raises:
        BadInput: There are fewer than MIN_ROWS lines.
    """
    labels = [label for lines in parts.values() for label in lines.labels]
    texts = [text for lines in parts.values() for text in lines.texts]
    if len(texts) < MIN_ROWS:
        raise BadInput(f"{where} has {len(texts)} lines; at least {MIN_ROWS} are needed for train, val and test.")
    given: dict[str, np.ndarray] = {}
    begin = 0
    for split, lines in parts.items():
        if split != "train":
            given[split] = np.arange(begin, begin + len(lines.texts))
        begin += len(lines.texts)
    # Split here, for the tokenizer learns from the rows of train alone.
    codes = np.unique(labels, return_inverse=True)[1]
    rows = split_rows(len(texts), codes, given=given, seed=source.split_seed)
    train = [texts[row] for row in rows["train"]]
    kind = source.tokens or "words"
    size = source.vocabulary or VOCABULARY.get(kind)
    if kind == "words":
        assert size is not None
        plain = learn_words(train, size=size, steps=LONGEST_LINE)
    else:
        size = None if kind == "characters" else size
        plain = learn(train, size=size, where=where, steps=LONGEST_LINE, lowercase=True, prefix=" ")
    tokens, lengths, plain["steps"] = _padded(texts, Tokenizer(plain))
    return RawDataset(
        name=name,
        x=tokens,
        target=np.array(labels),
        where=where,
        modality="tokens",
        lengths=lengths,
        given={split: rows[split] for split in ("val", "test")},
        kind="classification",
        tokenizer=plain,
    )


def _padded(texts: Sequence[str], tokenizer: Tokenizer) -> tuple[np.ndarray, np.ndarray, int]:
    """Encode texts: (n, longest) tokens padded with 0, their lengths (n,), and the longest length."""
    rows = [tokenizer.encode(text)[: tokenizer.steps] for text in texts]
    lengths = np.array([len(row) for row in rows])
    longest = int(lengths.max())
    tokens = np.zeros((len(rows), longest), dtype=np.int64)
    for row, numbers in enumerate(rows):
        tokens[row, : len(numbers)] = numbers
    return tokens, lengths, longest
