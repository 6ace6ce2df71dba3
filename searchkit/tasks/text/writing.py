"""Sequence-to-sequence: free translation, with many right outputs, and exact output, with one.

The network is given the target one step late and predicts the next token at each step: one pass trains and scores all
of them. An exact output scores 1 if every step is right. That equals greedy decoding: it generates the target if and
only if the most likely token is right at each step given the right ones before it. A translation is scored by its nats
over the mean number of characters of a target; on test its outputs are generated too, greedily, for BLEU and chrF.
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
from searchkit.tasks.losses import smoothed_one_hot, softened_divergence
from searchkit.tasks.predictions import STEPS
from searchkit.tasks.protocols import Modality, ProblemSpec
from searchkit.tasks.text.decoding import greedy
from searchkit.tasks.text.language import WORST, LogSoftmax
from searchkit.tasks.text.translations import bleu, bleu_counts, chrf

ROWS_AT_ONCE = 64
"""Of an evaluation: an answer has a number for each token that there is, at each step."""


@dataclass(frozen=True, eq=False)
class Answer:
    """A text as the output.

    Attributes:
        goal: The metric.
        steps: Steps of the longest target, with the mark that ends it.
        words: The tokenizer of the targets.
    """

    goal: Goal
    steps: int
    words: Tokenizer

    @property
    def mark(self) -> int:
        """The token that begins and ends an output: the last one of the vocabulary."""
        return len(self.words.tokens)

    @property
    def n_classes(self) -> int:
        """Size of the target vocabulary, with the mark."""
        return self.mark + 1

    @property
    def output(self) -> TensorSpec:
        """Model output "logits", (T, n_classes)."""
        return TensorSpec("logits", (self.steps, self.n_classes), steps="steps")

    @property
    def answers(self) -> TensorSpec:
        """Exported output: log-probabilities, (T, n_classes)."""
        return TensorSpec("log_probabilities", (None, self.n_classes), steps="steps")

    def postprocessor(self) -> nn.Module:
        """Logits to log-probabilities."""
        return LogSoftmax()

    def encode(self, target: np.ndarray) -> np.ndarray:
        """Targets as int64 tokens, −1 after the end."""
        return target

    def encode_soft(self, target: Tensor, smoothing: float) -> Tensor:
        """(B, T) tokens, −1 after the end; with label smoothing (B, T, n_classes) probabilities.

        Probabilities are all 0 after the end.
        """
        if not smoothing:
            return target
        # one_hot refuses -1: a step after the end passes as token 0, and its row is made 0 afterwards.
        return smoothed_one_hot(target.clamp(min=0), self.n_classes, smoothing) * (target >= 0)[..., None]

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy over the valid steps."""
        if target.ndim == 2:
            return F.cross_entropy(output.flatten(0, 1).float(), target.flatten(), ignore_index=-1)
        # The probabilities of a valid step sum to 1, so target.sum() is the number of valid steps.
        return -(target * output.float().log_softmax(-1)).sum() / target.sum()

    def aux_loss_weight(self, loss: Tensor, output: Tensor) -> float:
        """1: a network's own loss term counts as it is."""
        return 1.0

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """KL divergence of the softened distributions of each step, (…, V) (Hinton et al. 2015, arXiv:1503.02531)."""
        given, wanted = (F.log_softmax(x.flatten(0, -2).float() / temperature, -1) for x in (student, teacher))
        return softened_divergence(given, wanted, temperature)

    def score(self, answers: np.ndarray, truth: np.ndarray) -> Evaluation:
        """Evaluate log-probabilities, (n, T, n_classes), against tokens, (n, T)."""
        return self.judge_steps(*self.steps_of(answers, truth), truth)

    def steps_of(self, answers: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nats of each target, (n,), and the most likely token of each step, (n, T), −1 after the end.

        truth: (n, T), −1 after the end.
        """
        there = truth >= 0
        # Steps after the end have no token: 0 is a valid index in its place, and `there` leaves them out of the sum.
        given = np.take_along_axis(answers, np.maximum(truth, 0)[..., None], 2)[..., 0].astype(np.float64)
        nats = -(np.where(np.isfinite(given), given, -WORST) * there).sum(1)
        return nats, np.where(there, answers.argmax(2), -1)

    def judge_steps(self, nats: np.ndarray, decisions: np.ndarray, truth: np.ndarray) -> Evaluation:
        """Evaluation from the nats of each target and the most likely tokens."""
        there = truth >= 0
        characters = np.array([*self.words.characters(), 1])  # the mark is one
        # After the end the index -1 takes the last entry; `there` makes it 0.
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
        """Decode tokens to text."""
        return self.words.decode(tokens).strip()


def _maker(goal: Goal) -> Callable[[Dataset, Modality, nn.Module, TensorSpec], Answer]:
    def make(data: Dataset, modality: Modality, preprocessor: nn.Module, spec_input: TensorSpec) -> Answer:
        assert data.tokenizer is not None
        return Answer(goal, data.inputs["previous"].shape[1], Tokenizer(data.tokenizer["answers"]))

    return make


class WritingTask(ArrayTask):
    """A sequence-to-sequence task.

    A batch is as long as its longest rows; in training, rows of similar lengths share a batch.
    """

    @property
    def words(self) -> Answer:
        """The problem of this task."""
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
        """Tokens of source and target together, of each row."""
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
        """The problem's distillation loss over the valid steps."""
        # (B, T) tokens, or (B, T, n_classes) smoothed probabilities, which are all 0 after the end.
        there = batch.target >= 0 if batch.target.ndim == 2 else batch.target.sum(-1) > 0
        with torch.no_grad():
            wanted = teacher(*batch.inputs)[there]
        return self._kind.distillation_loss(student(*batch.inputs)[there], wanted, temperature)

    def evaluate(self, predict: Predict, split: Split) -> Evaluation:
        """Score a predictor on a split; on test, generate outputs for BLEU and chrF too."""
        kind, raw, truth = self.words, self.raw(split), self.data.target_of(split)
        nats, decisions = np.zeros(len(truth)), np.full(truth.shape, -1)
        steps = (truth >= 0).sum(1)
        # Rows of similar length together: a batch is cut to its longest row. Results go back to the rows' own places.
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
        """Generate outputs greedily for the first n sources of a split; for all if n is None."""
        raw, kind = self.raw(split), self.words
        n = len(raw["tokens"]) if n is None else n
        order = np.argsort(raw["lengths"][:n], kind="stable")

        def ask(rows: np.ndarray, previous: np.ndarray) -> np.ndarray:
            # `greedy` counts the sources by their place in `order`, so that it asks about similar lengths together.
            return predict(_trimmed(raw, order[rows], previous))[self.answers[0].name]

        # kind.steps counts the mark, which greedy does not return.
        made = greedy(ask, n, mark=kind.mark, longest=kind.steps - 1)
        written = [""] * n
        for row, tokens in zip(order.tolist(), made, strict=True):
            written[row] = kind.text(tokens)
        return written

    def wanted(self, split: Split) -> list[str]:
        """The reference outputs of a split. Characters unknown to train become the replacement character."""
        return [
            self.words.text([t for t in row if 0 <= t < self.words.mark]) for row in self.data.target_of(split).tolist()
        ]

    def sources(self, split: Split) -> list[str]:
        """The source texts of a split."""
        assert self.data.tokenizer is not None
        words, raw = Tokenizer(self.data.tokenizer), self.raw(split)
        return [words.decode(row[:n].tolist()).strip() for row, n in zip(raw["tokens"], raw["lengths"], strict=True)]

    def measured(self, written: list[str], split: Split) -> dict[str, float]:
        """Quality of generated outputs: corpus BLEU and mean chrF."""
        wanted = self.wanted(split)[: len(written)]
        return {
            "bleu": bleu(bleu_counts(written, wanted)),
            "chrf": float(np.mean([chrf(*pair) for pair in zip(written, wanted, strict=True)])),
        }

    def bundle_files(self) -> dict[str, str]:
        """Both tokenizers, the decoder, and a run.py that answers lines of text; see `HasBundleFiles`."""
        return for_text(self.data, "run_pairs.py", "decoding.py")

    def pack(self) -> tuple[dict[str, JSON], Arrays]:
        """The task as plain data; see `Task.pack`."""
        words, arrays = super().pack()
        return {**words, "module": "writing"}, arrays


def _trimmed(raw: Arrays, rows: np.ndarray, previous: np.ndarray) -> Arrays:
    lengths = raw["lengths"][rows]
    return {"tokens": raw["tokens"][rows, : lengths.max()], "lengths": lengths, "previous": previous}


def read_answers(found: RawDataset, kind: str) -> Target:
    """Targets of pairs: (n, L) int64 tokens, ended by the mark.

    Raises:
        BadInput: The data are no pairs of texts.
    """
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
            shown="exact-seq2seq",
            reads="pairs",
        ),
        STEPS,
        read=read_answers,
        task=WritingTask,
    ),
}


def unpack(config: Mapping[str, JSON], arrays: Arrays) -> WritingTask:
    """The inverse of `WritingTask.pack`."""
    return WritingTask(Dataset.unpack(config, arrays))
