"""The report as values: what report.json holds, in its order. `searchkit.report.data` gathers them from a run."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from searchkit.core.goal import Goal
from searchkit.core.serialization import JSON, freeze
from searchkit.evaluation.records import BaselineEvidence, ModelEvidence

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class RunHeader:
    """Which run, and how it was made."""

    name: str
    started: str | None
    space: str
    task: str
    recipe: str
    seed: int


@dataclass(frozen=True)
class EvidenceHeader:
    """On what the figures of the stages stand; as in `Evidence`."""

    split: str
    n: int
    confidence: float
    resamples: int
    kind: str
    groups: int | None
    prediction: dict[str, JSON]


@dataclass(frozen=True)
class StageRow:
    """One file on test, in order; stages that passed the very same file on share a row.

    Attributes:
        model: The file, as the first of those stages made it.
        name: The stages, in words.
        ids: Of their artifacts.
        sha256: Of the file.
        is_chosen: Whether it is what is shipped.
        is_reference: Whether it is the fp32 winner.
    """

    model: ModelEvidence
    name: str
    ids: tuple[str, ...]
    sha256: str
    is_chosen: bool
    is_reference: bool

    def to_json(self) -> dict[str, JSON]:
        """The model's own fields and these, in one dict."""
        plain: dict[str, JSON] = freeze(self)
        return {**plain.pop("model"), **plain}


@dataclass(frozen=True)
class FrontPoint:
    """A trial in the plane of metric and cost, both on val."""

    space: str
    number: int
    value: float
    cost: float
    on_front: bool
    chosen: bool


@dataclass(frozen=True)
class FrontStep:
    """A stage of the lineage in the same plane."""

    stage: str
    value: float
    cost: float


@dataclass(frozen=True)
class Front:
    """The scored trials in the plane of metric and cost, and the way of the lineage through it.

    Attributes:
        cost: The name of the cost that is drawn.
        points: The trials.
        line: The stages; empty if there are none.
        minimized: The name of the cost that the search minimized; None if it did none.
    """

    cost: str
    points: tuple[FrontPoint, ...]
    line: tuple[FrontStep, ...]
    minimized: str | None


@dataclass(frozen=True)
class TrialRow:
    """A trial, as `searchkit.search.results.history` has it. whole: whether it was trained as long as any."""

    space: str
    number: int
    status: str
    way: str
    value: float | None
    cost: dict[str, float]
    epochs: int | None
    seconds: float | None
    params: dict[str, JSON]
    whole: bool


@dataclass(frozen=True)
class SearchRows:
    """The trials in order, with the best so far and what random orders of the same trials would have had.

    Attributes:
        trials: All of them.
        longest: Epochs of the longest training.
        seconds: Of training, in all.
        best_so_far: (number, value) of each trial that was better than all before it.
        random_so_far: (number, expected best so far in random order) of each scored trial.
        n_trained: Trials with a value.
        n_rejected: Candidates refused before training.
        n_failed: Trials that could not be trained.
        starts: Where the trials started, in sentences; empty if all started from random weights.
    """

    trials: tuple[TrialRow, ...]
    longest: int
    seconds: float
    best_so_far: tuple[tuple[int, float], ...]
    random_so_far: tuple[tuple[int, float], ...]
    n_trained: int
    n_rejected: int
    n_failed: int
    starts: str = ""


@dataclass(frozen=True)
class FamilyRow:
    """One of several families that shared the search.

    Attributes:
        name: The family.
        n_trained: Trials with a value.
        n_failed: Trials that could not be trained.
        n_rejected: Candidates refused before training.
        n_on_front: Trials on the Pareto front of all families.
        best: The goal on val of its best trial; None without any.
        trial: That trial's number.
        cost: That trial's costs.
        seconds: Of training.
        share: Of the training seconds of all families, 0 to 1.
        left_out: Why nothing of it was trained; None if it took part.
    """

    name: str
    n_trained: int
    n_failed: int
    n_rejected: int
    n_on_front: int
    best: float | None
    trial: int | None
    cost: dict[str, float]
    seconds: float
    share: float
    left_out: str | None


@dataclass(frozen=True)
class Curve:
    """A learning curve. named: whether it has a name in the drawing; points: {epoch, loss, val if it was scored}."""

    name: str
    named: bool
    points: tuple[dict[str, float], ...]
    metric: str


@dataclass(frozen=True)
class Curves:
    """Of the winner and the best trials, and of every stage that trained."""

    trials: tuple[Curve, ...]
    stages: tuple[Curve, ...]


@dataclass(frozen=True)
class TransferRow:
    """One of two trainings of the same network: from trained weights, or from scratch as the control. All on val.

    Attributes:
        space: The family.
        number: The trial's.
        start: In words.
        taken: The share of the parameters that it took over, 0 to 1.
        first: The metric after the first epoch.
        epoch: The last that both were trained for.
        value: The metric after it.
        epochs: That this one was trained for.
        last: The metric of what came of it.
    """

    space: str
    number: int
    start: str
    taken: float
    first: float | None
    epoch: int
    value: float | None
    epochs: int
    last: float


@dataclass(frozen=True)
class Transfer:
    """What starting from trained weights was worth.

    Attributes:
        source: The weights, as the user calls them.
        n_taking: Trials that took over a layer at least.
        n: Trials of the families that the weights fit.
        rows: Pairs, the one from the weights first; empty if no control was trained.
        curves: The same, as learning curves.
    """

    source: str
    n_taking: int
    n: int
    rows: tuple[TransferRow, ...]
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class FailureRow:
    """A trial that was refused or failed, and why. status: "rejected" or "failed"; kind: in a word or two."""

    number: int
    status: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Report:
    """Everything that the report says, in its order. What a stage tells is as its artifact's notes have it."""

    schema_version: int
    run: RunHeader
    goal: Goal
    question: dict[str, JSON]
    command: str
    evidence: EvidenceHeader | None
    labels: tuple[str, ...]
    stages: tuple[StageRow, ...]
    rivals: tuple[BaselineEvidence, ...]
    front: Front
    search: SearchRows
    families: tuple[FamilyRow, ...]
    importances: dict[str, float]
    curves: Curves
    final: dict[str, JSON] | None
    transfer: Transfer | None
    distillation: dict[str, JSON] | None
    pruning: dict[str, JSON] | None
    quantization: dict[str, JSON] | None
    left_out: dict[str, str]
    errors: dict[str, JSON] | None
    pictures: JSON
    failures: tuple[FailureRow, ...]
    data: dict[str, JSON]
    environment: dict[str, dict[str, JSON]]
    chosen: dict[str, JSON] | None
    bundle_digest: str | None
    verdict: str = ""

    def to_json(self) -> dict[str, JSON]:
        """As report.json has it: no passwords of URLs, and null for NaN and infinities."""
        plain: dict[str, JSON] = freeze(self) | {"stages": [row.to_json() for row in self.stages]}
        return {name: redacted(plain_numbers(value)) for name, value in plain.items()}


def redacted(value: JSON) -> JSON:
    """Take the passwords out of URLs, at any depth: a report is passed on.

    What follows a user's name up to the last @ is taken for one, and what is called a password.
    """
    if isinstance(value, Mapping):
        return {k: redacted(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(v) for v in value]
    if not isinstance(value, str) or "://" not in value:
        return value
    return re.sub(r"((?:password|passwd|pwd)=)[^&\s]+", r"\1***", re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", value))


def plain_numbers(value: JSON) -> JSON:
    """Turn NaN and infinities, which JSON does not have, into null, at any depth."""
    if isinstance(value, Mapping):
        return {k: plain_numbers(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_numbers(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
