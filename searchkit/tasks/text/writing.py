"""Texts that are answered by texts: translation, where many answers are right, and transcription, where one is.

The network is given the answer one step late and says at each step which token comes next: one pass trains and scores
all of them. A transcription is scored 1 where every step is right. That is what greedy decoding scores: it writes an
answer without a fault where the likeliest token is right at each step given right ones before it, and nowhere else. A
translation is scored by its nats, over the mean number of characters of an answer; on test its answers are written too,
greedily, for BLEU and chrF.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.core.data_spec import Arrays, Split, TensorSpec
from searchkit.core.errors import BadInput
from searchkit.core.goal import Evaluation, Goal, Predict
from searchkit.core.serialization import JSON
from searchkit.core.training import Batch, Training
from searchkit.data.dataset import Dataset, RawDataset, Target
from searchkit.data.problems import ProblemInfo
from searchkit.data.targets import given_target
from searchkit.data.tokenizer import Tokenizer
from searchkit.tasks.arrays import ArrayTask
from searchkit.tasks.bundle_files import for_text
from searchkit.tasks.predictions import STEPS
from searchkit.tasks.protocols import Modality, ProblemSpec
from searchkit.tasks.text.decoding import greedy
from searchkit.tasks.text.language import WORST, LogSoftmax
from searchkit.tasks.text.translations import bleu, bleu_counts, chrf

ROWS_AT_ONCE = 64
"""Of an evaluation: an answer has a number for each token that there is, at each step."""


@dataclass(frozen=True, eq=False)
class Answer:
    """A text as an answer. steps: of the longest, the mark that ends it included. words: its tokenizer."""

    goal: Goal
    steps: int
    words: Tokenizer

    @property
    def mark(self) -> int:
        """The token that begins and ends an answer: the last one."""
        return len(self.words.tokens)

    @property
    def n_classes(self) -> int:
        return self.mark + 1

    @property
    def output(self) -> TensorSpec:
        return TensorSpec("logits", (self.steps, self.n_classes), steps="steps")

    @property
    def answers(self) -> TensorSpec:
        return TensorSpec("log_probabilities", (None, self.n_classes), steps="steps")

    def postprocessor(self) -> nn.Module:
        return LogSoftmax()

    def encode(self, target: np.ndarray) -> np.ndarray:
        return target

    def encode_soft(self, target: Tensor, smoothing: float) -> Tensor:
        """(B, T) tokens, −1 after the end; or (B, T, n_classes), all 0 there, where something is to be smoothed."""
        if not smoothing:
            return target
        hot = F.one_hot(target.clamp(min=0), self.n_classes).float()
        return (hot * (1 - smoothing) + smoothing / self.n_classes) * (target >= 0)[..., None]

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The mean over the steps that there are."""
        if target.ndim == 2:
            return F.cross_entropy(output.flatten(0, 1).float(), target.flatten(), ignore_index=-1)
        return -(target * output.float().log_softmax(-1)).sum() / target.sum()

    def aux_loss_weight(self, loss: Tensor, output: Tensor) -> float:
        return 1.0

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """The divergence of the softened distributions of each step (Hinton et al. 2015, arXiv:1503.02531): (…, V)."""
        wanted = F.log_softmax(teacher.flatten(0, -2).float() / temperature, -1)
        given = F.log_softmax(student.flatten(0, -2).float() / temperature, -1)
        return F.kl_div(given, wanted, reduction="batchmean", log_target=True) * temperature**2

    def score(self, answers: np.ndarray, truth: np.ndarray) -> Evaluation:
        return self.judge_steps(*self.steps_of(answers, truth), truth)

    def steps_of(self, answers: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(n,) nats of each answer, and the likeliest token of each step, (n, T), −1 where there is none.

        truth: (n, T), −1 after the end.
        """
        there = truth >= 0
        given = np.take_along_axis(answers, np.maximum(truth, 0)[..., None], 2)[..., 0].astype(np.float64)
        nats = -(np.where(np.isfinite(given), given, -WORST) * there).sum(1)
        return nats, np.where(there, answers.argmax(2), -1)

    def judge_steps(self, nats: np.ndarray, decisions: np.ndarray, truth: np.ndarray) -> Evaluation:
        there = truth >= 0
        characters = np.array([*self.words.characters(), 1])  # the mark is one
        nats = nats / (characters[truth] * there).sum(1).mean()
        exact = (decisions == truth).all(1).astype(np.float64)
        metrics = {
            "exact_match": float(exact.mean()),
            "nats_per_character": float(nats.mean()),
            "accuracy": float((decisions == truth)[there].mean()),
        }
        scores = exact if self.goal.metric == "exact_match" else nats
        return Evaluation(metrics, scores, decisions, truth)

    def text(self, tokens: list[int]) -> str:
        return self.words.decode(tokens).strip()


def _maker(goal: Goal) -> Callable[[Dataset, Modality, nn.Module, TensorSpec], Answer]:
    def make(data: Dataset, modality: Modality, preprocessor: nn.Module, spec_input: TensorSpec) -> Answer:
        assert data.tokenizer is not None
        return Answer(goal, data.inputs["previous"].shape[1], Tokenizer(data.tokenizer["answers"]))

    return make


class WritingTask(ArrayTask):
    """An ArrayTask whose batches are as long as their longest rows, and hold rows of like lengths in training."""

    @property
    def words(self) -> Answer:
        assert isinstance(self._kind, Answer)
        return self._kind

    def _train(self, training: Training, seed: int, device: str) -> Iterator[Batch]:
        self._require_possible(training)
        generator = torch.Generator(device).manual_seed(seed)
        for rows in self._shuffled(training.batch_size, generator, device):
            yield self._batch("train", rows, training.label_smoothing, device)

    def _val(self, training: Training, device: str) -> Iterator[Batch]:
        for rows in torch.split(torch.arange(self.n_examples("val"), device=device), training.batch_size):
            yield self._batch("val", rows, 0.0, device)

    def _lengths(self, device: str) -> Tensor:
        """Of the text and its answer together."""
        (_, lengths, _), target, _ = self._resident("train", device)
        assert target is not None
        return lengths + (target >= 0).sum(1)

    def _batch(self, split: Split, rows: Tensor, smoothing: float, device: str) -> Batch:
        (tokens, lengths, previous), target = self._examples(split, rows, device)
        assert target is not None
        steps = int((target >= 0).sum(1).max())
        inputs = (tokens[:, : int(lengths.max())], lengths, previous[:, :steps])
        return Batch(inputs, self._kind.encode_soft(target[:, :steps], smoothing))

    def distillation_loss(self, student: nn.Module, teacher: nn.Module, batch: Batch, *, temperature: float) -> Tensor:
        """Over the steps that there are."""
        there = batch.target >= 0 if batch.target.ndim == 2 else batch.target.sum(-1) > 0
        with torch.no_grad():
            wanted = teacher(*batch.inputs)[there]
        return self._kind.distillation_loss(student(*batch.inputs)[there], wanted, temperature)

    def evaluate(self, predict: Predict, split: Split) -> Evaluation:
        kind, raw, truth = self.words, self.raw(split), self.data.target_of(split)
        nats, decisions = np.zeros(len(truth)), np.full(truth.shape, -1)
        steps = (truth >= 0).sum(1)
        order = np.argsort(raw["lengths"] + steps, kind="stable")
        for start in range(0, len(order), ROWS_AT_ONCE):
            rows = order[start : start + ROWS_AT_ONCE]
            most = int(steps[rows].max())
            answers = predict(_trimmed(raw, rows, raw["previous"][rows, :most]))[self.answers[0].name]
            nats[rows], decisions[rows, :most] = kind.steps_of(answers, truth[rows, :most])
        found = kind.judge_steps(nats, decisions, truth)
        if split == "test" and kind.goal.metric != "exact_match":
            found.metrics.update(self.measured(self.write(predict, split), split))
        return found

    def write(self, predict: Predict, split: Split, n: int | None = None) -> list[str]:
        """The answers to the first n sources of a split, written greedily."""
        raw, kind = self.raw(split), self.words
        n = len(raw["tokens"]) if n is None else n
        order = np.argsort(raw["lengths"][:n], kind="stable")

        def ask(rows: np.ndarray, previous: np.ndarray) -> np.ndarray:
            return predict(_trimmed(raw, order[rows], previous))[self.answers[0].name]

        made = greedy(ask, n, mark=kind.mark, longest=kind.steps - 1)
        written = [""] * n
        for row, tokens in zip(order.tolist(), made, strict=True):
            written[row] = kind.text(tokens)
        return written

    def wanted(self, split: Split) -> list[str]:
        """The answers that the data give. A character that train never had is the replacement character."""
        return [
            self.words.text([t for t in row if 0 <= t < self.words.mark]) for row in self.data.target_of(split).tolist()
        ]

    def sources(self, split: Split) -> list[str]:
        assert self.data.tokenizer is not None
        words, raw = Tokenizer(self.data.tokenizer), self.raw(split)
        return [words.decode(row[:n].tolist()).strip() for row, n in zip(raw["tokens"], raw["lengths"], strict=True)]

    def measured(self, written: list[str], split: Split) -> dict[str, float]:
        wanted = self.wanted(split)[: len(written)]
        return {
            "bleu": bleu(bleu_counts(written, wanted)),
            "chrf": float(np.mean([chrf(*pair) for pair in zip(written, wanted, strict=True)])),
        }

    def bundle_files(self) -> dict[str, str]:
        """See `HasBundleFiles`."""
        return for_text(self.data, "run_pairs.py", "decoding.py")

    def pack(self) -> tuple[dict[str, JSON], Arrays]:
        words, arrays = super().pack()
        return {**words, "module": "writing"}, arrays


def _trimmed(raw: Arrays, rows: np.ndarray, previous: np.ndarray) -> Arrays:
    lengths = raw["lengths"][rows]
    return {"tokens": raw["tokens"][rows, : lengths.max()], "lengths": lengths, "previous": previous}


def read_answers(found: RawDataset, kind: str) -> Target:
    """(n, L) int64, the tokens of the answers and the mark. Raises BadInput."""
    if "previous" not in found.more:
        raise BadInput(
            f"{found.where} holds no pairs of texts, which {kind} needs; give parallel files, or lines with a tab in "
            "them."
        )
    return Target(given_target(found, kind).astype(np.int64))


PROBLEMS = {
    "translation": ProblemSpec(
        _maker(Goal("nats_per_character", "minimize")),
        ProblemInfo(
            description="a text that answers a text; there are many good ones",
            predicts="a text",
            reads="pairs",
            vocabulary=4000,
        ),
        STEPS,
        read=read_answers,
        task=WritingTask,
    ),
    "transcription": ProblemSpec(
        _maker(Goal("exact_match", "maximize")),
        ProblemInfo(
            description="the one text that is the right answer to a text",
            predicts="a text, the one that is right",
            reads="pairs",
        ),
        STEPS,
        read=read_answers,
        task=WritingTask,
    ),
}


def unpack(config: Mapping[str, JSON], arrays: Arrays) -> WritingTask:
    return WritingTask(Dataset.unpack(config, arrays))
