"""What a search promises apart from surviving kills and keeping limits: samplers, interrupts, and what it leaves."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import search_driver
from interrupt_driver import dropped_ctrl_c
from small_search import BUDGET, settings

from searchkit.context import Context
from searchkit.core.errors import BadInput
from searchkit.core.interrupt import Interrupted
from searchkit.core.space import Budget, Space
from searchkit.core.space_file import load_space
from searchkit.core.task import Task
from searchkit.run import Run
from searchkit.search.coordinator import search
from searchkit.search.jobs import worker_environment
from searchkit.search.results import failures, history, importances, random_so_far, winners
from searchkit.search.settings import SearchStopped, Status
from searchkit.search.storage import whole_url, without_password
from searchkit.tasks import registry

# ── the whole search ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("sampler", "minimize"),
    [
        ("gp", None),
        ("gp", "params"),
        ("tpe", None),
        ("tpe", "params"),
        ("nsga2", "params"),
        ("random", None),
        ("grid", None),
    ],
)
def test_every_sampler_uses_its_budget_without_repeats(
    context: Context, tiny: Space, sampler: str, minimize: str | None
) -> None:
    seen: list[Status] = []
    search(tiny, context, settings(sampler=sampler, minimize=minimize), seen.append)
    rows = history(context.run)
    trained = [row for row in rows if row["status"] == "trained"]
    assert len(trained) == BUDGET.trials == seen[-1].done
    assert len({tuple(sorted(row["params"].items())) for row in rows}) == len(rows)
    best = max(row["value"] for row in trained)
    assert seen[-1].best == best == winners(context.run)[0].metrics["accuracy"]
    assert any(row["epochs"] == 1 for row in trained), "nothing was stopped at the first rung"
    assert any(row["epochs"] == 2 for row in trained), "nothing was trained to the end"


def test_the_front_is_what_no_trial_beats(context: Context, tiny: Space) -> None:
    search(tiny, context, settings(minimize="params"))
    front = winners(context.run)
    points = [(-a.metrics["accuracy"], a.metrics["params"]) for a in front]
    assert points == sorted(points)
    for better, worse in zip(points, points[1:], strict=False):
        assert worse == better or worse[1] < better[1], "a trial on the front is worse than another and no cheaper"
    for other in context.run.trials():
        point = (-other.metrics["accuracy"], other.metrics["params"])
        beaten = any(p[0] <= point[0] and p[1] <= point[1] for p in points)
        assert beaten, "a trial outside the front is beaten by one on it"


def test_a_space_that_is_not_for_the_data_is_refused(tmp_path: Path, tiny: Space) -> None:
    digits = registry.load({"task": "digits", "split_seed": 0})
    context = Context(Run.create(tmp_path, "run", {}), digits, lambda name: tiny)
    with pytest.raises(BadInput, match="tables only"):
        search(tiny, context, settings())


def test_the_same_error_five_times_stops_the_run(context: Context, tmp_path: Path) -> None:
    text = search_driver.TINY.read_text().replace(
        "    layers: list[nn.Module] = []", "    layers: list[nn.Module] = [Broken()]"
    )
    broken = "class Broken(nn.Module):\n    def forward(self, x):\n"
    broken += "        assert not self.training, 'planted'\n        return x\n\n\n@dataclass(frozen=True)"
    (tmp_path / "broken.py").write_text(text.replace("@dataclass(frozen=True)", broken, 1))
    with pytest.raises(SearchStopped, match="5 trials in a row.*planted"):
        search(load_space(tmp_path / "broken.py"), context, settings(budget=replace(BUDGET, trials=9)))
    rows = failures(context.run)
    assert [row["failure"] for row in rows] == ["crashed"] * 5
    assert len(list(context.run.path.glob("artifacts/*/error.txt"))) == 5
    assert "planted" in next(context.run.path.glob("artifacts/*/error.txt")).read_text()


def test_ctrl_c_leaves_a_run_that_resumes(context: Context, tiny: Space) -> None:
    before = signal.getsignal(signal.SIGINT)

    def interrupt(status: Status) -> None:
        if status.done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="--resume run"):
        search(tiny, context, settings(), interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert not any(row["event"] == "end" for row in context.run.lines("search.jsonl"))
    n_before = len(context.run.trials())
    assert 2 <= n_before < BUDGET.trials
    search(tiny, context, settings())
    assert [row["status"] for row in history(context.run)] == ["trained"] * BUDGET.trials
    assert context.run.lines("search.jsonl")[-1]["event"] == "end"


@pytest.mark.parametrize("done", [2, BUDGET.trials], ids=["on the way", "at the end"])
def test_ctrl_c_where_python_drops_it_is_heard(context: Context, tiny: Space, done: int) -> None:
    heard = []

    def interrupt(status: Status) -> None:
        if status.done == done and not heard:
            dropped_ctrl_c()
            heard.append(True)

    with pytest.raises(Interrupted, match="--resume run"):
        search(tiny, context, settings(), interrupt)
    assert sum(row["status"] == "trained" for row in history(context.run)) == done
    search(tiny, context, settings())
    assert [row["status"] for row in history(context.run)] == ["trained"] * BUDGET.trials


def test_a_search_never_looks_at_the_test_split(context: Context, task: Task, tiny: Space, tmp_path: Path) -> None:
    """The same search where the rows of test are garbage: equal trials, metrics, scores and weights, bit for bit."""
    config, arrays = task.pack()
    spoiled = {name: array.copy() for name, array in arrays.items()}
    spoiled["input.features"][arrays["rows.test"]] = np.nan
    spoiled["target"][arrays["rows.test"]] = 0
    poisoned = registry.unpack(config, spoiled)
    assert np.isnan(poisoned.raw("test")["features"]).all() and np.isfinite(poisoned.raw("val")["features"]).all()
    elsewhere = replace(context, run=Run.create(tmp_path / "else", "run", {}), task=poisoned)
    for ctx in (context, elsewhere):
        search(tiny, ctx, settings(minimize="params"))
    facts = ("number", "params", "value", "cost", "epochs")
    told = [[[row[name] for name in facts] for row in history(ctx.run)] for ctx in (context, elsewhere)]
    assert told[0] == told[1]
    for one, other in zip(context.run.trials(), elsewhere.run.trials(), strict=True):
        assert one.metrics == other.metrics
        assert context.run.scores(one).tobytes() == elsewhere.run.scores(other).tobytes()
        a, b = context.run.weights(one), elsewhere.run.weights(other)
        assert {n: w.numpy().tobytes() for n, w in a.items()} == {n: w.numpy().tobytes() for n, w in b.items()}


def test_a_run_is_not_resumed_as_another_search(context: Context, tiny: Space) -> None:
    search(tiny, context, settings(budget=replace(BUDGET, trials=1)))
    with pytest.raises(BadInput, match="another task, objective or budget"):
        search(tiny, context, settings(budget=replace(BUDGET, epochs=4)))
    search(tiny, context, settings(budget=replace(BUDGET, trials=2)))
    assert len(context.run.trials()) == 2


def test_the_time_left_is_told_without_a_time_budget(context: Context, tiny: Space) -> None:
    seen: list[Status] = []
    search(tiny, context, settings(budget=replace(BUDGET, trials=3)), seen.append)
    assert seen[0].seconds_to_go is None and seen[-1].seconds_to_go == 0
    spent = [row["seconds"] for row in history(context.run)]
    after_one = next(status for status in seen if status.done == 1)
    assert after_one.seconds_to_go == pytest.approx(2 * spent[0]), "two are open, and one has taken so long"


def test_a_password_is_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = "postgresql://me:s3cret@db.example:5432/study"
    bare = "postgresql://me@db.example:5432/study"
    assert without_password(whole) == without_password(bare) == bare
    assert without_password(f"--storage={whole}") == f"--storage={bare}"
    assert "s3cret" not in without_password("postgresql://me:a@s3cret@db/study")
    assert without_password("postgresql://db/x?user=me&password=s3cret") == "postgresql://db/x?user=me"
    for plain in ("sqlite:////tmp/a.db", "postgresql://db:5432/x", "runs/x", "--name", "C:/a@b"):
        assert without_password(plain) == plain
    monkeypatch.delenv("SEARCHKIT_STORAGE", raising=False)
    assert whole_url(bare) == bare
    monkeypatch.setenv("SEARCHKIT_STORAGE", whole)
    assert whole_url(bare) == whole and whole_url("postgresql://me@other/study") == "postgresql://me@other/study"
    assert "SEARCHKIT_STORAGE" not in worker_environment([])


def test_coordinators_share_a_study_by_url(tmp_path: Path, task: Task, tiny: Space) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    for place in ("one", "two"):
        context = Context(Run.create(tmp_path / place, "run", {}), task, lambda name: tiny, echo=lambda line: None)
        trials = 2 if place == "one" else 5
        search(tiny, context, settings(storage=url, budget=replace(BUDGET, trials=trials)))
        assert len(history(context.run)) == trials
        assert len(context.run.trials()) == (2 if place == "one" else 3), "the trials of both count"


# ── what it leaves ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_random_so_far_is_the_expected_best_of_k_draws() -> None:
    assert random_so_far([3.0, 1.0, 2.0], "maximize") == pytest.approx([2.0, 8 / 3, 3.0])
    assert random_so_far([3.0, 1.0, 2.0], "minimize") == pytest.approx([2.0, 4 / 3, 1.0])


def test_importances_are_shares(context: Context, tiny: Space) -> None:
    search(tiny, context, settings(budget=Budget(trials=8, epochs=1, rungs=1), sampler="random"))
    found = importances(context.run)
    assert {"depth", "width0", "activation", "train.lr"} <= set(found)
    assert sum(found.values()) == pytest.approx(1.0) and min(found.values()) >= 0.0
