"""What `status` tells of a run: the stages in the order of the line, and of one run its goal, trials, time and more."""

from __future__ import annotations

import fcntl
import itertools
from pathlib import Path

import pytest
from report_run import ACCURACY, add_line, make_evidence, make_run

from searchkit.config import stored
from searchkit.config.run import RunConfig
from searchkit.core.artifact import Artifact
from searchkit.report import standing
from searchkit.run import Run

LOG = (
    {"event": "dispatch", "trial": 0, "rung": 0}, {"event": "trained", "trial": 0, "rung": 0, "epochs": 20},
    {"event": "dispatch", "trial": 4, "rung": 0}, {"event": "failed", "trial": 4, "rung": 0},
    {"event": "dispatch", "trial": 5, "rung": 0}, {"event": "rung", "trial": 5, "rung": 0, "epochs": 7},
    {"event": "dispatch", "trial": 6, "rung": 0},
)  # fmt: skip
ENDED = {"seconds": 1.0, "loss": -0.5}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A searched run of 7 trials, with a log, and no stage."""
    made = make_run(tmp_path / "runs", n_trials=7)
    config = RunConfig.from_options(space="mlp", task="digits", trials=7, time_budget="30m", max_size=20_000)
    del made.config["question"]
    made.config["config"] = stored.plain(config)
    made.write_json("run.json", made.config)
    for row in LOG:
        more = ENDED if row["event"] in ("trained", "rung") else {}
        made.append_line("search.jsonl", {"space": "mlp", **row, **more})
    made.write_json("clock.json", {"seconds": 754.0})
    return made


def artifact(id: str, stage: str, parent: str | None) -> Artifact:
    return Artifact(id, "mlp", {}, {}, (), {"stage": stage}, parent)


@pytest.mark.parametrize(
    ("lines", "order"),
    [
        ([["Promote", "Distill", "Prune", "Quantize", "Export"]], "Promote Distill Prune Quantize Export"),
        ([["Promote", "Export"], ["Promote", "Quantize", "Export"]], "Promote Quantize Export"),
        ([["Promote", "Quantize"], ["Promote", "Prune", "Export"]], "Promote Prune Quantize Export"),
        ([["Promote", "Tune", "Export"]], "Promote Tune Export"),
        ([[]], ""),
    ],
    ids=str,
)
def test_stages_are_in_the_order_of_their_line(lines: list[list[str]], order: str) -> None:
    found = {"trial": artifact("trial", "Trial", None)}
    for number, stages in enumerate(lines):
        ids = ["trial", *(f"{number}-{stage}" for stage in stages)]
        found |= {id: artifact(id, s, parent) for (parent, id), s in zip(itertools.pairwise(ids), stages, strict=True)}
    backwards = dict(sorted(found.items(), reverse=True))
    assert standing.stage_order(found) == standing.stage_order(backwards) == order.split()


def test_a_run_in_full(run: Run) -> None:
    found = standing.full_standing(run)
    assert (found["run"], found["state"], found["trials"], found["of"]) == ("mlp-digits-7f", "searching", 5, 7)
    assert found["trial_states"] == {
        "trained": 5, "failed": 1, "cut off": 0, "interrupted": 2, "over a limit": 1
    }  # fmt: skip
    best = min(run.trials(), key=lambda a: -a.metrics["accuracy"])
    assert found["best"]["trial"] == best.made_by["number"] and found["goal"]["direction"] == "maximize"
    text = standing.describe(found, name="mlp-digits-7f")
    for said in (
        "maximize accuracy", "digits: 1,797 rows (train 1,077, val 360, test 360)", "a file of 20.0 KB at most",
        "5 of 7: 5 trained, 1 failed, 2 interrupted, 1 over a limit", "no process is running", "recipe compact",
        f"trial {best.made_by['number']}: val accuracy {100 * best.metrics['accuracy']:.1f} %", "MACs",
        "13 min of 30 min; started 2026-11-20 10:11", "next      searchkit search --resume mlp-digits-7f",
    ):  # fmt: skip
        assert said in text, text


def test_a_shipped_run_tells_its_stages_its_score_and_what_to_do(run: Run) -> None:
    chain = add_line(run, ACCURACY)
    evidence = make_evidence(chain, ACCURACY, "classes")
    run.write_json("evidence.json", evidence.to_json())
    run.write_json("skipped.json", {"x": {"stage": "Other", "parent": chain[0].id, "reason": "there was no need"}})
    run.bundle.mkdir()
    found = standing.full_standing(run)
    text = standing.describe(found, name="r")
    stages = [row.split()[0] for row in text.splitlines()[7:]]
    assert stages == ["promote", "distill", "prune", "quantize", "export", "other", "test", "time", "next"]
    assert "other     left out: there was no need" in text and f"python {run.path}/bundle/verify.py" in text
    value = evidence.models[-1].metric.value
    assert f"test      accuracy {100 * value:.1f} % [" in text and "n = 360" in text


def test_a_process_at_work_is_named_and_its_trials_are_in_training(run: Run) -> None:
    assert run.writer() is None
    with open(run.path / "lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        handle.write("1234")
        handle.flush()
        found = standing.full_standing(run)
    assert found["process"] == "1234" and found["trial_states"]["in training"] == 2
    assert "process 1234 is running" in standing.describe(found, name="r")
    assert "next      wait, or stop process 1234" in standing.describe(found, name="r")
    assert run.writer() is None


def test_what_to_do_next_depends_on_where_the_run_stands(run: Run) -> None:
    found = {"process": None, "state": "searched", "question": {"recipe": "none"}, "path": "runs/r"}
    assert standing.next_step(found, name="a b") == "searchkit compress 'a b'"
    assert standing.next_step({**found, "question": {"recipe": "int8"}}, name="r") == "searchkit search --resume r"


def test_a_run_without_a_search_has_a_standing(tmp_path: Path, run: Run) -> None:
    for name in ("search.json", "search.jsonl", "study.db", "clock.json"):
        (run.path / name).unlink()
    for trial in run.trials():
        (run.artifact_dir(trial.id) / "artifact.json").unlink()
    found = standing.full_standing(Run.open(run.path))
    text = standing.describe(found, name="r")
    assert "0 of 7: none begun" in text and "time      0 s of 30 min" in text and "best" not in text
