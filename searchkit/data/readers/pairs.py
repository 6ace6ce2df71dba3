"""Read pairs of texts, a source and its target: parallel files, or `source<TAB>target` lines of one file.

Parallel files share their name up to the last part, the language: `train.de.gz` and `train.en.gz`; `--target en`
chooses the target language. In a folder, names that contain train, val and test give the splits. Each side has its own
tokenizer, learned from the training pairs alone. Both are plain JSON; the target's is stored inside the source's. The
task is in `searchkit.tasks.text.writing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from searchkit.core.errors import BadInput
from searchkit.core.serialization import JSON
from searchkit.data.byte_pairs import learn
from searchkit.data.dataset import RawDataset
from searchkit.data.problems import problems, shown, that_read
from searchkit.data.readers.text import read_text, split_of_name
from searchkit.data.sizes import MIN_ROWS
from searchkit.data.source import Source
from searchkit.data.splits import split_rows
from searchkit.data.tokenizer import Tokenizer

LONGEST = 256  # tokens of a side; what is longer is cut

SPLIT_NAMES = ("train", "val", "test")


@dataclass(frozen=True)
class Pairs:
    """Source texts and their target texts, in the same order."""

    sources: tuple[str, ...]
    answers: tuple[str, ...]


def parts_of(file: Path) -> tuple[str, str]:
    """Split a file's name into the part that both sides share and the language: ("train", "de") for train.de.txt.gz."""
    name = file.name.removesuffix(".gz").removesuffix(".txt")
    common, _, language = name.rpartition(".")
    return common, language


def languages_in(folder: Path) -> dict[str, dict[str, Path]]:
    """Find the parallel files of a folder by split and language."""
    found: dict[str, dict[str, Path]] = {}
    for file in sorted(folder.iterdir()):
        common, language = parts_of(file)
        split = split_of_name(common)
        if file.is_file() and split is not None and language.isalpha():
            found.setdefault(split, {}).setdefault(language, file)
    return found


def is_parallel_folder(folder: Path) -> bool:
    """Whether the folder holds training files in at least two languages under the same name."""
    train = languages_in(folder).get("train", {})
    return len(train) > 1 and len({parts_of(file)[0] for file in train.values()}) == 1


def find_pairs(path: Path, source: Source) -> RawDataset:
    """Read pairs from a folder, from one file, or from two parallel files.

    Raises:
        BadInput: Files or languages are missing, or lines do not pair up.
    """
    if path.is_dir():
        parts = _read_folder(path, source)
    else:
        parts = {"train": read_pairs(path, source)}
        if source.test_data is not None:
            parts["test"] = read_pairs(Path(source.test_data), source)
    return from_pairs(parts, path.name.split(".")[0], f"'{path}'", source, kind=source.kind or "translation")


def _read_folder(folder: Path, source: Source) -> dict[str, Pairs]:
    if source.test_data is not None:
        raise BadInput(
            f"--test-data '{source.test_data}' does not go with the folder '{folder}', whose files say it; leave it "
            "out."
        )
    files = languages_in(folder)
    train = files.get("train", {})
    if len(train) < 2:
        raise BadInput(
            f"The folder '{folder}' has no parallel files to train on; it takes two such as train.de and train.en, "
            "each with a line for a line of the other, and may have val and test beside them."
        )
    if source.target not in train:
        given = "" if source.target is None else f", and '{source.target}' is none of them"
        raise BadInput(
            f"The files of '{folder}' are in {', '.join(train)}{given}; say which is the answer, such as --target "
            f"{list(train)[-1]}."
        )
    others = [language for language in train if language != source.target]
    if len(others) > 1:
        raise BadInput(
            f"The files of '{folder}' are in {', '.join(train)}; keep two languages in a folder, the source and the "
            "answer."
        )
    parts = {}
    for split in (split for split in SPLIT_NAMES if split in files):
        for language in (others[0], source.target):
            if language not in files[split]:
                raise BadInput(
                    f"'{folder}' has files to {'train on' if split == 'train' else split} in "
                    f"{', '.join(files[split])} and none in {language}; add it, or remove the others."
                )
        parts[split] = _parallel(files[split][others[0]], files[split][source.target], source)
    return parts


def read_pairs(path: Path, source: Source) -> Pairs:
    """Read one file of tab-separated lines, or two parallel files if `source.target` names the target language.

    Raises:
        BadInput: The file with the targets is missing, or a line has no tab.
    """
    if source.target is None:
        return _tabbed(path, source)
    common, language = parts_of(path)
    beside = [file for file in sorted(path.parent.iterdir()) if parts_of(file) == (common, source.target)]
    if not common or language == source.target or not beside:
        wanted = f"{common}.{source.target}" if common and language != source.target else "such a file"
        raise BadInput(
            f"There is no {wanted} with the answers to '{path}'; parallel files lie beside each other as "
            "NAME.LANGUAGE, and --target is the language of the answers. For lines with a tab in them leave --target "
            "out."
        )
    return _parallel(path, beside[0], source)


def _lines(path: Path, source: Source) -> list[str]:
    """Lines with runs of blanks collapsed, as the tokenizer reads them."""
    lines = read_text(path, source).split("\n")
    # The line feed at the end of a file begins no line of its own.
    return [" ".join(line.split()) for line in (lines[:-1] if lines[-1] == "" else lines)]


