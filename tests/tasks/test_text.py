"""Text as data: windows of a text, lines with labels, and what a text task promises."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_texts import PROSE, lines, prose

from searchkit.core.data_spec import Arrays
from searchkit.core.errors import BadInput
from searchkit.core.training import Training
from searchkit.data.tokenizer import Tokenizer
from searchkit.tasks import registry
from searchkit.tasks.text.language import LanguageTask

# ── A text to be continued ───────────────────────────────────────────────────────────────────────────────────────────


def language(folder: Path, **source: Any) -> LanguageTask:
    task = registry.load(prose(folder, **source))
    assert isinstance(task, LanguageTask)
    return task


@pytest.mark.parametrize("vocabulary", [None, 120])
def test_each_token_of_a_part_but_the_first_is_predicted_once(tmp_path: Path, vocabulary: int | None) -> None:
    task = language(tmp_path, window=16, vocabulary=vocabulary)
    words = Tokenizer(task.data.tokenizer or {})
    end = round(0.9 * len(PROSE))
    begin = round(end - 0.1 * len(PROSE))
    for split, part in (("train", PROSE[:begin]), ("val", PROSE[begin:end]), ("test", PROSE[end:])):
        stream = words.encode(part)
        x, y = task.raw(split)["tokens"], task.data.target_of(split)
        n = y.size
        assert len(stream) - 1 - n < 16 and x.shape == y.shape == (n // 16, 16)
        assert x.flatten().tolist() == stream[:n] and y.flatten().tolist() == stream[1 : n + 1]


def test_training_cuts_the_stream_anew_and_val_as_it_is(tmp_path: Path) -> None:
    letters = np.random.default_rng(0).choice(list("abcdefghijklmnopqrstuvwxyz"), 4000)  # no 16 of them stand twice
    task = registry.load(prose(tmp_path, "".join(letters), window=16))
    assert isinstance(task, LanguageTask)
    stream = bytes(task._stream("cpu").tolist())
    begins = set()
    for seed in range(4):
        batches = list(task.batches("train", Training(batch_size=8), seed=seed, device="cpu"))
        x, y = torch.cat([b.inputs[0] for b in batches]), torch.cat([b.target for b in batches])
        assert torch.equal(x[:, 1:], y[:, :-1])
        at = [stream.index(bytes(row)) for row in x.tolist()]
        assert [stream[k + 16] for k in at] == y[:, -1].tolist()
        assert len({k % 16 for k in at}) == 1 and len(set(at)) == len(at)
        assert len(at) == task.n_examples("train") - (at[0] % 16 > 0)
        begins.add(at[0] % 16)
    assert len(begins) > 1
    val = torch.cat([b.inputs[0] for b in task.batches("val", Training(batch_size=8), seed=0, device="cpu")])
    assert np.array_equal(val.numpy(), task.raw("val")["tokens"])


def test_nats_are_those_of_the_answers_a_character(tmp_path: Path) -> None:
    """Equal odds cost log V a token, whatever the tokens; a score is a window's, and their mean is nats a character."""
    for vocabulary in (None, 120):
        task = language(tmp_path, window=16, vocabulary=vocabulary)
        size = task.spec.vocabulary

        def equal_odds(inputs: Arrays, size: int = size) -> Arrays:
            return {"log_probabilities": np.full((*inputs["tokens"].shape, size), -math.log(size), np.float32)}

        found = task.evaluate(equal_odds, "test")
        target = task.data.target_of("test")
        n_characters = np.array(Tokenizer(task.data.tokenizer or {}).characters())[target].sum()
        assert found.metrics["nats_per_character"] == pytest.approx(target.size * math.log(size) / n_characters)
        assert task.goal.value(found.scores) == found.metrics["nats_per_character"]
        assert len(found.scores) == len(target) and found.decisions.shape == target.shape
        assert (n_characters == target.size) == (vocabulary is None)


def test_an_answer_that_is_no_number_is_the_worst(tmp_path: Path) -> None:
    task = language(tmp_path, window=16)
    found = task.evaluate(
        lambda inputs: {"log_probabilities": np.full((*inputs["tokens"].shape, task.spec.vocabulary), np.nan)}, "val"
    )
    assert found.metrics["nats_per_character"] == 100.0


def test_smoothed_targets_and_plain_ones_give_the_same_loss_at_no_smoothing(tmp_path: Path) -> None:
    kind = language(tmp_path, window=16)._kind
    output, target = torch.randn(2, 16, kind.n_classes), torch.randint(kind.n_classes, (2, 16))
    hot = torch.nn.functional.one_hot(target, kind.n_classes).float()
    torch.testing.assert_close(kind.loss(output, target), kind.loss(output, hot))
    smoothed = kind.encode_soft(target, 0.1)
    torch.testing.assert_close(smoothed.sum(-1), torch.ones(2, 16))
    assert kind.encode_soft(target, 0.0) is target


