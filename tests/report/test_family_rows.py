"""The report of a search that several families shared."""

from __future__ import annotations

import json
import re
from pathlib import Path

import optuna
import pytest
from report_run import ACCURACY, make_run

from searchkit.core.goal import Goal
from searchkit.report import charts
from searchkit.report.data import pareto
from searchkit.report.families import family_rows
from searchkit.report.svg import color_each
from searchkit.report.write import write
from searchkit.search.results import HistoryRow


def row(space: str, number: int, value: float | None, params: float, seconds: float = 1.0) -> HistoryRow:
    status = "trained" if value is not None else "failed"
    return {
        "space": space, "number": number, "status": status, "way": "random", "value": value,
        "cost": {"params": params}, "rung": 0, "epochs": 1, "seconds": seconds if value is not None else None,
        "artifact": None, "rejected": None, "failure": None, "reason": None, "params": {},
    }  # fmt: skip


TRIALS = [
    row("b", 0, 0.80, 100.0, 1.0), row("a", 1, 0.90, 200.0, 2.0), row("b", 2, 0.70, 300.0, 3.0),
    row("a", 3, None, 10.0),
    row("b", 4, 0.90, 150.0, 4.0),
]  # fmt: skip
SEARCHES = {"a": {}, "b": {}, "c": {"left_out": "nothing of it fits"}}


@pytest.mark.parametrize(("goal", "best"), [(ACCURACY, 0.90), (Goal("rmse", "minimize"), 0.70)])
def test_families_are_compared_by_what_they_got_and_what_came_of_it(goal: Goal, best: float) -> None:
    rows = family_rows(SEARCHES, TRIALS, goal, pareto(TRIALS, [], goal, "params"))
    found = {r.name: r for r in rows}
    assert rows[0].best == best and rows[-1].name == "c" and rows[-1].best is None
    assert (found["a"].n_trained, found["a"].n_failed, found["b"].n_trained) == (1, 1, 3)
    assert (found["a"].seconds, found["a"].share, found["b"].share) == (2.0, 0.2, 0.8)
    assert found["c"].left_out == "nothing of it fits" and found["c"].share == 0.0
    if goal is ACCURACY:
        assert (found["b"].n_on_front, found["a"].n_on_front) == (2, 0), "b's trial 4 is as good as a's and cheaper"
        assert (found["b"].trial, found["b"].cost) == (4, {"params": 150.0})
    assert family_rows({"a": {}}, TRIALS, goal, pareto(TRIALS, [], goal, "params")) == ()


def test_trials_of_equal_numbers_in_two_studies_are_told_apart() -> None:
    trials = [row("a", 0, 0.9, 50.0), row("b", 0, 0.8, 100.0)]
    rows = family_rows({"a": {}, "b": {}}, trials, ACCURACY, pareto(trials, [], ACCURACY, "params"))
    assert {r.name: r.n_on_front for r in rows} == {"a": 1, "b": 0}


def test_a_color_is_a_family_and_one_family_has_none() -> None:
    assert color_each(["b", "a", "b"]) == {"a": "c1", "b": "c2"}
    assert color_each(["a", "a"]) == {}
    assert color_each(list("abcdef"))["f"] == "c1"
    points = [{"space": s, "number": n, "value": v, "cost": c, "on_front": f, "chosen": False}
              for s, n, v, c, f in (("b", 0, 0.8, 9.0, True), ("a", 1, 0.7, 99.0, False))]  # fmt: skip
    drawn = charts.front({"cost": "params", "points": points, "line": [], "minimized": "params"}, "accuracy")  # type: ignore[typeddict-item]
    assert 'class="dot c2"' in drawn and 'class="ring c1"' in drawn and ">a</text>" in drawn and ">b</text>" in drawn
    points[0]["space"] = "a"
    alone = charts.front({"cost": "params", "points": points, "line": [], "minimized": "params"}, "accuracy")  # type: ignore[typeddict-item]
    assert 'class="dot c1"' in alone and 'class="dot faint"' in alone and ">a</text>" not in alone


def test_the_pages_have_the_table_of_families(tmp_path: Path) -> None:
    run = make_run(tmp_path, n_trials=4)
    about = run.read_json("search.json")
    optuna.create_study(
        storage=f"sqlite:///{run.path / 'study.db'}", study_name="b", directions=["maximize", "minimize"]
    )
    other = {**about["mlp"], "study": "b", "left_out": "too <i>large</i>"}
    run.write_json("search.json", {**about, "<b>": other})
    written = write(run, None, tmp_path / "report")
    page, text = written["html"].read_text(), written["md"].read_text()
    section = page[page.index('<section id="families">') : page.index('<section id="distillation">')]
    assert '<th scope="row">mlp</th>' in section and "left out: too &lt;i&gt;large&lt;/i&gt;" in section
    assert re.search(r"\| mlp \| \d+.*\| 100 % \|", text) and "| &lt;b&gt; | left out: too &lt;i&gt;large" in text
    plain = json.loads(written["json"].read_text())["families"]
    assert [r["name"] for r in plain] == ["mlp", "<b>"]
    single = write(make_run(tmp_path, name="single", n_trials=4), None, tmp_path / "single-report")
    assert 'id="families"' not in single["html"].read_text() and "## Families" not in single["md"].read_text()
