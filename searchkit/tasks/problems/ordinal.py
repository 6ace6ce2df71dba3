"""Ordered grades: which rank an example has among classes that have an order, such as 1 to 5 stars.

The network gives one logit a threshold. The sigmoid of the k-th is the probability that the rank is above k if it is at
least k, so their running product is P(rank > k): it can only fall with k, and the K - 1 binary questions of Frank and
Hall (2001, A simple approach to ordinal classification) never contradict one another. This is CORN (Shi, Cao and
Raschka 2023, arXiv:2111.08851). CORAL (Cao, Mirjalili and Raschka 2020, arXiv:1901.07884) gets the same consistency by
one weight vector that all thresholds share, which would prescribe the last layer of every family.

The decision is the median rank, the one that the mean absolute error in ranks is least for. Not to be confused with
classification, for which all wrong answers are equally wrong, and regression, which takes the distance between
neighboring grades for known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from searchkit.core.data_spec import Arrays, TensorSpec
from searchkit.core.errors import BadInput
from searchkit.core.goal import Evaluation, Goal, Predict
from searchkit.core.serialization import JSON
from searchkit.core.task import Task
from searchkit.data.dataset import Dataset, RawDataset, Target
from searchkit.data.problems import ProblemInfo
from searchkit.data.targets import given_target, require_known
from searchkit.tasks.arrays import ArrayTask
from searchkit.tasks.losses import smoothed_one_hot, softened_divergence
from searchkit.tasks.predictions import Prediction, confusion, same
from searchkit.tasks.protocols import Modality, ProblemSpec

MOST_RANKS = 50
"""Ranks above which a target is taken for a quantity."""

RANK = TensorSpec("expected_rank", ())

METRIC = "mean_absolute_rank_error"

RANKS = Prediction("ranks", same, confusion, "same rank", decides=True)


# ── The model ────────────────────────────────────────────────────────────────────────────────────────────────────────


def log_above(logits: Tensor) -> Tensor:
    """Log P(rank > k), (B, K - 1), of the logits of P(rank > k | rank >= k), (B, K - 1)."""
    # A sum of logarithms, since a product of many small sigmoids would underflow.
    return F.logsigmoid(logits).cumsum(-1)


def log_probabilities(logits: Tensor) -> Tensor:
    """Log P(rank = k), (B, K), of logits (B, K - 1): a rank is reached, and the threshold above it is not passed."""
    reached = F.pad(log_above(logits), (1, 0))
    stopped = F.pad(F.logsigmoid(-logits), (0, 1))
    return reached + stopped


class RankProbabilities(nn.Module):
    """(B, K - 1) logits to (B, K) probabilities of the ranks, and (B,) the expected rank, from 0 to K - 1.

    The expected rank is a mean, not the most likely rank: it moves smoothly with the network, so that a file and its
    int8 twin, or two processors, give nearly the same.
    """

    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Give the probabilities and the expected rank."""
        above = log_above(logits).exp()
        # P(rank = k) = P(rank > k − 1) − P(rank > k), with 1 before the first and 0 after the last; the mean rank is
        # the sum of all P(rank > k).
        return F.pad(above, (1, 0), value=1.0) - F.pad(above, (0, 1)), above.sum(-1)


def median_ranks(probabilities: np.ndarray) -> np.ndarray:
    """The smallest rank that half of the probability does not exceed, (n,) int64; -1 if one is not a number.

    Args:
        probabilities: (n, K).
    """
    above = 1 - np.cumsum(probabilities.astype(np.float64), axis=1)[:, :-1]
    return np.where(np.isfinite(probabilities).all(axis=1), (above > 0.5).sum(axis=1), -1)


@dataclass(frozen=True)
class Ranks:
    """A problem of `n_classes` ranks, trained by their likelihood and judged by how many ranks off the median is."""

    n_classes: int
    goal = Goal(METRIC, "minimize")

    @property
    def output(self) -> TensorSpec:
        """One logit a threshold."""
        return TensorSpec("logits", (self.n_classes - 1,))

    @property
    def answers(self) -> TensorSpec:
        """The probabilities; `OrdinalTask` adds the expected rank."""
        return TensorSpec("probabilities", (self.n_classes,))

    def postprocessor(self) -> nn.Module:
        """Make the module from logits to answers."""
        return RankProbabilities()

    def encode(self, target: np.ndarray) -> np.ndarray:
        """Ranks are class indices as they are stored."""
        return target

    def encode_soft(self, target: Tensor, smoothing: float) -> Tensor:
        """Spread a target over all ranks, (B, K), by the share `smoothing`."""
        return smoothed_one_hot(target, self.n_classes, smoothing)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The negative log-likelihood of the ranks, the mean over the batch: CORN's loss with one weight an example."""
        return -(target * log_probabilities(output.float())).sum(-1).mean()

    def aux_loss_weight(self, loss: Tensor, output: Tensor) -> float:
        """A network's own penalty counts once."""
        return 1.0

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """The divergence of the softened distributions times temperature² (Hinton et al. 2015, arXiv:1503.02531)."""
        given, wanted = (log_probabilities(logits.float() / temperature) for logits in (student, teacher))
        return softened_divergence(given, wanted, temperature)

    def score(self, answers: np.ndarray, truth: np.ndarray) -> Evaluation:
        """The score of an example is how many ranks the median is off.

        An answer that is no number decides -1, and counts as far off as can be.
        """
        decisions = median_ranks(answers)
        farthest = np.maximum(truth, self.n_classes - 1 - truth)
        scores = np.where(decisions >= 0, np.abs(decisions - truth), farthest).astype(np.float64)
        metrics = {
            METRIC: self.goal.value(scores),
            "accuracy": float((decisions == truth).mean()),
            "quadratic_weighted_kappa": quadratic_weighted_kappa(truth, decisions, self.n_classes),
        }
        return Evaluation(metrics, scores, decisions, truth)


