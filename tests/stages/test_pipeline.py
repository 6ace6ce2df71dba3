"""What the pipeline sees to: what is done once, done again, left out or refused, and how stages share the time."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace

import pytest
import torch
from interrupt_driver import dropped_ctrl_c
from stage_line import SPACE, Counted, files, keep, trial
from torch import nn

from searchkit.context import Context
from searchkit.core.artifact import Artifact
from searchkit.core.deadline import Deadline
from searchkit.core.errors import GateFailed, Inapplicable
from searchkit.core.interrupt import Interrupted, interruptible
from searchkit.core.stage import Stage
from searchkit.stages.export import Export
from searchkit.stages.pipeline import SKIPPED, StageBudget, apply
from searchkit.stages.promote import Promote
from searchkit.stages.prune import Prune


@dataclass(frozen=True)
class Refusing:
    """Has nothing to act on."""

    def __call__(self, artifact: Artifact, ctx: Context) -> Artifact:
        raise Inapplicable("there is nothing to do")


@dataclass(frozen=True)
class Forgetful:
    """Gives an artifact that is not on disk."""

    def __call__(self, artifact: Artifact, ctx: Context) -> Artifact:
        return ctx.child(artifact, self)


@dataclass(frozen=True)
class Misnaming:
    """Writes under an id of its own."""

    def __call__(self, artifact: Artifact, ctx: Context) -> Artifact:
        return keep(replace(ctx.child(artifact, self), id="another"), artifact, ctx)


@dataclass(frozen=True)
class Meddling:
    """Writes to its parent."""

    def __call__(self, artifact: Artifact, ctx: Context) -> Artifact:
        ctx.run.save(replace(artifact, notes={"touched": True}), weights=ctx.run.weights(artifact))
        return keep(ctx.child(artifact, self), artifact, ctx)


@dataclass(frozen=True)
class Planning:
    """Would like to train."""

    planned_epochs: float = 100.0

    def __call__(self, artifact: Artifact, ctx: Context) -> Artifact:
        ctx.run.append_line("calls.jsonl", {"epoch_scale": ctx.epoch_scale, "seconds": ctx.deadline.left()})
        return keep(ctx.child(artifact, self), artifact, ctx)


def test_a_shared_prefix_is_done_once(ctx: Context) -> None:
    start = trial(ctx, 0)
    first = apply((Counted("a"), Counted("b")), start, ctx)
    second = apply((Counted("a"), Counted("c")), start, ctx)
    assert [row["name"] for row in ctx.run.lines("calls.jsonl")] == ["a", "b", "c"]
    assert first[0] == second[0]
    assert first[1].id != second[1].id


def test_a_ctrl_c_that_python_dropped_is_heard_before_the_next_stage(ctx: Context) -> None:
    start = trial(ctx, 0)
    told = replace(ctx, echo=lambda text: dropped_ctrl_c() if "started" in text else None)
    with pytest.raises(Interrupted), interruptible("It goes on."):
        apply((Counted("a"), Counted("b")), start, told)
    apply((Counted("a"), Counted("b")), start, ctx)
    assert [row["name"] for row in ctx.run.lines("calls.jsonl")] == ["a", "b"]


def test_what_was_killed_before_its_end_is_done_again(ctx: Context) -> None:
    start = trial(ctx, 0)
    (made,) = apply((Counted(),), start, ctx)
    (ctx.run.artifact_dir(made.id) / "artifact.json").unlink()
    (again,) = apply((Counted(),), start, ctx)
    assert again == made
    assert len(ctx.run.lines("calls.jsonl")) == 2


def test_a_stage_that_does_not_apply_is_left_out_and_recorded(ctx: Context) -> None:
    start = trial(ctx, 0)
    line = apply((Counted("a"), Refusing(), Counted("b")), start, ctx)
    assert [a.made_by.get("name") for a in line] == ["a", "b"]
    assert line[1].parent == line[0].id
    assert ctx.run.read_json(SKIPPED) == {
        ctx.child(line[0], Refusing()).id: {
            "stage": "Refusing",
            "parent": line[0].id,
            "reason": "there is nothing to do",
        }
    }


def test_a_bundle_of_another_line_or_none_is_written_again(ctx: Context) -> None:
    """Also where a kill came between the bundle and its artifact."""
    start = trial(ctx, 0)
    (first,) = apply((Promote(),), start, ctx)
    for harm in ("none", "other", "killed"):
        (made,) = apply((Export(),), first, ctx)
        if harm == "none":
            shutil.rmtree(ctx.run.bundle)
        elif harm == "other":
            apply((Export(rows=3),), first, ctx)
        else:
            (ctx.run.artifact_dir(made.id) / "artifact.json").unlink()
        assert apply((Export(),), first, ctx) == [made]
        assert json.loads((ctx.run.bundle / "manifest.json").read_text())["artifact"] == made.id
        before = files(ctx.run.path)
        assert apply((Export(),), first, ctx) == [made] and files(ctx.run.path) == before


def test_a_perceptron_has_nothing_to_prune(ctx: Context) -> None:
    start = trial(ctx, 0, SPACE.arch((), "relu"))
    line = apply((Promote(), Prune(to=0.5, recovery_epochs=0)), start, ctx)
    assert [a.stage for a in line] == ["Promote"]
    assert "no inner units" in str(ctx.run.read_json(SKIPPED))


@pytest.mark.parametrize(
    ("stage", "says"),
    [
        (Forgetful(), "Forgetful did not write the artifact"),
        (Misnaming(), "Misnaming did not write the artifact"),
        (Meddling(), "Meddling changed its parent trial-0"),
    ],
)
def test_a_broken_promise_is_a_failed_gate(stage: Stage, says: str, ctx: Context) -> None:
    with pytest.raises(GateFailed, match=says):
        apply((stage,), trial(ctx, 0), ctx)


def test_an_export_that_disagrees_is_a_failed_gate(ctx: Context) -> None:
    class Two(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.net(x)
            return -out if torch.compiler.is_exporting() else out

    lying = replace(SPACE, build=lambda arch, spec: Two(SPACE.build(arch, spec)))
    there = replace(ctx, spaces=lambda name: lying)
    plain = trial(ctx, 0)
    weights = {f"net.{name}": value for name, value in ctx.run.weights(plain).items()}
    start = ctx.run.save(replace(plain, id="lying"), weights=weights)
    with pytest.raises(GateFailed, match="The exported file disagrees with the network"):
        apply((Promote(),), start, there)
    assert not ctx.run.has(ctx.child(start, Promote()).id)


def test_time_is_shared_by_what_each_stage_would_train(ctx: Context) -> None:
    """A hundred epochs of a second each do not fit into 70 s: the stages are told so, and the later has its share."""
    hurried = replace(ctx, deadline=Deadline.after(70.0))
    apply((Planning(100.0), Planning(99.0)), trial(ctx, 0), hurried, pace=StageBudget(seconds_per_epoch=1.0))
    first, second = ctx.run.lines("calls.jsonl")
    assert first["epoch_scale"] == pytest.approx(50 / 199, abs=0.1)
    assert 10 < first["seconds"] < 40
    assert second["seconds"] > first["seconds"]  # what the first left over
