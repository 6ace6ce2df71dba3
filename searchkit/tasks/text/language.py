"""Language modeling: predict the next token at each step of a window of text, scored in nats a character.

A text is one stream, cut into windows without overlap: each token but the first of a split is predicted once. Training
shifts the cuts by a new offset every epoch, so that no step is always the first of its window. The score is per
character so that characters and byte pairs compare: a window's score is its nats over the mean number of characters of
a window, and the mean of the scores is all nats over all characters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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

WINDOWS_AT_ONCE = 64
"""Of an evaluation: an answer has a number for each token that there is, at each step."""

WORST = 100.0
"""Nats that an answer counts which is no number."""


class LogSoftmax(nn.Module):
    """Logits to log-probabilities."""

    def forward(self, logits: Tensor) -> Tensor:
        """Log-probabilities over the last axis."""
        return logits.log_softmax(-1)


@dataclass(frozen=True, eq=False)
class NextToken:
    """The problem of predicting the next token at each step.

    Attributes:
        steps: Tokens of a window.
        n_classes: Size of the vocabulary.
        characters: (n_classes,) number of characters that each token stands for.
    """

    steps: int
    n_classes: int
    characters: np.ndarray
    goal = Goal("nats_per_character", "minimize")

    @property
    def output(self) -> TensorSpec:
        """Model output "logits", (L, n_classes)."""
        return TensorSpec("logits", (self.steps, self.n_classes))

    @property
    def answers(self) -> TensorSpec:
        """Exported output: log-probabilities, (L, n_classes)."""
        return TensorSpec("log_probabilities", (None, self.n_classes))

    def postprocessor(self) -> nn.Module:
        """Logits to log-probabilities."""
        return LogSoftmax()

    def encode(self, target: np.ndarray) -> np.ndarray:
        """Targets as int64 tokens, (n, L)."""
        return target

    def encode_soft(self, target: Tensor, smoothing: float) -> Tensor:
        """(B, L) tokens; with label smoothing (B, L, n_classes) probabilities."""
        if not smoothing:
            return target
        return smoothed_one_hot(target, self.n_classes, smoothing)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy over all steps."""
        # cross_entropy takes (B·L,) tokens as well as (B·L, n_classes) probabilities, if labels are smoothed.
        return F.cross_entropy(output.flatten(0, 1).float(), target.flatten(0, 1))

    def aux_loss_weight(self, loss: Tensor, output: Tensor) -> float:
        """1: a network's own loss term counts as it is."""
        return 1.0

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """KL divergence of the softened distributions of each step (Hinton et al. 2015, arXiv:1503.02531)."""
        given, wanted = (F.log_softmax(x.flatten(0, 1).float() / temperature, -1) for x in (student, teacher))
        return softened_divergence(given, wanted, temperature)

    def score(self, answers: np.ndarray, truth: np.ndarray) -> Evaluation:
        """Evaluate log-probabilities, (n, L, n_classes), against tokens, (n, L)."""
        return self.judge_nats(*self.nats(answers, truth), truth)

    def nats(self, answers: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Nats of each window, (n,), and the most likely token of each step, (n, L). truth: (n, L)."""
        given = np.take_along_axis(answers, truth[..., None], 2)[..., 0].astype(np.float64)
        nats = -np.where(np.isfinite(given), given, -WORST).sum(1)
        return nats, answers.argmax(2)

    def judge_nats(self, nats: np.ndarray, decisions: np.ndarray, truth: np.ndarray) -> Evaluation:
        """Evaluation from the nats of each window and the most likely tokens."""
        scores = nats / self.characters[truth].sum(1).mean()
        metrics = {"nats_per_character": self.goal.value(scores), "accuracy": float(np.mean(decisions == truth))}
        return Evaluation(metrics, scores, decisions, truth)


def next_token(data: Dataset, modality: Modality, preprocessor: nn.Module, spec_input: TensorSpec) -> NextToken:
    """Make the problem from the data and their tokenizer."""
    assert data.tokenizer is not None and spec_input.shape[0] is not None
    characters = np.array(Tokenizer(data.tokenizer).characters())
    return NextToken(spec_input.shape[0], modality.vocabulary(data), characters)


class LanguageTask(ArrayTask):
    """A text to be continued.

    Training rows are cut anew from the stream every epoch, and evaluation holds a few windows at a time.
    """

    def _train(self, training: Training, seed: int, device: str) -> Iterator[Batch]:
        self._require_possible(training)
        generator = torch.Generator(device).manual_seed(seed)
        stream, steps = self._stream(device), self.spec.inputs[0].shape[0]
        assert steps is not None
        offset = int(torch.randint(steps, (), generator=generator, device=device))
        # At least one window is left whatever the offset, since train has at least two (`require_rows`).
        n_windows = (len(stream) - 1 - offset) // steps
        order = torch.randperm(n_windows, generator=generator, device=device)
        within = torch.arange(steps, device=device)
        for windows in torch.split(order, training.batch_size):
            # (B, L) positions in the stream; the targets lie one token later.
            at = offset + windows[:, None] * steps + within
            inputs = self._augment((stream[at],), training.augment, generator)[0]
            yield Batch(inputs, self._kind.encode_soft(stream[at + 1], training.label_smoothing))

    def _stream(self, device: str) -> Tensor:
        """The training text as one row of tokens."""
        (tokens,), target, _ = self._resident("train", device)
        assert target is not None
        # The windows of train follow one another without gap or overlap, so only the last target is missing.
        return torch.cat([tokens.flatten(), target[-1, -1:]])

    def evaluate(self, predict: Predict, split: Split) -> Evaluation:
        """Score a predictor on a split, a few windows at a time."""
        kind, raw, truth = self._kind, self.raw(split), self.data.target_of(split)
        assert isinstance(kind, NextToken)
        parts = []
        for start in range(0, len(truth), WINDOWS_AT_ONCE):
            rows = slice(start, start + WINDOWS_AT_ONCE)
            answers = predict({name: values[rows] for name, values in raw.items()})[self.answers[0].name]
            parts.append(kind.nats(answers, truth[rows]))
        nats, decisions = (np.concatenate(part) for part in zip(*parts, strict=True))
        return kind.judge_nats(nats, decisions, truth)

    def bundle_files(self) -> dict[str, str]:
        """The tokenizer and a run.py that continues a prompt; see `HasBundleFiles`."""
        return for_text(self.data, "run_language.py")

    def pack(self) -> tuple[dict[str, JSON], Arrays]:
        """The task as plain data; see `Task.pack`."""
        words, arrays = super().pack()
        return {**words, "module": "language"}, arrays


def read_tokens(found: RawDataset, kind: str) -> Target:
    """Targets of a text: (n, L) int64, the token after each.

    Raises:
        BadInput: The data are no text to be continued.
    """
    if found.tokenizer is None:
        raise BadInput(f"{found.where} is no text, which {kind} needs; give a text file, or leave out --problem.")
    return Target(given_target(found, kind).astype(np.int64))


PROBLEMS = {
    "language": ProblemSpec(
        next_token,
        ProblemInfo(
            description="the next token of a text, at every step",
            predicts="the token after each",
            shown="language-modeling",
            reads="text",
        ),
        STEPS,
        read=read_tokens,
        task=LanguageTask,
    ),
}


def unpack(config: Mapping[str, JSON], arrays: Arrays) -> LanguageTask:
    """The inverse of `LanguageTask.pack`."""
    return LanguageTask(Dataset.unpack(config, arrays))
