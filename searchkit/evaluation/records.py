"""What the test split said, as values: one record for the whole, one a file, one a baseline.

`searchkit.evaluation.evidence` makes them, evidence.json in the run keeps them, and the report draws them.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated

import numpy as np

from searchkit.core.data_spec import brief
from searchkit.core.errors import BadInput
from searchkit.core.estimates import Difference, Interval, Latency, McNemar
from searchkit.core.goal import Goal
from searchkit.core.run_files import AgreementWords, Errors, MadeBy, Pictures
from searchkit.core.serialization import JSON, freeze, thaw
from searchkit.core.typed import As, Count, Mismatch, NotNegative, Range, Share, conform
from searchkit.run import Run

FORMAT = 2
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
    made_by: Annotated[dict[str, JSON], As(MadeBy)]
    metrics: dict[str, float]
    val: dict[str, float]
    metric: Interval
    difference: Difference
    mcnemar: McNemar | None
    agreement: Interval
    params: NotNegative
    macs: NotNegative
    size_bytes: Annotated[int, Range(1)]
    peak_activation_bytes: Count
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
        prediction: Words for the agreement, see `Prediction.words`; None in files of release 0.1.
        rivals: The baselines.
        pictures: What a drawing of the answers needs; None if they are no pictures.
        recipe: By whose name these files were asked for; None for the run's own, as the next two.
        wish: With which settings.
        command: By which words.
    """

    format: int
    split: str
    n: Annotated[int, Range(1)]
    goal: Goal
    kind: str
    labels: tuple[str, ...]
    confidence: Share
    resamples: Count
    files: dict[str, str]
    reference: str
    chosen: str
    models: tuple[ModelEvidence, ...]
    errors: Annotated[dict[str, JSON], As(Errors)]
    groups: Count | None = None
    prediction: Annotated[dict[str, JSON] | None, As(AgreementWords | None)] = None
    rivals: tuple[BaselineEvidence, ...] = ()
    pictures: Annotated[dict[str, JSON] | None, As(Pictures | None)] = None
    recipe: str | None = None
    wish: dict[str, JSON] | None = None
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
        return thaw(cls, _known(plain))


ASKED = ("recipe", "wish", "command")


def stored(run: Run) -> Evidence | None:
    """The evidence that a run keeps, checked field by field; imports no torch.

    Returns:
        None before any stage, or if the file is of another format: it is then made again.

    Raises:
        BadInput: A field is missing, of another type or out of range, or fields contradict each other.
    """
    plain = run.read_json(FILE)
    # A format that is no whole number is damage, not another version: it is named below.
    if plain is None or isinstance(plain.get("format"), int) and plain["format"] != FORMAT:
        return None
    try:
        found: Evidence = conform(_known(plain), Evidence)
        _require_consistent(found)
    except Mismatch as problem:
        raise BadInput(f"In {run.named(FILE)}, {problem}; delete it and resume the run.") from problem
    return found


def _known(plain: Mapping[str, JSON]) -> dict[str, JSON]:
    names = {f.name for f in fields(Evidence)}
    return {name: value for name, value in plain.items() if name in names}


def _require_consistent(found: Evidence) -> None:
    """Raises Mismatch if fields contradict each other."""
    ids, metric = {model.id for model in found.models}, found.goal.metric
    for what, wrong in (
        ("'models' lacks the one that is 'chosen'", found.chosen not in ids),
        ("'models' lacks the one that is the 'reference'", found.reference not in ids),
        ("'files' lacks a hash of one of the 'models'", not ids <= set(found.files)),
        (
            f"a model has no '{brief(metric)}', the metric of the goal",
            any(metric not in figures for model in found.models for figures in (model.metrics, model.val)),
        ),
        ("the rows of 'pictures' have not the size of their 'shape'", not _pictures_fit(found.pictures)),
        ("the rows of 'errors.confusion' are not as long as there are rows", not _is_square(found.errors)),
        ("'errors.edges' are not one more than the bars of the histogram", not _edges_fit(found.errors)),
    ):
        if wrong:
            raise Mismatch(what)


def _pictures_fit(pictures: Mapping[str, JSON] | None) -> bool:
    if pictures is None:
        return True
    size = int(np.prod(pictures["shape"]))
    try:
        # Without `validate`, characters outside of the alphabet are skipped.
        return all(len(base64.b64decode(row, validate=True)) == size for row in pictures["rows"].values())
    except ValueError:
        return False


def _is_square(errors: Mapping[str, JSON]) -> bool:
    table = errors.get("confusion", ())
    return all(len(row) == len(table) for row in table)


def _edges_fit(errors: Mapping[str, JSON]) -> bool:
    return "histogram" not in errors or len(errors["edges"]) == len(errors["histogram"]) + 1
