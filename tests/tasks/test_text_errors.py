"""Text that cannot be read is refused in one sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_data import Case, registered_in
from small_texts import PROSE, Source, lines

from searchkit.core.errors import BadInput
from searchkit.tasks import registry

CASES: list[Any] = []
refused = registered_in(CASES)


def written(folder: Path, content: bytes | str, name: str = "t.txt", **source: Any) -> Source:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return {"data": str(folder / name), **source}


@refused("is not utf-8: byte 300 is 0xe9", "--encoding latin-1")
def text_in_latin_1(folder: Path) -> Source:
    return written(folder, (PROSE[:300] + "é" + PROSE).encode("latin-1"))


@refused("is not utf-8: byte 0 is 0xff", "utf-16")
def text_in_utf_16(folder: Path) -> Source:
    return written(folder, PROSE.encode("utf-16"))


@refused("holds a zero at character 1,", "UTF-16", "--encoding utf-16")
def text_in_utf_16_without_a_mark(folder: Path) -> Source:
    return written(folder, PROSE.encode("utf-16-le"))


@refused("No encoding named 'utf-9'", "such as utf-8 or latin-1")
def an_encoding_that_is_none(folder: Path) -> Source:
    return written(folder, PROSE, encoding="utf-9")


@refused("is not ascii", "byte 5 is 0xc3")
def another_encoding_than_the_one_named(folder: Path) -> Source:
    return written(folder, "abcd é" + PROSE, encoding="ascii")


@refused("t.txt' is empty", "--data takes")
def an_empty_text(folder: Path) -> Source:
    return written(folder, "")


@refused("t.txt' holds no text")
def a_text_of_blanks(folder: Path) -> Source:
    return written(folder, " \n \n\t")


@refused("has 40 characters", "a window takes 64", "smaller --window")
def a_text_shorter_than_a_window(folder: Path) -> Source:
    return written(folder, PROSE[:40])


@refused("The val split", "a window takes 200", "longer text", "--window")
def a_text_whose_val_is_shorter_than_a_window(folder: Path) -> Source:
    return written(folder, "ab " * 900, window=200, vocabulary=8)


@refused("--window 2 is out of range", "at least 8")
def a_window_of_two(folder: Path) -> Source:
    return written(folder, PROSE, window=2, kind="language")


@refused("A vocabulary of 5 leaves no room", "different characters", "larger one")
def a_vocabulary_of_fewer_tokens_than_characters(folder: Path) -> Source:
    return written(folder, PROSE, vocabulary=5, kind="language")


@refused("--tokens 'syllables' is unknown", "words, pairs or characters")
def tokens_that_are_none(folder: Path) -> Source:
    return written(folder, PROSE, tokens="syllables")


@refused("Words cannot be continued", "--tokens takes pairs or characters")
def a_text_to_be_continued_by_words(folder: Path) -> Source:
    return written(folder, PROSE, tokens="words", kind="language")


@refused("Line 31 of .*t.txt' is 'good', a label without a text", "Complete the line")
def a_label_without_a_text(folder: Path) -> Source:
    return written(folder, "\n".join([*lines(30), "good", *lines(30)]))


@refused("one class, 'good'")
def lines_of_one_label(folder: Path) -> Source:
    return written(folder, "\n".join(line.replace("bad", "good") for line in lines()), kind="classification")


@refused("too many for classes")
def lines_whose_first_words_are_no_labels(folder: Path) -> Source:
    return written(folder, "\n".join(f"word{k} and more" for k in range(50)), kind="classification")


@refused("has 6 lines; at least 10")
def too_few_lines(folder: Path) -> Source:
    return written(folder, "\n".join(lines(6)))


@refused("Class 'ugly'", "in test and not in train")
def a_label_that_only_test_has(folder: Path) -> Source:
    written(folder, "\n".join([*lines(20), "ugly the value"]), name="later.test")
    return written(folder, "\n".join(lines())) | {"test_data": str(folder / "later.test")}


@refused("--test-data 'other.txt' does not go with the folder")
def a_test_file_beside_a_folder(folder: Path) -> Source:
    written(folder, "\n".join(lines()), name="a.train")
    return {"data": str(folder), "test_data": "other.txt"}


@refused("is a folder, and a text to be continued is one file")
def a_folder_to_be_continued(folder: Path) -> Source:
    written(folder, "\n".join(lines()), name="a.train")
    return {"data": str(folder), "kind": "language"}


@refused("is text, whose modality is tokens, not series")
def a_text_as_a_series(folder: Path) -> Source:
    return written(folder, PROSE, modality="series", kind="language")


@refused("is no text, which language needs")
def an_archive_to_be_continued(folder: Path) -> Source:
    np.savez(folder / "a.npz", x=np.zeros((40, 5), np.int64), y=np.zeros((40, 5)))
    return {"data": str(folder / "a.npz"), "kind": "language", "modality": "tokens"}


@pytest.mark.parametrize("kind", ["language", "classification", "translation"])
@pytest.mark.parametrize("name", ["gone.txt", "gone.txt.gz"])
def test_a_test_file_that_is_not_there(kind: str, name: str, tmp_path: Path) -> None:
    source = written(tmp_path, "\n".join(f"good day\tto you {k}" for k in range(99)), kind=kind, encoding="utf-8")
    with pytest.raises(BadInput, match=f"There is no file '{tmp_path / name}'; give the path of one that exists\\."):
        registry.load(source | {"test_data": str(tmp_path / name)})


@pytest.mark.parametrize("name", ["t.txt", "t.txt.gz"])
def test_a_file_that_may_not_be_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite may run as root, whom no mode stops, so the system's own refusal is raised here."""

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    source = written(tmp_path, PROSE, name=name, kind="language")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(BadInput, match=f"{name}' may not be read: permission denied"):
        registry.load(source)


@pytest.mark.parametrize(("case", "words"), CASES)
def test_bad_text_gets_a_sentence(case: Case, words: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(BadInput) as raised:
        registry.load(case(tmp_path))
    sentence = str(raised.value)
    assert "\n" not in sentence and sentence.endswith(".")
    for pattern in words:
        assert re.search(pattern, sentence), sentence