def quadratic_weighted_kappa(targets: np.ndarray, decisions: np.ndarray, n_ranks: int) -> float:
    """1 less the squared error in ranks over that of chance (Cohen 1968, Weighted kappa); 0 if there is none by chance.

    Chance draws decisions and targets, (n,) each, apart from each other. A decision of -1 counts as the rank that is
    farthest from the target.
    """
    farthest = np.where(targets * 2 >= n_ranks - 1, 0, n_ranks - 1)
    given = np.where(decisions >= 0, decisions, farthest).astype(np.float64)
    # The mean squared difference if targets and decisions are independent.
    by_chance = given.var() + targets.var() + (given.mean() - targets.mean()) ** 2
    return float(1 - np.square(given - targets).mean() / by_chance) if by_chance else 0.0


def mean_absolute_rank_error(answers: dict[str, np.ndarray], targets: np.ndarray, labels: list[str]) -> float:
    """The mean of how many ranks the median rank is off. Runs in a bundle, from this very source.

    Args:
        answers: "probabilities", (n, K).
        targets: (n,), the labels as text or as numbers. Ranks from 0 on may stand for them if no label is a whole
            number. So the labels decide what a number means, never the targets that happen to be there.
        labels: One a rank, in order.

    Raises:
        ValueError: A target is neither.
    """
    places = {label: rank for rank, label in enumerate(labels)}
    if not any(label.strip().lstrip("+-").isdecimal() for label in labels):
        places |= {str(rank): rank for rank in range(len(labels))}
    values = np.char.decode(targets, "utf-8", "replace") if targets.dtype.kind == "S" else targets
    # A label is a whole number where the target was one, also if it was stored as 3.0 or as True.
    words = [
        str(int(v)) if isinstance(v, bool | float) and float(v).is_integer() else str(v)
        for v in values.reshape(-1).tolist()
    ]
    unknown = next((word for word in words if word not in places), None)
    if unknown is not None:
        raise ValueError(f"'{unknown}' in y is no label of this model; its labels are {', '.join(labels[:10])}")
    ranks = np.array([places[word] for word in words])
    above = 1 - np.cumsum(answers["probabilities"].astype(np.float64), axis=1)[:, :-1]
    return float(np.abs((above > 0.5).sum(axis=1) - ranks).mean())


# ── The task ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class OrdinalTask(ArrayTask):
    """An ArrayTask that answers the expected rank beside the probabilities, and has baselines without a network."""

    def __init__(self, data: Dataset) -> None:
        super().__init__(data)
        self.answers = (*self.answers, RANK)

    def baselines(self) -> dict[str, Predict]:
        """See `HasBaselines`: the median rank of train, and for a table one logistic regression a threshold.

        The regressions are those of Frank and Hall (2001).
        """
        truth, n_ranks = self.data.target_of("train"), len(self.labels)
        shares = np.bincount(truth, minlength=n_ranks) / len(truth)
        found: dict[str, Predict] = {"the median rank of train": Constant(shares)}
        if self.data.modality == "tabular":
            found["logistic regressions"] = LogisticRegressions.fit(self, truth)
        return found

    def features(self, raw: Arrays) -> np.ndarray:
        """(n, features) of a table as the network sees it."""
        return self._scale(tuple(torch.from_numpy(raw[port.name]) for port in self.inputs))[0].flatten(1).numpy()

    def pack(self) -> tuple[dict[str, JSON], Arrays]:
        """See `Task.pack`."""
        words, arrays = super().pack()
        return {**words, "module": "ordinal"}, arrays


def unpack(config: Mapping[str, JSON], arrays: Arrays) -> OrdinalTask:
    """Rebuild a packed task."""
    return OrdinalTask(Dataset.unpack(config, arrays))


@dataclass(frozen=True, eq=False)
class Constant:
    """The same probabilities, (K,), for every example."""

    shares: np.ndarray

    def __call__(self, inputs: Arrays) -> Arrays:
        """See `Predict`."""
        return {"probabilities": np.tile(self.shares, (len(next(iter(inputs.values()))), 1))}


