"""The evidence as a value: there and back through the run's file, and the schema that readers of report.json know."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass

import pytest
from report_run import ACCURACY, add_line, make_evidence, make_run

from searchkit.core.errors import BadInput
from searchkit.core.serialization import freeze, thaw
from searchkit.evaluation.records import FILE, Evidence, ModelEvidence, stored
from searchkit.evaluation.statistics import Interval
from searchkit.onnx.measure import Latency
from searchkit.report.data import Report, gather
from searchkit.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs"), n_trials=6)


@pytest.fixture(scope="module")
def evidence(run: Run) -> Evidence:
    return make_evidence(add_line(run, ACCURACY), ACCURACY, "classes")


def test_it_survives_json_with_the_types_of_its_parts(evidence: Evidence) -> None:
    back = Evidence.from_json(json.loads(json.dumps(evidence.to_json())))
    assert back == evidence
    first = back.models[0]
    assert (
        isinstance(first, ModelEvidence) and isinstance(first.metric, Interval) and isinstance(first.latency, Latency)
    )
    assert back.goal == ACCURACY and isinstance(back.errors["confusion"], list)
    assert not {"recipe", "wish", "command"} & evidence.to_json().keys(), "what was not asked for is left out"


def test_what_another_version_adds_is_left_out_and_what_is_missing_is_a_sentence(run: Run, evidence: Evidence) -> None:
    assert stored(run) is None
    run.write_json(FILE, {**evidence.to_json(), "to_come": 1})
    assert stored(run) == evidence
    plain = evidence.to_json()
    for broken in (
        {k: v for k, v in plain.items() if k != "models"},
        {k: v for k, v in plain.items() if k != "errors"},
        {**plain, "goal": {"metric": "accuracy", "way": "up"}},
        {**plain, "models": [{"id": "a"}]},
    ):
        run.write_json(FILE, broken)
        with pytest.raises(BadInput, match="evidence.json of the run .* delete it and resume") as caught:
            stored(run)
        assert len(str(caught.value)) < 400
    (run.path / FILE).unlink()


def test_readers_of_report_json_find_the_keys_that_they_know(run: Run, evidence: Evidence) -> None:
    plain = gather(run, evidence).to_json()
    assert list(plain) == [f.name for f in fields(Report)]
    row = plain["stages"][0]
    assert list(row) == [*(f.name for f in fields(ModelEvidence)), "name", "ids", "sha256", "is_chosen", "is_reference"]
    assert list(plain["front"]["points"][0]) == ["space", "number", "value", "cost", "on_front", "chosen"]
    assert "val" in plain["curves"]["trials"][0]["points"][0]


def test_the_middle_is_frozen(run: Run, evidence: Evidence) -> None:
    report = gather(run, evidence)
    for value in (evidence, report, evidence.models[0], report.stages[0], report.front, report.search.trials[0]):
        assert is_dataclass(value)
        with pytest.raises(AttributeError):
            setattr(value, fields(value)[0].name, None)


def test_thaw_makes_dataclasses_in_dataclasses() -> None:
    from dataclasses import dataclass

    assert thaw(Interval, freeze(Interval(0.5, 0.4, 0.6, "bca", 9))) == Interval(0.5, 0.4, 0.6, "bca", 9)

    @dataclass(frozen=True)
    class Plain:
        about: dict[str, object]
        rows: tuple[tuple[int, ...], ...] = ()

    # a local class cannot be named by an annotation, and none is needed for plain values
    assert thaw(Plain, {"about": {"a": [1]}, "rows": [[1, 2], [3]]}) == Plain({"a": [1]}, ((1, 2), (3,)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chosen": "nobody"}, "lacks the one that is 'chosen'"),
        ({"reference": "nobody"}, "lacks the one that is the 'reference'"),
        ({"files": {}}, "'files' lacks a hash"),
        ({"goal": {"metric": "mse", "direction": "minimize"}}, "a model has no 'mse', the metric of the goal"),
        ({"errors": {"confusion": [[1, 2]], "unanswered": 0}}, "not as long as there are rows"),
        ({"errors": {"histogram": [1, 2], "edges": [0.0, 1.0]}}, "'errors.edges' are not one more"),
        ({"pictures": {"shape": [1, 2, 2, 1], "rows": {"given": "AAAA"}}}, "have not the size of their 'shape'"),
    ],
)
def test_fields_that_contradict_each_other_are_a_sentence(
    run: Run, evidence: Evidence, changes: dict[str, object], said: str
) -> None:
    run.write_json(FILE, {**evidence.to_json(), **changes})
    try:
        with pytest.raises(BadInput, match="evidence.json of the run .* delete it and resume") as caught:
            stored(run)
        assert said in str(caught.value)
        run.write_json(FILE, {**evidence.to_json(), "format": 1})
        assert stored(run) is None, "of another format: it is made again"
    finally:
        (run.path / FILE).unlink()
