"""Every field of every stage does something: each row changes one field, and what the stage makes must change.

The stages are run without the export of what they make, so that a row takes the time of a short training.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import search_driver
import torch
from torch import nn

from searchkit.context import Context
from searchkit.core.artifact import Artifact
from searchkit.core.errors import Inapplicable
from searchkit.core.goal import Goal, Tolerance
from searchkit.core.serialization import freeze
from searchkit.core.space_file import load_space
from searchkit.core.stage import Stage
from searchkit.core.task import Task
from searchkit.core.training import FitPlan, TrainState
from searchkit.onnx import int8, measure
from searchkit.onnx import io as onnx_io
from searchkit.run import Run
from searchkit.stages import quantize
from searchkit.stages.distill import Distill
from searchkit.stages.export import Export
from searchkit.stages.pipeline import StageBudget, apply
from searchkit.stages.promote import Promote
from searchkit.stages.prune import Prune
from searchkit.stages.quantize import Quantize
from searchkit.tasks import registry

SPACE = load_space(search_driver.TINY)


@dataclass
class Unsaved(Context):
    """A context in which a stage's child is neither exported nor written: it is the artifact that would be saved."""

    def save(
        self, draft: Artifact, net: nn.Module | None, *, model: Path | None = None, log: Any = None, notes: Any = None
    ) -> Artifact:
        assert net is not None
        weights = [(n, tuple(p.shape), p.detach().numpy().tobytes()) for n, p in net.named_parameters()]
        return replace(draft, notes={**(notes or {}), "weights": weights, "log": log})


def put_trial(ctx: Context, number: int, widths: tuple[int, ...], epochs: int) -> Artifact:
    torch.manual_seed(number)
    arch = SPACE.arch(widths, "relu")
    net = SPACE.build(arch, ctx.task.spec)
    training = replace(SPACE.training.default, epochs=epochs)
    state = ctx.task.fit(net, FitPlan(training, seed=number, until=epochs, validate=True), TrainState())
    draft = Artifact(
        f"trial-{number}", SPACE.name, freeze(arch), freeze(training), (), {"stage": "Trial", "number": number}, None,
        metrics={ctx.task.goal.metric: state.numbers["curve"][-1]["val"], "params": float(measure.params(net))},
    )  # fmt: skip
    return ctx.run.save(draft, weights=net.state_dict(), log=state.numbers["curve"])


def make(folder: Path, task: Task) -> Context:
    """Three trials: the parent, hardly trained, and two that are better."""
    ctx = Unsaved(Run.create(folder, "run", {}), task, lambda name: SPACE, echo=lambda text: None)
    for number, (widths, epochs) in enumerate([((40, 32), 2), ((24,), 12), ((16, 16), 12)]):
        put_trial(ctx, number, widths, epochs)
    return ctx


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return make(tmp_path_factory.mktemp("wine"), registry.load({"task": "wine"}))


def made_by(ctx: Context, stage: Stage) -> Artifact:
    return made_once(ctx.run.path, stage, lambda: stage(ctx.run.load("trial-0"), ctx))


MADE: dict[Any, Artifact] = {}


def made_once(path: Path, stage: Stage, make_it: Callable[[], Artifact]) -> Artifact:
    key = (path, stage)
    if key not in MADE:
        MADE[key] = make_it()
    return MADE[key]


def seen(artifact: Artifact) -> dict[str, Any]:
    """All that the stage made, but for how it was asked for."""
    notes = {k: v for k, v in artifact.notes.items() if k not in ("asked", "log")}
    curve = [{k: v for k, v in row.items() if "seconds" not in k} for row in artifact.notes["log"]]
    return {"arch": artifact.arch, "edits": artifact.edits, **notes, "curve": curve}


# ── distillation ─────────────────────────────────────────────────────────────────────────────────────────────────────

DISTILL = Distill(epochs=2, ensemble=3)
DISTILL_ROWS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "epochs": (1, ("curve",)),
    "temperature": (8.0, ("curve",)),
    "weight": (0.9, ("curve",)),
    "lr_scale": (1.0, ("curve",)),
    "ensemble": (1, ("teachers",)),
    "student": (1, ("arch",)),
}


@pytest.mark.parametrize("field", DISTILL_ROWS)
def test_each_field_of_distill_changes_what_it_makes(ctx: Context, field: str) -> None:
    value, changed = DISTILL_ROWS[field]
    before, after = (seen(made_by(ctx, stage)) for stage in (DISTILL, replace(DISTILL, **{field: value})))
    assert all(before[name] != after[name] for name in changed)