def test_a_second_file_is_the_test_split(tmp_path: Path) -> None:
    later = prose(tmp_path)["data"]
    (tmp_path / "first.txt").write_text(PROSE[::-1])
    task = registry.load({"data": str(tmp_path / "first.txt"), "test_data": later, "kind": "language", "window": 16})
    words = Tokenizer(task.data.tokenizer)  # type: ignore[attr-defined]
    assert words.decode(task.raw("test")["tokens"][0]) == PROSE[:16]
    assert words.decode(task.raw("val")["tokens"][0]) == PROSE[::-1][round(0.9 * len(PROSE)) :][:16]


def test_the_tokenizer_knows_train_alone(tmp_path: Path) -> None:
    task = language(tmp_path, window=16)
    text = PROSE[: -len(PROSE) // 20] + "é" * (len(PROSE) // 20)
    other = registry.load(prose(tmp_path, text, window=16))
    assert other.data.tokenizer == task.data.tokenizer  # type: ignore[attr-defined]
    assert (other.raw("test")["tokens"] == 0).any()
    assert other.fingerprint != task.fingerprint


# ── Lines with labels ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", [None, "words", "pairs", "characters"])
def test_lines_with_labels_are_found_for_what_they_are(tmp_path: Path, kind: str | None) -> None:
    (tmp_path / "mine.txt").write_text("\n".join(lines()) + "\n")
    task = registry.load({"data": str(tmp_path / "mine.txt"), "tokens": kind})
    assert task.labels == ("bad", "good") and task.goal.metric == "accuracy"
    assert [port.shape for port in task.inputs] == [(None,), ()]
    raw = task.raw("train")
    words = Tokenizer(task.data.tokenizer)  # type: ignore[attr-defined]
    before = "" if kind in (None, "words") else " "
    told = {before + line.split(" ", 1)[1] for line in lines()}
    for row, length in zip(raw["tokens"], raw["lengths"], strict=True):
        assert words.decode(row[:length]) in told and not row[length:].any()


def test_dropped_tokens_become_the_unknown_one(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("\n".join(lines(600)))
    task = registry.load({"data": str(tmp_path / "mine.txt")})
    plain, dropped = (
        torch.cat([b.inputs[0] for b in task.batches("train", Training(augment=augment), seed=0, device="cpu")])
        for augment in ((), ("drop",))
    )
    changed = plain != dropped
    assert (dropped[changed] == 0).all() and 0.05 < changed.float().mean() < 0.15


def test_a_folder_of_train_dev_and_test_lines(tmp_path: Path) -> None:
    for name, part in (("train", lines(60)), ("dev", lines(20)), ("test", lines(24))):
        (tmp_path / f"mine.{name}").write_text("\n".join(part))
    task = registry.load({"data": str(tmp_path)})
    assert {split: task.n_examples(split) for split in ("train", "val", "test")} == {"train": 60, "val": 20, "test": 24}
    alone = registry.load({"data": str(tmp_path / "mine.train"), "test_data": str(tmp_path / "mine.test")})
    assert alone.n_examples("train") + alone.n_examples("val") == 60 and alone.n_examples("test") == 24


def test_a_table_with_the_suffix_of_a_text_stays_a_table(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a,b,y\n" + "".join(f"{k},{k % 3},{k % 2}\n" for k in range(40)))
    assert registry.load({"data": str(tmp_path / "t.txt"), "target": "y"}).spec.modality == "tabular"


def test_stored_texts(stored_data: Callable[[str], Path]) -> None:
    trec = registry.load({"data": str(stored_data("trec")), "encoding": "latin-1"})
    assert trec.n_examples("train") + trec.n_examples("val") == 5452 and trec.n_examples("test") == 500
    assert len(trec.labels) == 6
    with pytest.raises(BadInput, match=r"TREC.*all' is not utf-8: byte .* is 0xf0; .*--encoding latin-1"):
        registry.load({"data": str(stored_data("trec"))})
    sst2 = registry.load({"data": str(stored_data("sst2"))})
    assert [sst2.n_examples(split) for split in ("train", "val", "test")] == [6920, 872, 1821]
    text = (stored_data("tinyshakespeare") / "input.txt").read_text()
    plays = registry.load({"data": str(stored_data("tinyshakespeare") / "input.txt")})
    words = Tokenizer(plays.data.tokenizer)  # type: ignore[attr-defined]
    last = words.decode(plays.raw("test")["tokens"].flatten())
    assert text[round(0.9 * len(text)) :].startswith(last) and len(last) > 0.0999 * len(text)


def test_the_embedded_texts_are_what_they_say() -> None:
    from pydoc_data.topics import topics

    pages = registry.load({"task": "pydoc-topics"})
    assert set(pages.labels) <= set(topics) and len(pages.labels) == 8
    whole = registry.load({"task": "pydoc-topics", "tokens": "pairs"})
    assert whole.summary()["in_train_and_test"] == 0  # by words two sentences may differ in unknown ones alone
    assert pages.raw("train")["tokens"].shape[1] <= 60 and pages.data.tokenizer["words"]  # type: ignore[attr-defined]
    told = registry.load({"task": "pydoc"})
    words = Tokenizer(told.data.tokenizer)  # type: ignore[attr-defined]
    assert words.decode(told.raw("train")["tokens"][0]) == "\n".join(topics[k] for k in sorted(topics))[:64]
    json.dumps(told.data.tokenizer)  # type: ignore[attr-defined]