def _parallel(one: Path, other: Path, source: Source) -> Pairs:
    sources, answers = _lines(one, source), _lines(other, source)
    if len(sources) != len(answers):
        raise BadInput(
            f"'{one}' has {len(sources):,} lines and '{other}' has {len(answers):,}; in parallel files each line is "
            "the answer to the same line of the other, so give as many."
        )
    return _paired(sources, answers, f"'{one}'", f"'{other}'")


def _tabbed(path: Path, source: Source) -> Pairs:
    sources, answers = [], []
    lines = read_text(path, source).split("\n")
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, 1):
        sides = line.split("\t") if line.strip() else ["", ""]
        if len(sides) != 2:
            have = "no tab" if len(sides) == 1 else f"{len(sides) - 1} tabs"
            raise BadInput(
                f"Line {number} of '{path}' has {have}; a line is a source, one tab and its answer. Where the answers "
                "are in another file, NAME.LANGUAGE, say its language by --target."
            )
        sources.append(" ".join(sides[0].split()))
        answers.append(" ".join(sides[1].split()))
    return _paired(sources, answers, f"'{path}', its source,", "the answer")


def _paired(sources: Sequence[str], answers: Sequence[str], one: str, other: str) -> Pairs:
    """Pair up lines; those that are empty on both sides are skipped.

    Raises:
        BadInput: A line is empty on one side only, or the numbers of lines differ.
    """
    for number, (text, answer) in enumerate(zip(sources, answers, strict=True), 1):
        if bool(text) != bool(answer):
            empty, full = (one, other) if not text else (other, one)
            raise BadInput(
                f"Line {number} of {empty} is empty, and of {full} it is not; complete the pair, or remove it from "
                "both."
            )
    kept = [pair for pair in zip(sources, answers, strict=True) if pair[0]]
    return Pairs(tuple(text for text, _ in kept), tuple(answer for _, answer in kept))


def from_pairs(parts: dict[str, Pairs], name: str, where: str, source: Source, *, kind: str) -> RawDataset:
    """Tokenize pairs.

    Args:
        parts: Pairs by split: "train", and "val" and "test" if they are given.
        name: Name of the task.
        where: How errors name the data.
        source: Options: vocabulary size, kind of tokens, split seed.
        kind: The problem.

    Raises:
        BadInput: There are too few pairs.
    """
    sources = [text for pairs in parts.values() for text in pairs.sources]
    answers = [text for pairs in parts.values() for text in pairs.answers]
    if len(sources) < MIN_ROWS:
        raise BadInput(f"{where} has {len(sources)} pairs; at least {MIN_ROWS} are needed for train, val and test.")
    if kind not in that_read("pairs"):
        takes = " or ".join(map(shown, that_read("pairs")))
        raise BadInput(f"{where} holds pairs of texts, which are for {takes}, not {shown(kind)}.")
    given: dict[str, np.ndarray] = {}
    begin = 0
    for split, pairs in parts.items():
        if split != "train":
            given[split] = np.arange(begin, begin + len(pairs.sources))
        begin += len(pairs.sources)
    # Split here, for the tokenizers below learn from the rows of train alone.
    rows = split_rows(len(sources), None, given=given, seed=source.split_seed)
    size = source.vocabulary or problems()[kind].vocabulary
    tokens, lengths, words = _tokens(sources, rows["train"], size, f"the sources of {where}")
    answered, steps, answer_words = _tokens(answers, rows["train"], size, f"the answers of {where}")
    # mark is the end of an answer and the beginning of `previous`: the number after the last token.
    # there, (n, T + 1): whether a step holds a token. The target is −1, which the loss ignores, after the end.
    mark, there = len(answer_words["tokens"]), np.arange(answered.shape[1] + 1) < steps[:, None]
    return RawDataset(
        name=name,
        x=tokens,
        # the answer and its end; the same one step late
        target=np.where(there, np.pad(answered, ((0, 0), (0, 1))), np.where(_ends(there, steps), mark, -1)),
        more={"previous": np.pad(answered, ((0, 0), (1, 0)), constant_values=mark)},
        where=where,
        modality="tokens",
        lengths=lengths,
        given={split: rows[split] for split in ("val", "test")},
        kind=kind,
        tokenizer={**words, "answers": answer_words},
    )


def _ends(there: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Mark the step after the last token of each row: (n, T) bool."""
    return np.asarray(np.arange(there.shape[1]) == steps[:, None])


def _tokens(
    texts: Sequence[str], train: np.ndarray, size: int | None, where: str
) -> tuple[np.ndarray, np.ndarray, dict[str, JSON]]:
    """Tokenize texts with a tokenizer that is learned from some of them.

    Args:
        texts: All texts of one side.
        train: Indices of the texts to learn from.
        size: Vocabulary size, as in `byte_pairs.learn`.
        where: How errors name the data.

    Returns:
        (n, longest) int64 tokens padded with 0, their lengths (n,), and the tokenizer as JSON.
    """
    prefix = "" if size is None else " "  # byte pairs have a word's blank before it: the first one has it too
    plain = learn([texts[row] for row in train], size=size, where=where, steps=LONGEST, prefix=prefix)
    words = Tokenizer(plain)
    rows = [words.encode(text)[:LONGEST] for text in texts]
    lengths = np.array([len(row) for row in rows])
    tokens = np.zeros((len(rows), int(lengths.max())), dtype=np.int64)
    for row, numbers in zip(tokens, rows, strict=True):
        row[: len(numbers)] = numbers
    return tokens, lengths, {**plain, "steps": tokens.shape[1]}