def test_distillation_trains_the_control_as_long_and_keeps_the_best(ctx: Context) -> None:
    made = made_by(ctx, DISTILL)
    assert [row["candidate"] for row in made.notes["log"]] == ["control"] * 2 + ["distilled"] * 2
    values = made.notes["candidates"]
    assert list(values) == ["before distillation", "control", "distilled"]
    assert values[made.notes["kept"]] == max(values.values())
    assert 2 <= made.notes["teachers"] <= 3, "no trial that was trained longer makes the mean better"
    assert made_by(ctx, replace(DISTILL, ensemble=1)).notes["teachers"] == 1


# ── pruning ──────────────────────────────────────────────────────────────────────────────────────────────────────────

PRUNE = Prune(to=0.5, steps=2, recovery_epochs=4, importance="l2", round_to=1)
PRUNE_ROWS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "to": (0.7, ("target", "after", "edits")),
    "by": ("macs", ("by", "before")),
    "importance": ("random", ("edits",)),
    "global_ranking": (True, ("edits",)),
    "steps": (1, ("steps",)),
    "recovery_epochs": (2, ("curve", "weights")),
    "teacher": (False, ("weights",)),
    "temperature": (9.0, ("weights",)),
    "weight": (0.9, ("weights",)),
    "lr_scale": (1.0, ("weights",)),
    "round_to": (8, ("after", "edits")),
    "max_drop": (0.9, ("kept_step",)),
}


@pytest.mark.parametrize("field", [name for name in PRUNE_ROWS if name != "max_drop"])
def test_each_field_of_prune_changes_what_it_makes(ctx: Context, field: str) -> None:
    value, changed = PRUNE_ROWS[field]
    before, after = (seen(made_by(ctx, stage)) for stage in (PRUNE, replace(PRUNE, **{field: value})))
    assert all(before[name] != after[name] for name in changed)


def test_each_field_of_the_stages_has_a_row() -> None:
    for stage, rows in (
        (Distill, DISTILL_ROWS),
        (Prune, {**PRUNE_ROWS, "max_rise": 0}),
        (Quantize, dict.fromkeys(["methods", "max_drop", "max_rise", "calibration_rows"])),
        (Export, {"rows": 0}),
        (Promote, {}),
        (StageBudget, {"seconds_per_epoch": 0}),
    ):
        assert set(rows) == {f.name for f in fields(stage)}, stage  # type: ignore[arg-type]


