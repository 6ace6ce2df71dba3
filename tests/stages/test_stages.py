"""What holds for every stage, whichever it is, on one line of small stages on iris.

Each stage is proved in its own file as well; here are the promises that they share.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from stage_line import LINE, SPACE, files, iris, timed, trial, whole_line
from torch import nn

from searchkit.context import Context
from searchkit.core.artifact import Artifact
from searchkit.core.serialization import freeze
from searchkit.core.stage import Stage
from searchkit.core.task import Task
from searchkit.core.training import Teacher
from searchkit.evaluation import evidence
from searchkit.evaluation.records import stored
from searchkit.onnx import measure
from searchkit.stages.distill import Distill, Ensemble
from searchkit.stages.pipeline import apply
from searchkit.stages.prune import Prune
from searchkit.stages.quantize import Quantize
from searchkit.tasks import registry


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    return whole_line(tmp_path_factory.mktemp("clean"), iris())


# ── every stage ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_stage_writes_a_child_of_the_one_before(clean: SimpleNamespace) -> None:
    parents = ["trial-0", *(a.id for a in clean.artifacts)]
    assert [a.stage for a in clean.artifacts] == [type(stage).__name__ for stage in LINE]
    assert [a.parent for a in clean.artifacts] == parents[:-1]
    assert len(set(parents)) == len(parents)
    for artifact, stage in zip(clean.artifacts, LINE, strict=True):
        assert clean.ctx.run.load(artifact.id) == artifact
        assert {key: artifact.made_by[key] for key in freeze(stage)} == freeze(stage)
        assert clean.ctx.task.goal.metric in artifact.metrics
        assert artifact.metrics["size_bytes"] == clean.ctx.model_path(artifact).stat().st_size


def test_a_line_done_again_does_nothing(clean: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(clean.ctx.run.path)

    def refuse(self: Stage, artifact: Artifact, ctx: Context) -> Artifact:
        raise AssertionError(f"{type(self).__name__} is called again")

    for stage in LINE:
        monkeypatch.setattr(type(stage), "__call__", refuse)
    again = apply(LINE, clean.ctx.run.load("trial-0"), clean.ctx)
    assert again == clean.artifacts
    assert files(clean.ctx.run.path) == before


def test_the_same_line_elsewhere_has_the_same_ids_weights_and_scores(clean: SimpleNamespace, tmp_path: Path) -> None:
    other = whole_line(tmp_path, iris())
    assert [a.id for a in other.artifacts] == [a.id for a in clean.artifacts]
    for mine, theirs in zip(other.artifacts, clean.artifacts, strict=True):
        assert np.array_equal(other.ctx.run.scores(mine), clean.ctx.run.scores(theirs))
        if "weights" in mine.files:
            a, b = other.ctx.run.weights(mine), clean.ctx.run.weights(theirs)
            assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
        assert mine.edits == theirs.edits


def test_an_id_depends_on_the_parent_the_settings_and_the_seed(clean: SimpleNamespace) -> None:
    ctx, parent = clean.ctx, clean.artifacts[0]
    known = ctx.child(parent, Prune(to=0.5)).id
    assert known == ctx.child(parent, Prune(to=0.5)).id
    others = [
        ctx.child(parent, Prune(to=0.4)).id,
        ctx.child(parent, Quantize()).id,
        ctx.child(clean.artifacts[1], Prune(to=0.5)).id,
        replace(ctx, seed=1).child(parent, Prune(to=0.5)).id,
    ]
    assert len({known, *others}) == 5


def test_parents_are_untouched(clean: SimpleNamespace) -> None:
    """Every file of every ancestor has the size and the time that it had before each stage."""
    snapshots = [*clean.snapshots, files(clean.ctx.run.path / "artifacts")]
    for before, after in zip(snapshots, snapshots[1:], strict=False):
        assert before.items() <= after.items() and len(after) > len(before)


# ── Distill ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_distill_keeps_the_best_on_val_and_records_its_control(clean: SimpleNamespace) -> None:
    made = clean.artifacts[1]
    values = made.notes["candidates"]
    assert set(values) == {"before distillation", "control", "distilled"}
    assert values[made.notes["kept"]] == max(values.values())
    assert made.metrics["accuracy"] == pytest.approx(max(values.values()))
    assert 1 <= made.notes["teachers"] <= 2
    log = clean.ctx.run.log(made)
    assert [row["candidate"] for row in log] == ["control"] * 2 + ["distilled"] * 2
    assert [row["loss"] for row in log[:2]] != [row["loss"] for row in log[2:]]


@pytest.mark.parametrize(("epochs", "teachers"), [(1, 1), (40, 2)], ids=["a poor one", "a good one"])
def test_the_teacher_takes_in_only_who_makes_it_better_on_val(ctx: Context, epochs: int, teachers: int) -> None:
    """Beside a parent of 3 epochs: by the value of the mean, worked out here again."""
    parent, other = trial(ctx, 0, epochs=3), trial(ctx, 1, epochs=epochs)
    made = apply((Distill(epochs=1, ensemble=3),), parent, ctx)[-1]
    assert made.notes["teachers"] == teachers
    alone, both = (
        ctx.task.goal.value(ctx.scores(Ensemble([ctx.network(member) for member in members])))
        for members in ((parent,), (parent, other))
    )
    assert (both > alone) == (teachers == 2)


def test_distill_that_does_not_help_leaves_the_student_as_it_was(ctx: Context) -> None:
    """Steps of no use: a rate so high that both candidates are ruined."""
    start = trial(ctx, 0, epochs=12)
    made = apply((Distill(epochs=1, lr_scale=1e4, ensemble=1),), start, ctx)[-1]
    assert made.notes["kept"] == "before distillation"
    ours, theirs = ctx.run.weights(made), ctx.run.weights(start)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_distill_into_a_smaller_trial(ctx: Context) -> None:
    start, small = trial(ctx, 0), trial(ctx, 1, SPACE.arch((8,), "tanh"))
    made = apply((Distill(epochs=1, student=1),), start, ctx)[-1]
    assert (made.arch, made.parent) == (small.arch, start.id)
    assert made.metrics["params"] == small.metrics["params"]
    assert ctx.network(made)[0].out_features == 8


def test_distill_brings_the_student_nearer_to_its_teacher(ctx: Context) -> None:
    """With the teacher alone in the loss, more than its control is."""
    start, small = trial(ctx, 0, epochs=12), trial(ctx, 1, SPACE.arch((16,), "tanh"))
    teacher = ctx.network(start)
    batch = next(iter(ctx.task.batches("val", ctx.training(start), seed=0, device="cpu")))

    def distance(net: nn.Module) -> float:
        with torch.no_grad():
            return float(ctx.task.distillation_loss(net.eval(), teacher, batch, temperature=2.0))

    guided, alone = ctx.network(small), ctx.network(small)
    ctx.recover(guided, small, epochs=20, teacher=Teacher(teacher, weight=1.0), lr_scale=1.0)
    ctx.recover(alone, small, epochs=20, lr_scale=1.0)
    assert distance(guided) < distance(alone)
    assert distance(guided) < 0.5 * distance(ctx.network(small))


# ── test is sacred ───────────────────────────────────────────────────────────────────────────────────────────────────


def poisoned(task: Task) -> Task:
    """The same data with NaN for every test row, and one class for all of them."""
    config, arrays = task.pack()
    spoilt = {name: values.copy() for name, values in arrays.items()}
    test = arrays["rows.test"]
    (name,) = (n for n in arrays if n.startswith("input."))
    spoilt[name][test] = np.nan
    spoilt["target"][test] = 0
    return registry.unpack(config, spoilt)


def test_stages_do_not_read_test(clean: SimpleNamespace, tmp_path: Path) -> None:
    task = poisoned(iris())
    assert all(np.isnan(rows).all() for rows in task.raw("test").values())
    other = whole_line(tmp_path, task)
    assert [a.id for a in other.artifacts] == [a.id for a in clean.artifacts]
    for mine, theirs in zip(other.artifacts, clean.artifacts, strict=True):
        assert mine.metrics == theirs.metrics
        if "weights" in mine.files:
            a, b = other.ctx.run.weights(mine), clean.ctx.run.weights(theirs)
            assert all(torch.equal(a[k], b[k]) for k in a)


class Watched:
    """A task that counts the splits that are evaluated; everything else is the task's own."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.read: list[str] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self.task, name)

    def evaluate(self, predict, split):  # type: ignore[no-untyped-def]
        self.read.append(split)
        return self.task.evaluate(predict, split)


