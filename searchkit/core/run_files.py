"""What the JSON files of a run hold, field by field: the types by which they are read.

Readers use plain dicts, and `serialization.thaw` has checked them. Only fields that some reader needs are required, so
that a run of an older version stays readable; a field that is not named here is left as it is. The lines of logs are in
`searchkit.core.run_logs`, and evidence.json is `searchkit.evaluation.records.Evidence`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypedDict

from searchkit.core.start_files import InitialFacts, PriorFacts, TransferNotes
from searchkit.core.typed import Count, Name, NotNegative, OneOf, Range, Share

Direction = Literal["maximize", "minimize"]
Cost = Annotated[str, OneOf(("params", "macs", "size_bytes", "latency_ms"))]


# ── run.json ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class InputFacts(TypedDict):
    """An input of the task, as run.json describes it."""

    name: str
    shape: list[Count | None]
    dtype: str
    batched: NotRequired[bool]
    axis: NotRequired[Count]
    counted_by: NotRequired[str | None]
    steps: NotRequired[str]


class ColumnFacts(TypedDict):
    """A column of a table."""

    name: str
    kind: str
    categories: list[Any]


class DataFacts(TypedDict):
    """The data summary. told: what a kind of task adds, in words."""

    source: str
    modality: str
    kind: str
    rows: dict[str, Count]
    goal: str
    task: NotRequired[str]
    fingerprint: NotRequired[str]
    noise: NotRequired[str]
    inputs: NotRequired[list[InputFacts]]
    classes: NotRequired[dict[str, Count]]
    targets: NotRequired[list[str]]
    columns: NotRequired[list[ColumnFacts]]
    missing: NotRequired[Count]
    missing_by_column: NotRequired[dict[str, Count]]
    duplicates: NotRequired[Count]
    in_train_and_test: NotRequired[Count]
    split_seed: NotRequired[int]
    told: NotRequired[dict[str, Any]]


class TaskFacts(TypedDict):
    """The task of a run: its name, the fingerprint of its data, and their summary."""

    name: str
    fingerprint: str
    summary: DataFacts


class Hardware(TypedDict):
    """The machine that began the run."""

    cpu: str
    cores: Annotated[int, Range(1)]
    system: str


class Change(TypedDict):
    """A raised budget: when, the words of the command, and the budget before."""

    at: str
    words: list[str]
    budget_before: dict[str, Any]


class Head(TypedDict):
    """What every run.json has, whoever made the run."""

    format: int
    name: Name


class RunFile(Head):
    """A run. config: see `config.stored`, which reads it; question: the same in a run of the last release."""

    config: NotRequired[dict[str, Any]]
    question: NotRequired[dict[str, Any]]
    task: TaskFacts
    command: list[str]
    started: str
    versions: dict[str, str]
    hardware: Hardware
    changes: NotRequired[list[Change]]
    prior: NotRequired[PriorFacts]
    initial: NotRequired[InitialFacts]


# ── the small files beside it ────────────────────────────────────────────────────────────────────────────────────────


class ProfileRow(TypedDict):
    """The cost of one candidate of the space's profile."""

    which: str
    cost: dict[str, NotNegative]
    breaches: dict[str, float]


class SearchFacts(TypedDict):
    """One family's entry of search.json."""

    goal: str
    direction: Direction
    directions: list[Direction]
    cost: Cost | None
    study: str
    url: str | None
    owner: str
    profile: NotRequired[list[ProfileRow]]
    left_out: NotRequired[str]


class Clock(TypedDict):
    """clock.json: seconds that the run has worked so far."""

    seconds: NotNegative


class Skipped(TypedDict):
    """A stage that was left out, with its reason."""

    stage: str
    parent: str | None
    reason: str


class BundleFacts(TypedDict):
    """bundle.json: which artifact the bundle holds, and the digest of its manifest."""

    artifact: str
    digest: str