def test_the_last_step_within_the_tolerance_is_kept(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of a hundred examples: the parent is right on all; the steps on 97 and on 90 of them."""
    monkeypatch.setattr(Prune, "_prove", lambda *given: None)
    parent, first, second = np.ones(100), np.r_[np.zeros(3), np.ones(97)], np.r_[np.zeros(10), np.ones(90)]

    def kept(stage: Prune, goal: Goal, scores: tuple[np.ndarray, ...]) -> int:
        told = replace(ctx)
        told.task = type("Told", (), {"goal": goal})()
        return stage._keep(list(scores), parent, told)

    right = Goal("accuracy", "maximize")
    assert kept(PRUNE, right, (first, second)) == 1, "what was asked is delivered"
    assert kept(replace(PRUNE, max_drop=0.05), right, (first, second)) == 0
    assert kept(replace(PRUNE, max_drop=0.15), right, (first, second)) == 1
    with pytest.raises(Inapplicable, match=r"as its parent within 0\.001 on val: accuracy 0\.97 after .*, 1 before"):
        kept(replace(PRUNE, max_drop=0.001), right, (first, second))
    error = Goal("mse", "minimize")
    rising = (np.full(100, 1.05), np.full(100, 1.2))
    assert kept(replace(PRUNE, max_drop=0.0, max_rise=0.1), error, rising) == 0
    assert kept(replace(PRUNE, max_drop=0.0, max_rise=0.3), error, rising) == 1
    with pytest.raises(Inapplicable):
        kept(replace(PRUNE, max_drop=0.9, max_rise=0.01), error, rising)


@pytest.mark.parametrize(("steps", "epochs", "expected"), [
    (3, 12, [3, 3, 6]), (2, 5, [2, 3]), (1, 4, [4]), (3, 1, [0, 0, 1]), (2, 0, [0, 0]),
])  # fmt: skip
def test_half_of_the_recovery_follows_the_last_step(
    ctx: Context, monkeypatch: pytest.MonkeyPatch, steps: int, epochs: int, expected: list[int]
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(Unsaved, "recover", lambda self, net, parent, **given: asked.append(given) or [])
    stage, parent = replace(PRUNE, steps=steps, recovery_epochs=epochs), ctx.run.load("trial-0")
    for step in range(steps):
        stage._recover(nn.Linear(1, 1), parent, ctx, step, nn.Linear(1, 1))
    assert [row["epochs"] for row in asked] == [e for e in expected if e]
    assert [row["seed"] for row in asked] == [k for k, e in enumerate(expected) if e]
    # each has its share of the time that is left, so that the last one may take all of it
    left = [sum(expected[k:]) for k in range(steps)]
    shares = [e / rest for e, rest in zip(expected, left, strict=True) if e]
    assert [row["share"] for row in asked] == pytest.approx(shares)


def test_a_teacher_costs_its_forward_pass_in_what_pruning_plans() -> None:
    assert replace(PRUNE, recovery_epochs=10).planned_epochs == pytest.approx(13.0)
    assert replace(PRUNE, recovery_epochs=10, teacher=False).planned_epochs == 10.0


# ── int8 ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def asked(ctx: Context, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What Quantize asks of the parts that write, measure and choose, in whose place are ones that only note it."""
    noted: dict[str, Any] = {"static": 0}
    file = tmp_path / "model.onnx"
    file.write_bytes(b"a file")

    def static(source: Path, target: Path, arrays: Any) -> None:
        noted["static"] = sum(len(batch["features"]) for batch in arrays)
        shutil.copy(source, target)

    def measured(fp32: Path, paths: dict[str, Path], example: Any, ctx: Context) -> Any:
        noted["methods"] = tuple(paths)
        return "fp32", list(paths)

    def choose(candidates: Any, reference: Any, tolerance: Tolerance, limits: Any) -> Any:
        noted["tolerance"] = tolerance
        raise Inapplicable("noted")

    monkeypatch.setattr(int8, "static", static)
    monkeypatch.setattr(int8, "dynamic", shutil.copy)
    monkeypatch.setattr(onnx_io, "weight_only", shutil.copy)
    monkeypatch.setattr(quantize, "measured", measured)
    monkeypatch.setattr(quantize, "choose", choose)
    monkeypatch.setattr(Unsaved, "model_path", lambda self, artifact: file)
    yield noted


@pytest.mark.parametrize(
    ("field", "value", "read"),
    [
        ("methods", ("weight-only", "static"), lambda noted: noted["methods"]),
        ("max_drop", 0.125, lambda noted: noted["tolerance"].max_drop),
        ("max_rise", 0.125, lambda noted: noted["tolerance"].max_rise),
        ("calibration_rows", 9, lambda noted: noted["static"]),
    ],
)
def test_each_field_of_quantize_reaches_its_part(
    ctx: Context, asked: dict[str, Any], field: str, value: Any, read: Callable[[dict[str, Any]], Any]
) -> None:
    with pytest.raises(Inapplicable, match="noted"):
        Quantize()(ctx.run.load("trial-0"), ctx)
    assert read(asked) != value
    with pytest.raises(Inapplicable, match="noted"):
        Quantize(**{field: value})(ctx.run.load("trial-0"), ctx)
    assert read(asked) == value
    assert asked["tolerance"].goal == ctx.task.goal


# ── the bundle, and the time ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("rows", [2, 5])
def test_the_bundle_has_as_many_golden_rows_as_asked(ctx: Context, tmp_path: Path, rows: int) -> None:
    plain = Context(Run.create(tmp_path, "run", {}), ctx.task, lambda name: SPACE, echo=lambda text: None)
    (_, made) = apply((Promote(), Export(rows=rows)), put_trial(plain, 0, (8,), 1), plain)
    with np.load(plain.run.bundle / "golden.npz") as golden:
        assert {len(golden[name]) for name in golden.files} == {rows}
        assert set(golden.files) == {"input.features", "output.probabilities"}
    assert made.stage == "Export"


def test_the_pace_shares_the_time_out_by_the_epochs_that_are_planned() -> None:
    stages = (Promote(), Distill(epochs=10, ensemble=1), Prune(recovery_epochs=10, teacher=False))
    slow, quick = StageBudget(2.0), StageBudget(0.0)
    scale, seconds = slow.plan(stages, 30.0 + 0.5 * 2.0 * 33.0)  # three times the fixed costs, half of the epochs
    assert scale == pytest.approx(0.5) and seconds == pytest.approx([10.0, 10.0 + 23.0, 10.0 + 10.0])
    assert slow.plan(stages, 1e9)[0] == 3.0 and slow.plan(stages, float("inf"))[0] == 1.0
    assert slow.plan(stages, 20.0)[0] == 0.0
    assert quick.plan(stages, 100.0) == (1.0, [10.0, 10.0, 10.0])
