"""Text as data: tokenizers, windows and lines, what a text task promises, and what is refused."""

from __future__ import annotations

import ast
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from searchkit.core.data_spec import Arrays
from searchkit.core.errors import BadInput
from searchkit.core.training import Training
from searchkit.data import tokenizer
from searchkit.data.byte_pairs import learn, learn_words
from searchkit.data.tokenizer import PIECES, Tokenizer, merge_pair
from searchkit.tasks import registry
from searchkit.tasks.text.language import LanguageTask

Source = dict[str, Any]

WORDS = ("the", "value", "of", "an", "object", "is", "a", "list", "that", "holds", "each", "name", "here")
PROSE = " ".join(WORDS[k * k % 13] + ("." if k % 11 == 0 else "") + ("\n" if k % 17 == 0 else "") for k in range(1500))


def prose(folder: Path, text: str = PROSE, **source: Any) -> Source:
    (folder / "prose.txt").write_text(text, encoding="utf-8")
    return {"data": str(folder / "prose.txt"), "kind": "language", **source}


def lines(n: int = 60) -> list[str]:
    return [
        f"{'good bad'.split()[k % 2]} {WORDS[k % 13]} {WORDS[k * 5 % 13]} {'yes no'.split()[k % 2]}" for k in range(n)
    ]


# ── Tokenizers ───────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=200), st.integers(0, 40))
def test_what_is_encoded_is_decoded(text: str, pairs: int) -> None:
    size = len(set(text)) + 2 + pairs
    for words in (
        Tokenizer(learn([text], size=None, where="it", steps=8)),
        Tokenizer(learn([text], size=size, where="it", steps=8)),
    ):
        assert words.decode(words.encode(text)) == text
        assert sum(words.characters()[number] for number in words.encode(text)) == len(text)


def test_merges_are_those_of_counting_everything_anew() -> None:
    """The heap and the counts that it keeps up give what a count of the whole text gives after every merge."""
    plain = learn([PROSE], size=90, where="it", steps=8)
    first = len(plain["tokens"]) - len(plain["merges"])
    numbers = {token: number for number, token in enumerate(plain["tokens"][:first])}
    pieces = [[numbers[c] for c in piece] for piece in PIECES.findall(PROSE)]
    for k, merged in enumerate(plain["merges"]):
        counts = Counter(pair for piece in pieces for pair in zip(piece, piece[1:], strict=False))
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        assert tuple(merged) == best
        pieces = [merge_pair(piece, best, first + k) for piece in pieces]
    assert Tokenizer(plain).encode(PROSE) == [number for piece in pieces for number in piece]
    assert len(plain["merges"]) > 20


def test_the_first_merge_of_gages_example() -> None:
    plain = learn(["aaabdaaabac"], size=6, where="it", steps=8)
    assert plain["tokens"] == ["", "a", "b", "c", "d", "aa"] and plain["merges"] == [[1, 1]]
    assert Tokenizer(plain).encode("aaab") == [5, 1, 2]


def test_a_character_that_train_never_had_is_token_0() -> None:
    words = Tokenizer(learn(["abc"], size=None, where="it", steps=8))
    assert words.encode("aéb") == [1, 0, 2] and words.decode([1, 0, 2]) == f"a{tokenizer.UNKNOWN}b"


def test_words_are_the_most_frequent_and_one_that_stands_once_is_unknown() -> None:
    plain = learn_words(["Who was he ?", "Who wrote it, and who was it ?"], size=6, steps=8)
    assert plain["tokens"] == ["", "who", "?", "it", "was"]  # by number, then by the alphabet
    words = Tokenizer(json.loads(json.dumps(plain)))
    assert words.encode("WHO was Galileo?") == [1, 4, 0, 2]
    assert words.decode([1, 4, 0, 2]) == f"who was {tokenizer.UNKNOWN} ?"
    assert learn_words(["a a b b"], size=2, steps=8)["tokens"] == ["", "a"]


def test_the_tokenizer_needs_the_standard_library_alone() -> None:
    tree = ast.parse(Path(tokenizer.__file__).read_text(encoding="utf-8"))
    imported = {n.names[0].name for n in ast.walk(tree) if isinstance(n, ast.Import)}
    imported |= {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= set(sys.stdlib_module_names)


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


# ── What is refused ──────────────────────────────────────────────────────────────────────────────────────────────────

Case = Callable[[Path], Source]
CASES: list[Any] = []


def refused(*words: str) -> Callable[[Case], Case]:
    def register(case: Case) -> Case:
        CASES.append(pytest.param(case, words, id=case.__name__))
        return case

    return register


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


@pytest.mark.parametrize(("case", "words"), CASES)
def test_bad_text_gets_a_sentence(case: Case, words: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(BadInput) as raised:
        registry.load(case(tmp_path))
    sentence = str(raised.value)
    assert "\n" not in sentence and sentence.endswith(".")
    for pattern in words:
        assert re.search(pattern, sentence), sentence


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