def test_evidence_reads_test_once_for_each_file(clean: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the files of a real line; the times are counted, not measured."""
    monkeypatch.setattr(measure, "latency", timed)
    watched = Watched(clean.ctx.task)
    ctx = replace(clean.ctx, task=watched)
    found = evidence.collect(ctx, clean.artifacts, clean.artifacts[0])
    assert watched.read == ["test"] * len(clean.artifacts)
    assert [row.stage for row in found.models] == [a.stage for a in clean.artifacts]
    assert found.chosen == clean.artifacts[-1].id and found.reference == clean.artifacts[0].id
    assert found.n == clean.ctx.task.n_examples("test")
    for row in found.models:
        assert row.metric.low <= row.metric.value <= row.metric.high
        assert row.size_bytes == clean.ctx.model_path(clean.ctx.run.load(row.id)).stat().st_size
    own = found.models[0]
    assert own.difference.value == 0.0 and own.agreement.value == 1.0
    assert found.models[3].size_bytes < found.models[2].size_bytes
    assert np.array(found.errors["confusion"]).sum() == found.n
    again = evidence.collect(ctx, clean.artifacts, clean.artifacts[0])
    assert again == found == stored(ctx.run)
    shorter = evidence.collect(ctx, clean.artifacts[:3], clean.artifacts[0])
    assert len(shorter.models) == 3
    assert len(watched.read) == len(clean.artifacts), "a file is scored once for all time"