@dataclass(frozen=True, eq=False)
class LogisticRegressions:
    """P(rank > k) by a logistic regression for each k, made to fall with k. weights: (features + 1, K - 1)."""

    task: OrdinalTask
    weights: np.ndarray

    @classmethod
    def fit(cls, task: OrdinalTask, truth: np.ndarray) -> LogisticRegressions:
        """Fit to the training rows of a table."""
        from sklearn.linear_model import LogisticRegression

        x = task.features(task.raw("train"))
        fitted = [LogisticRegression(max_iter=1000).fit(x, truth > k) for k in range(len(task.labels) - 1)]
        return cls(task, np.stack([np.append(model.coef_[0], model.intercept_) for model in fitted], axis=1))

    def __call__(self, inputs: Arrays) -> Arrays:
        """See `Predict`."""
        logits = self.task.features(inputs) @ self.weights[:-1] + self.weights[-1]
        above = np.minimum.accumulate(1 / (1 + np.exp(-logits)), axis=1)
        padded = np.pad(above, ((0, 0), (1, 1)), constant_values=((0, 0), (1, 0)))
        return {"probabilities": padded[:, :-1] - padded[:, 1:]}


# ── The target ───────────────────────────────────────────────────────────────────────────────────────────────────────


def read_ranks(found: RawDataset, problem: str) -> Target:
    """Read whole numbers, or labels that begin with a number, in the order of these numbers.

    Returns:
        (n,) int64 ranks from 0 on, and a label a rank.

    Raises:
        BadInput: there is no target, it has no order, or too few or too many different values.
    """
    target = given_target(found, problem)
    if found.labels:
        target = np.array(found.labels)[target.astype(np.int64)]
    if target.ndim == 2 and target.shape[1] > 1:
        raise BadInput(
            f"The target of {found.where} has {target.shape[1]} columns, and {problem} needs one; choose a column, or "
            "--problem multilabel."
        )
    target = target.reshape(-1)
    if target.dtype.kind in "biuf" and (target != np.round(target)).any():
        value = target[target != np.round(target)][0]
        raise BadInput(
            f"The target of {found.where} holds {value:g}, and {problem} needs whole numbers; round it, or choose "
            "--problem regression."
        )
    if target.dtype.kind == "S":
        target = np.char.decode(target, "utf-8", "replace")
    names, codes = np.unique(target.astype(np.int64) if target.dtype.kind in "biuf" else target, return_inverse=True)
    if not 2 <= len(names) <= MOST_RANKS:
        raise BadInput(
            f"The target of {found.where} has {len(names)} different values, and {problem} takes 2 to {MOST_RANKS} "
            "ranks; choose another target, or --problem regression for a quantity."
        )
    order = np.argsort([_leading_number(str(name), found.where, problem) for name in names], kind="stable")
    # `order` lists the names by their number; its argsort is the rank of each name.
    ranks = np.argsort(order)[codes].astype(np.int64)
    return Target(ranks, tuple(str(names[k]) for k in order), strata=ranks)


def _leading_number(label: str, where: str, problem: str) -> float:
    begins = re.match(r"\s*([+-]?\d+(?:\.\d+)?)", label)
    if begins is None:
        raise BadInput(
            f"The target of {where} holds '{label[:40]}', whose rank among the others is not known; {problem} needs "
            "whole numbers, or labels that begin with one, such as '1 low' and '2 high'."
        )
    return float(begins[1])


# ── The problem ──────────────────────────────────────────────────────────────────────────────────────────────────────


def ranks(data: Dataset, modality: Modality, preprocessor: nn.Module, spec_input: TensorSpec) -> Ranks:
    """Make the problem for these data."""
    return Ranks(len(data.labels))


def check_ranks(task: Task) -> None:
    """The probabilities of every output are a distribution, and its mean is the expected rank.

    Raises:
        AssertionError: they are not.
    """
    n_ranks = len(task.labels)
    logits = 6 * torch.randn(64, n_ranks - 1, generator=torch.Generator().manual_seed(0))
    probabilities, expected = task.postprocessor()(logits)
    assert probabilities.shape == (64, n_ranks), f"{tuple(probabilities.shape)} probabilities of {n_ranks} ranks"
    assert bool((probabilities >= 0).all()), f"a rank has the probability {float(probabilities.min()):.3g}"
    off = float((probabilities.sum(-1) - 1).abs().max())
    assert off < 1e-5, f"the probabilities of an example sum to 1 and {off:.3g}"
    off = float((probabilities @ torch.arange(n_ranks).float() - expected).abs().max())
    assert off < 1e-4, f"the expected rank is {off:.3g} from the mean of the probabilities"


PROBLEMS = {
    "ordinal": ProblemSpec(
        ranks,
        ProblemInfo(description="one of several grades that have an order", predicts="one of {n} grades, in order"),
        RANKS,
        read=read_ranks,
        arrange=require_known,
        task=OrdinalTask,
        metric=mean_absolute_rank_error,
        check=check_ranks,
    ),
}
