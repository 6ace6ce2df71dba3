"""Pairs of texts as data: parallel files and lines with a tab, what their tasks promise, scores of texts, refusals."""

from __future__ import annotations

import ast
import gzip
import json
import math
import random
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from searchkit.core.data_spec import Arrays
from searchkit.core.errors import BadInput
from searchkit.core.training import Training
from searchkit.data.tokenizer import Tokenizer
from searchkit.tasks import registry
from searchkit.tasks.text import decoding
from searchkit.tasks.text.dates import MONTHS, NOTATIONS, dates
from searchkit.tasks.text.number_words import in_words, number_words
from searchkit.tasks.text.translations import bleu, bleu_counts, bleu_interval, chrf, words
from searchkit.tasks.text.writing import WritingTask

Source = dict[str, Any]

NOUNS = {"Hund": "dog", "Katze": "cat", "Vogel": "bird", "Fisch": "fish", "Baum": "tree", "Haus": "house"}
VERBS = {"sieht": "sees", "sucht": "seeks", "liebt": "loves", "malt": "paints"}


def german_and_english(n: int = 60) -> tuple[list[str], list[str]]:
    sides: tuple[list[str], list[str]] = ([], [])
    for k in range(n):
        (a, b), (c, d), (e, f) = (list(w.items())[k // s % len(w)] for w, s in ((NOUNS, 1), (VERBS, 6), (NOUNS, 5)))
        sides[0].append(f"Ein {a} {c} einen {e}{'.' if k % 3 else ' und schweigt.'}")
        sides[1].append(f"A {b} {d} a {f}{'.' if k % 3 else ' in silence.'}")
    return sides


def parallel(folder: Path, parts: dict[str, int] | None = None, *, packed: bool = False) -> Path:
    for name, n in (parts or {"train": 60}).items():
        for language, lines in zip(("de", "en"), german_and_english(n), strict=True):
            text = ("\n".join(lines) + "\n").encode()
            file = folder / f"{name}.{language}{'.gz' if packed else ''}"
            file.write_bytes(gzip.compress(text) if packed else text)
    return folder


def loaded(**source: Any) -> WritingTask:
    task = registry.load({name: str(value) if isinstance(value, Path) else value for name, value in source.items()})
    assert isinstance(task, WritingTask)
    return task


# ── Reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_of_parallel_files_is_found_for_what_it_is(tmp_path: Path, packed: bool) -> None:
    parallel(tmp_path, {"train": 60, "val": 12, "test_2016_flickr": 14}, packed=packed)
    task = loaded(data=tmp_path, target="en")
    assert [task.n_examples(split) for split in ("train", "val", "test")] == [60, 12, 14]
    assert task.data.kind == "translation" and task.goal.metric == "nats_per_character"
    german, english = german_and_english(14)
    assert task.sources("test") == german and task.wanted("test") == english
    other = loaded(data=tmp_path, target="de")
    assert other.sources("test") == english and other.wanted("test") == german


def test_two_files_beside_each_other_and_lines_with_a_tab(tmp_path: Path) -> None:
    parallel(tmp_path, {"corpus": 60, "later": 14})
    task = loaded(data=tmp_path / "corpus.de", target="en", kind="translation", test_data=tmp_path / "later.de")
    assert task.n_examples("train") + task.n_examples("val") == 60 and task.wanted("test") == german_and_english(14)[1]
    lines = [f" {a}\t{b} " for a, b in zip(*german_and_english(), strict=True)]
    (tmp_path / "mine.tsv").write_text("\r\n".join([*lines[:30], "", *lines[30:]]))
    tabbed = loaded(data=tmp_path / "mine.tsv", kind="translation")
    told = set(zip(tabbed.sources("train"), tabbed.wanted("train"), strict=True))
    assert sum(tabbed.n_examples(split) for split in ("train", "val", "test")) == 60
    assert told <= set(zip(*german_and_english(), strict=True))


def test_multi30k(stored_data: Callable[[str], Path]) -> None:
    task = loaded(data=stored_data("multi30k"), target="en", vocabulary=600)
    assert [task.n_examples(split) for split in ("train", "val", "test")] == [29_000, 1_014, 1_000]
    assert task.sources("val")[1] == "Ein Mann schläft in einem grünen Raum auf einem Sofa."
    assert task.wanted("val")[1] == "A man sleeping in a green room on a couch."


# ── What is asked of them ────────────────────────────────────────────────────────────────────────────────────────────


def test_an_answer_comes_in_one_step_late_and_ends_with_the_mark(tmp_path: Path) -> None:
    task = loaded(data=parallel(tmp_path), target="en", kind="transcription")
    answers, mark = task.words.words, task.words.mark
    assert task.data.tokenizer is not None and not task.data.tokenizer["merges"]
    assert task.spec.n_classes == mark + 1 == len(task.data.tokenizer["answers"]["tokens"]) + 1
    raw, target = task.raw("val"), task.data.target_of("val")
    for previous, row, text in zip(raw["previous"], target, task.wanted("val"), strict=True):
        tokens = answers.encode(text)
        n = len(tokens)
        assert previous[0] == mark and previous[1 : n + 1].tolist() == tokens and not previous[n + 1 :].any()
        assert row[:n].tolist() == tokens and row[n] == mark and (row[n + 1 :] == -1).all()


def test_batches_are_as_long_as_their_longest_rows_and_have_each_row_once(tmp_path: Path) -> None:
    task = loaded(data=parallel(tmp_path), target="en")
    whole = {tuple(row[row >= 0].tolist()) for row in task.data.target_of("train")}
    seen, shapes = [], set()
    for batch in task.batches("train", Training(batch_size=6), seed=0, device="cpu"):
        tokens, lengths, previous = batch.inputs
        assert tokens.shape[1] == lengths.max() and previous.shape == batch.target.shape
        assert bool((batch.target[:, -1] >= 0).any())
        seen += [tuple(row[row >= 0].tolist()) for row in batch.target]
        shapes.add((tokens.shape[1], previous.shape[1]))
    assert len(seen) == task.n_examples("train") and set(seen) == whole and len(shapes) > 1


def test_padding_has_no_part_in_loss_match_or_score(tmp_path: Path) -> None:
    task = loaded(data=parallel(tmp_path), target="en")
    kind, n_classes = task.words, task.words.n_classes
    torch.manual_seed(0)
    output, target = torch.randn(2, 5, n_classes), torch.tensor([[1, 2, 3, 4, 5], [1, 2, -1, -1, -1]])
    there = target >= 0
    expected = torch.nn.functional.cross_entropy(output[there], target[there])
    torch.testing.assert_close(kind.loss(output, target), expected)
    hot = torch.nn.functional.one_hot(target.clamp(min=0), n_classes).float() * there[..., None]
    torch.testing.assert_close(kind.loss(output, hot), expected)
    assert torch.equal(kind.encode_soft(target, 0.1).sum(-1) > 0.5, there) and kind.encode_soft(target, 0.0) is target
    changed = output.clone()
    changed[1, 2:] += torch.randn(3, n_classes)
    torch.testing.assert_close(kind.loss(changed, target), expected)
    answers = output.log_softmax(-1).numpy()
    first, second = kind.score(answers, target.numpy()), kind.score(changed.log_softmax(-1).numpy(), target.numpy())
    assert first.scores.tolist() == second.scores.tolist() and first.metrics == second.metrics


def test_equal_odds_cost_their_nats_a_character(tmp_path: Path) -> None:
    """A score is an answer's nats over the mean characters of one, its end counted as one."""
    task = loaded(data=parallel(tmp_path), target="en")
    size = task.spec.n_classes

    def equal_odds(inputs: Arrays) -> Arrays:
        return {"log_probabilities": np.full((*inputs["previous"].shape, size), -math.log(size), np.float32)}

    found = task.evaluate(equal_odds, "val")
    target, texts = task.data.target_of("val"), task.wanted("val")
    n_steps, n_characters = (
        (target >= 0).sum(),
        sum(len(text) + 2 for text in texts),
    )  # its end, and the blank before it
    assert found.metrics["nats_per_character"] == pytest.approx(n_steps * math.log(size) / n_characters)
    assert task.goal.value(found.scores) == found.metrics["nats_per_character"]
    assert "bleu" not in found.metrics and found.metrics["exact_match"] == 0.0
    on_test = task.evaluate(equal_odds, "test")  # where the answers are written, too: none of them has a word
    assert on_test.metrics["bleu"] == 0.0 and on_test.metrics["chrf"] < 5


def test_who_knows_the_answers_scores_all(tmp_path: Path) -> None:
    task = loaded(data=parallel(tmp_path), target="en")
    known = {}
    for split in ("train", "val", "test"):
        raw = task.raw(split)
        for row, n, target in zip(raw["tokens"], raw["lengths"], task.data.target_of(split), strict=True):
            known[tuple(row[:n].tolist())] = target

    def oracle(inputs: Arrays) -> Arrays:
        steps = inputs["previous"].shape[1]
        out = np.full((len(inputs["tokens"]), steps, task.spec.n_classes), -50.0, np.float32)
        for answer, row, n in zip(out, inputs["tokens"], inputs["lengths"], strict=True):
            for step, token in enumerate(known[tuple(row[:n].tolist())][:steps]):
                answer[step, token] = 0.0
        return {"log_probabilities": out}

    found = task.evaluate(oracle, "test")
    assert found.metrics == {**found.metrics, "exact_match": 1.0, "accuracy": 1.0, "nats_per_character": 0.0}
    assert found.metrics["bleu"] == pytest.approx(100) and found.metrics["chrf"] == pytest.approx(100)
    assert task.write(oracle, "test", 3) == task.wanted("test")[:3]


def test_the_dates_are_what_they_say() -> None:
    task = registry.load({"task": "dates"})
    assert isinstance(task, WritingTask)
    assert task.goal.metric == "exact_match" and task.summary()["in_train_and_test"] == 0
    assert dates(50, seed=3) == dates(50, seed=3) != dates(50, seed=4)
    day = date(2003, 4, 22)
    shown = [notation(day) for notation in NOTATIONS]
    assert {"22 April 2003", "Apr 22nd 2003", "Tuesday, April 22nd, 2003", "22-APR-03", "4/22/2003"} <= set(shown)
    assert len(set(shown)) == len(NOTATIONS) and len(MONTHS) == 12
    for source, answer in zip(task.sources("test")[:200], task.wanted("test"), strict=False):
        assert source in {notation(date.fromisoformat(answer)) for notation in NOTATIONS}
    json.dumps(task.data.tokenizer)


def test_the_loop_needs_numpy_alone() -> None:
    tree = ast.parse(Path(decoding.__file__).read_text(encoding="utf-8"))
    imported = {n.names[0].name for n in ast.walk(tree) if isinstance(n, ast.Import)}
    imported |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported == {"__future__", "collections.abc", "typing", "numpy"}


def test_a_beam_finds_what_greed_misses() -> None:
    """Two steps: the likeliest first token leads to worse odds than the other."""
    odds = {(): [0.6, 0.4, 0.0], (0,): [0.3, 0.3, 0.4], (1,): [0.05, 0.05, 0.9]}

    def ask(rows: np.ndarray, previous: np.ndarray) -> np.ndarray:
        out = np.zeros((len(rows), previous.shape[1], 3))
        for answer, so_far in zip(out, previous.tolist(), strict=True):
            answer[-1] = odds.get(tuple(so_far[1:]), [0.0, 0.0, 1.0])
        with np.errstate(divide="ignore"):
            return np.log(out)

    assert decoding.greedy(ask, 1, mark=2, longest=3) == [[0]]
    assert decoding.beam(ask, 0, mark=2, longest=3, width=1) == [0]
    assert decoding.beam(ask, 0, mark=2, longest=3, width=2) == [1]


@pytest.mark.parametrize("width", [1, 2, 3])
def test_an_answer_of_the_greatest_length_is_one_too(width: int) -> None:
    """The mark has one chance in ten at each step: three tokens and no mark are likelier than any that ends before."""

    def ask(rows: np.ndarray, previous: np.ndarray) -> np.ndarray:
        return np.log(np.broadcast_to([0.85, 0.05, 0.1], (len(rows), previous.shape[1], 3)))

    assert decoding.greedy(ask, 1, mark=2, longest=3) == [[0, 0, 0]]
    assert decoding.beam(ask, 0, mark=2, longest=3, width=width) == [0, 0, 0]


@pytest.mark.parametrize(
    "number, words",
    [
        (0, "zero"), (13, "thirteen"), (20, "twenty"), (47, "forty-seven"), (100, "one hundred"),
        (908, "nine hundred eight"), (3000, "three thousand"), (12_015, "twelve thousand fifteen"),
        (640_999, "six hundred forty thousand nine hundred ninety-nine"),
    ],
)  # fmt: skip
def test_numbers_have_their_english_words(number: int, words: str) -> None:
    assert in_words(number) == words


def test_every_number_of_the_task_is_told_once() -> None:
    found = number_words(3000, seed=0)
    assert [in_words(int(answer)) for answer in found.answers] == list(found.sources)
    assert len(set(found.answers)) == 3000 and {len(answer) for answer in found.answers} == {1, 2, 3, 4, 5, 6}
    assert found == number_words(3000, seed=0) != number_words(3000, seed=1)


# ── How near a text is ───────────────────────────────────────────────────────────────────────────────────────────────


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


# ── What is refused ──────────────────────────────────────────────────────────────────────────────────────────────────

Case = Callable[[Path], Source]
CASES: list[Any] = []


def refused(*words_: str) -> Callable[[Case], Case]:
    def register(case: Case) -> Case:
        CASES.append(pytest.param(case, words_, id=case.__name__))
        return case

    return register


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


@refused("are for translation or transcription, not classification")
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


def test_an_unknown_character_is_token_0_in_both_tokenizers(tmp_path: Path) -> None:
    parallel(tmp_path, {"train": 60, "test": 12})
    for language in ("de", "en"):
        lines = ["Ωmega" if k == 0 else line for k, line in enumerate(german_and_english(12)[language == "en"])]
        (tmp_path / f"test.{language}").write_text("\n".join(lines), encoding="utf-8")
    task = loaded(data=tmp_path, target="en")
    assert task.data.tokenizer is not None
    for plain in (task.data.tokenizer, task.data.tokenizer["answers"]):
        assert 0 in Tokenizer(plain).encode("Ωmega")
    assert task.wanted("test")[0].startswith("\N{REPLACEMENT CHARACTER}")