class SupernetTold(TypedDict):
    """What came of a supernet: epochs and seconds of its training, and how its scores agree with the trials' values."""

    epochs: Count
    params: Count
    seconds: NotNegative
    scored: Count
    scoring_seconds: NotNegative
    trained_on: NotRequired[Count]
    rank_correlation: NotRequired[Annotated[float, Range(-1, 1)]]


class SupernetFacts(TypedDict):
    """One family's entry of supernet.json: the parameters of the largest candidate, and epochs of its training."""

    params: dict[str, Any]
    epochs: Count
    told: NotRequired[SupernetTold]


SUPERNET = "supernet.json"
"""The supernets of a run by family: the kind, the epochs, and what the report tells."""

SearchFile = dict[str, SearchFacts]
SupernetFile = dict[str, SupernetFacts]
SkippedFile = dict[str, Skipped]


# ── artifact.json ────────────────────────────────────────────────────────────────────────────────────────────────────


class MadeBy(TypedDict):
    """The stage that made an artifact, with its settings."""

    stage: str
    number: NotRequired[Count]


class TrialMadeBy(TypedDict):
    """The trial that an artifact is."""

    stage: str
    number: Count


class TrialNotes(TypedDict, total=False):
    """What the search notes about a trial."""

    way: str
    rung: Count
    epochs: Count
    losses: list[list[float]]
    seconds: NotNegative
    setting: tuple[Literal["fp32", "bf16"], bool]
    sides: Share
    transfer: TransferNotes


class ArtifactFile(TypedDict):
    """artifact.json."""

    id: Name
    space: str
    arch: dict[str, Any]
    training: dict[str, Any]
    edits: list[Any]
    made_by: MadeBy
    parent: Name | None
    metrics: dict[str, float]
    notes: dict[str, Any]
    files: dict[str, Name]


# ── evidence: the file itself is `searchkit.evaluation.records.Evidence` ─────────────────────────────────────────────


class Confusion(TypedDict):
    """A confusion matrix of counts."""

    confusion: list[list[Count]]
    unanswered: Count


class LabelCounts(TypedDict):
    """Hits and misses of each label."""

    hit: list[Count]
    missed: list[Count]
    false_alarm: list[Count]


class ByLabel(TypedDict):
    """Errors of a multi-label problem."""

    labels: LabelCounts


class Points(TypedDict):
    """Errors of a regression: pairs of true and predicted values."""

    points: list[list[tuple[float, float]]]


class BySteps(TypedDict):
    """Errors of a forecast, by step of the horizon."""

    by_step: dict[str, list[float]]


class AgreementWords(TypedDict):
    """What "agreement" means for the form of the answers, in the words of the report."""

    row: str
    note: str
    decides: bool
    paired: bool


class Histogram(TypedDict):
    """Errors as a histogram."""

    histogram: list[Count]
    edges: list[float]


class Pictures(TypedDict):
    """Example images as base64 text."""

    shape: tuple[Count, Count, Count, Count]
    rows: dict[str, str]


Errors = Confusion | ByLabel | Points | BySteps | Histogram


class ScoredFile(TypedDict):
    """evidence/<id>.json: of which file the answers beside it are."""

    sha256: str
    metrics: dict[str, float]


# ── the bundle's manifest ────────────────────────────────────────────────────────────────────────────────────────────


class PortFacts(TypedDict):
    """An input or output of the bundle."""

    name: str
    shape: list[Count | None]
    dtype: str


class MetricFacts(TypedDict):
    """The metric of the manifest, with its interval."""

    name: str
    direction: Direction
    val: float
    unit: NotRequired[list[float]]
    test: NotRequired[dict[str, Any] | None]


class Calibration(TypedDict):
    """The threshold of an anomaly score."""

    output: str
    threshold: float
    above: str
    below: str
    quantile: Share
    of: str


class Manifest(TypedDict):
    """manifest.json of a bundle."""

    artifact: str
    task: str
    space: str
    stages: list[str]
    inputs: list[PortFacts]
    outputs: list[PortFacts]
    labels: list[str]
    metric: MetricFacts
    equipment: NotRequired[list[Name]]
    calibration: NotRequired[Calibration]
    columns: NotRequired[list[ColumnFacts]]
