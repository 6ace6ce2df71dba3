"""Pairs of texts that cannot be read are refused in one sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from bad_data import Case, registered_in
from text_pairs import Source, german_and_english, parallel

from searchkit.core.errors import BadInput
from searchkit.tasks import registry

CASES: list[Any] = []
refused = registered_in(CASES)


@refused("train.de' has 60 lines and .*train.en' has 59", "the same line of the other")
def files_of_unequal_lines(folder: Path) -> Source:
    parallel(folder)
    (folder / "train.en").write_text("\n".join(german_and_english(59)[1]))
    return {"data": str(folder), "target": "en"}


@refused("Line 31 of .*train.en' is empty, and of .*train.de' it is not", "complete the pair")
def a_line_without_an_answer(folder: Path) -> Source:
    parallel(folder)
    english = german_and_english()[1]
    (folder / "train.en").write_text("\n".join([*english[:30], " ", *english[31:]]))
    return {"data": str(folder), "target": "en"}


@refused("train.de' is not utf-8: byte", "--encoding latin-1")
def a_side_in_another_encoding(folder: Path) -> Source:
    parallel(folder)
    (folder / "train.de").write_bytes("\n".join(["Der Bär"] * 60).encode("latin-1"))
    return {"data": str(folder), "target": "en"}


@refused("train.en.gz' is not a complete gzip file", "pack it again")
def an_archive_cut_short(folder: Path) -> Source:
    parallel(folder, packed=True)
    packed = folder / "train.en.gz"
    packed.write_bytes(packed.read_bytes()[:-20])
    return {"data": str(folder), "target": "en"}


@refused("are in de, en; say which is the answer, such as --target en")
def no_word_on_which_is_the_answer(folder: Path) -> Source:
    return {"data": str(parallel(folder))}


@refused("are in de, en, and 'fr' is none of them", "--target en")
def a_language_that_is_not_there(folder: Path) -> Source:
    return {"data": str(parallel(folder)), "target": "fr"}


@refused("are in de, en, fr; keep two languages")
def three_languages(folder: Path) -> Source:
    parallel(folder)
    (folder / "train.fr").write_text("\n".join(german_and_english()[1]))
    return {"data": str(folder), "target": "en"}


@refused("has files to test in de and none in en", "add it")
def a_test_without_answers(folder: Path) -> Source:
    parallel(folder, {"train": 60, "test": 12})
    (folder / "test.en").unlink()
    return {"data": str(folder), "target": "en"}


@refused("There is no corpus.fr with the answers to .*corpus.de'", "NAME.LANGUAGE")
def no_file_beside_it(folder: Path) -> Source:
    parallel(folder, {"corpus": 60})
    return {"data": str(folder / "corpus.de"), "target": "fr", "kind": "translation"}


@refused("has no parallel files to train on", "train.de and train.en")
def a_folder_of_one_language(folder: Path) -> Source:
    parallel(folder)
    (folder / "train.en").unlink()
    return {"data": str(folder), "kind": "translation", "target": "en"}


@refused("Line 7 of .*mine.txt' has no tab", "a source, one tab and its answer", "--target")
def a_line_without_a_tab(folder: Path) -> Source:
    (folder / "mine.txt").write_text("\n".join(["a\tb"] * 6 + ["a b"] + ["a\tb"] * 20))
    return {"data": str(folder / "mine.txt"), "kind": "translation"}


@refused("Line 3 of .*mine.txt' has 2 tabs")
def a_line_with_two_tabs(folder: Path) -> Source:
    (folder / "mine.txt").write_text("\n".join(["a\tb"] * 2 + ["a\tb\tc"] + ["a\tb"] * 20))
    return {"data": str(folder / "mine.txt"), "kind": "transcription"}


@refused("Line 2 of the answer is empty", "mine.txt', its source, it is not")
def a_line_with_nothing_after_its_tab(folder: Path) -> Source:
    (folder / "mine.txt").write_text("\n".join(["a\tb", "a\t", *["a\tb"] * 20]))
    return {"data": str(folder / "mine.txt"), "kind": "transcription"}


@refused("has 6 pairs; at least 10")
def too_few_pairs(folder: Path) -> Source:
    return {"data": str(parallel(folder, {"train": 6})), "target": "en"}


@refused("A vocabulary of 9 leaves no room", "the sources of", "different characters")
def a_vocabulary_smaller_than_the_alphabet(folder: Path) -> Source:
    return {"data": str(parallel(folder)), "target": "en", "vocabulary": 9}


@refused("are for translation or exact-seq2seq, not classification")
def parallel_files_to_classify(folder: Path) -> Source:
    return {"data": str(parallel(folder)), "target": "en", "kind": "classification"}


@refused("--test-data 'later.de' does not go with the folder")
def a_test_file_beside_a_folder(folder: Path) -> Source:
    return {"data": str(parallel(folder)), "target": "en", "test_data": "later.de"}


@refused("--steps '9' is for wav and .ts files")
def a_length_for_texts(folder: Path) -> Source:
    return {"data": str(parallel(folder)), "target": "en", "steps": 9}


@pytest.mark.parametrize(("case", "patterns"), CASES)
def test_bad_pairs_get_a_sentence(case: Case, patterns: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(BadInput) as raised:
        registry.load(case(tmp_path))
    sentence = str(raised.value)
    assert "\n" not in sentence and sentence.endswith(".")
    for pattern in patterns:
        assert re.search(pattern, sentence), sentence
