"""What the test split said, as values: one record for the whole, one a file, one a baseline.

`searchkit.evaluation.evidence` makes them, evidence.json in the run keeps them, and the report draws them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from searchkit.core.errors import BadInput
from searchkit.core.goal import Goal
from searchkit.core.serialization import JSON, freeze, thaw
from searchkit.evaluation.statistics import Difference, Interval, McNemar
from searchkit.onnx.measure import Latency
from searchkit.run import Run

FILE = "evidence.json"


@dataclass(frozen=True)
class ModelEvidence:
    """One exported file on test.

    Attributes:
        id: Of the artifact.
        stage: That made it.
        made_by: The stage's settings.
        metrics: On test, by name.
        val: The artifact's metrics on val, which chose it and so flatter it.
        metric: The goal's, with its interval.
        difference: To the reference, example by example.
        mcnemar: Beside the reference; None if an example is not simply right or wrong.
        agreement: The share of examples that it answers as the reference does.
        params: Of the float network behind it.
        macs: Of the float network behind it, for one example.
        size_bytes: Of the file.
        peak_activation_bytes: For one example.
        latency: Beside the reference, all files in one interleaved session.
    """

    id: str
    stage: str
    made_by: dict[str, JSON]
    metrics: dict[str, float]
    val: dict[str, float]
    metric: Interval
    difference: Difference
    mcnemar: McNemar | None
    agreement: Interval
    params: float
    macs: float
    size_bytes: int
    peak_activation_bytes: int
    latency: Latency


@dataclass(frozen=True)
class BaselineEvidence:
    """What needs no network, on test. difference: of the chosen file to it."""

    name: str
    metrics: dict[str, float]
    metric: Interval
    difference: Difference


@dataclass(frozen=True)
class Evidence:
    """All of it.

    Attributes:
        format: Of the file.
        split: "test".
        n: Examples.
        goal: What was searched for.
        kind: What the answers are, which says how they are compared.
        labels: Class names in order of index.
        confidence: Of the intervals, a share.
        resamples: Of the bootstrap.
        files: The sha256 of each file, by the artifact's id.
        reference: The id of the fp32 winner.
        chosen: The id of what is shipped.
        models: One a file, oldest first.
        errors: What a drawing of the errors needs.
        groups: Of examples that were resampled whole; None if each is by itself.
        rivals: The baselines.
        pictures: What a drawing of the answers needs; None if they are no pictures.
        recipe: By whose name these files were asked for; None for the run's own, as the next two.
        wish: With which settings.
        command: By which words.
    """

    format: int
    split: str
    n: int
    goal: Goal
    kind: str
    labels: tuple[str, ...]
    confidence: float
    resamples: int
    files: dict[str, str]
    reference: str
    chosen: str
    models: tuple[ModelEvidence, ...]
    errors: dict[str, JSON]
    groups: int | None = None
    rivals: tuple[BaselineEvidence, ...] = ()
    pictures: JSON = None
    recipe: str | None = None
    wish: JSON = None
    command: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, JSON]:
        """As evidence.json has it: what was not asked for is left out."""
        plain: dict[str, JSON] = freeze(self)
        return {k: v for k, v in plain.items() if v is not None or k not in ASKED}

    @classmethod
    def from_json(cls, plain: Mapping[str, JSON]) -> Evidence:
        """The inverse of `to_json`; keys that this version does not know are left out.

        Raises:
            BadInput: Something is missing, or of another shape.
        """
        known = {f.name for f in fields(cls)}
        found = thaw(cls, {k: v for k, v in plain.items() if k in known})
        # JSON as it was: a table of errors stays lists
        return replace(found, errors=plain["errors"], pictures=plain.get("pictures"), wish=plain.get("wish"))


ASKED = ("recipe", "wish", "command")


def stored(run: Run) -> Evidence | None:
    """The evidence that a run keeps; None before any stage.

    Raises:
        BadInput: The file is damaged.
    """
    plain = run.read_json(FILE)
    if not plain:
        return None
    try:
        return Evidence.from_json(plain)
    except (BadInput, TypeError, KeyError, AttributeError) as error:
        raise BadInput(
            f"{FILE} of the run '{run.name}' cannot be read ({error}); delete it and resume the run."
        ) from error
