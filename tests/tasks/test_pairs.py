"""Pairs of texts as data: parallel files, lines with a tab, and what their tasks promise."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import torch
from text_pairs import german_and_english, loaded, parallel

from searchkit.core.data_spec import Arrays
from searchkit.core.training import Training
from searchkit.data.tokenizer import Tokenizer
from searchkit.tasks import registry
from searchkit.tasks.text.dates import MONTHS, NOTATIONS, dates
from searchkit.tasks.text.number_words import in_words, number_words
from searchkit.tasks.text.writing import WritingTask

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
