"""Details of the stages that a whole line does not show: schedules, rankings and notes, by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from short_line import line  # noqa: F401  (a fixture)
from stage_line import context, iris, timed, trial
from torch import nn

from searchkit.context import Context
from searchkit.core.artifact import Artifact
from searchkit.core.serialization import derive_seed
from searchkit.evaluation import evidence
from searchkit.nn.surgery import prunable_groups
from searchkit.onnx import io as onnx_io
from searchkit.onnx import measure
from searchkit.onnx.predictor import OnnxPredictor
from searchkit.stages import quantize
from searchkit.stages.distill import Distill
from searchkit.stages.importance import BLOCK, Ranking, grain, importance, widths
from searchkit.stages.promote import Promote
from searchkit.stages.prune import Prune
from searchkit.stages.quantize import METHODS, Quantize


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory) -> Context:
    return context(tmp_path_factory.mktemp("runs"), iris())


@pytest.fixture(scope="module")
def promoted(ctx: Context) -> Artifact:
    return Promote()(trial(ctx, 0), ctx)


def test_the_defaults_are_those_of_the_documentation() -> None:
    assert Prune() == Prune(
        to=0.5, by="params", importance="l2", global_ranking=False, steps=3, recovery_epochs=12, teacher=True,
        temperature=2.0, weight=0.5, lr_scale=0.5, round_to=8, max_drop=None, max_rise=0.02,
    )  # fmt: skip
    assert Quantize() == Quantize(methods=METHODS, max_drop=0.005, max_rise=0.02, calibration_rows=512)
    assert Distill() == Distill(epochs=8, temperature=2.0, weight=0.5, lr_scale=0.3, ensemble=3, student=None)


# ── pruning ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("steps", "epochs", "spent", "shares"),
    [
        (1, 5, [5], [1.0]),
        (2, 7, [3, 4], [3 / 7, 1.0]),
        (3, 12, [3, 3, 6], [3 / 12, 3 / 9, 1.0]),
        (3, 11, [2, 2, 6], [2 / 10, 2 / 8, 1.0]),  # a rest of one epoch is nobody's
        (3, 1, [1], [1.0]),
        (2, 0, [], []),
    ],
)
def test_the_last_step_recovers_for_half_of_the_epochs(
    steps: int, epochs: int, spent: list[int], shares: list[float]
) -> None:
    """share: of the stage's time that is left when the step begins."""
    calls: list[dict[str, Any]] = []
    fake: Any = SimpleNamespace(recover=lambda net, artifact, **given: calls.append(given) or [])
    stage, net, artifact = Prune(steps=steps, recovery_epochs=epochs, teacher=False), nn.Linear(1, 1), None
    for step in range(steps):
        stage._recover(net, artifact, fake, step, net)  # type: ignore[arg-type]
    assert [call["epochs"] for call in calls] == spent and all(isinstance(e, int) for e in spent)
    assert [call["share"] for call in calls] == pytest.approx(shares)
    assert all(isinstance(call["epochs"], int) and call["lr_scale"] == 0.5 for call in calls)


@pytest.mark.parametrize("kept", [0, 1])
def test_the_step_that_is_kept_is_numbered_from_one(
    ctx: Context, promoted: Artifact, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    monkeypatch.setattr(Prune, "_keep", lambda self, *given: kept)
    found = Prune(steps=2, to=0.6 + kept / 100, recovery_epochs=0, round_to=1)(promoted, ctx)
    assert found.notes["kept_step"] == kept + 1
    assert found.metrics["params"] == found.notes["steps"][kept]["params"]


def test_taylors_gradients_are_of_sixteen_batches_of_the_tasks_loss(
    ctx: Context, promoted: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = replace(promoted, training={**promoted.training, "batch_size": 4})
    net = ctx.network(promoted)
    found = Prune()._gradients(small, ctx)(net)
    seed = derive_seed(ctx.seed, "taylor")
    expected = ctx.network(promoted).train()
    plain = replace(ctx.training(small), augment=(), mixup=0.0, label_smoothing=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for _, batch in zip(range(16), ctx.task.batches("train", plain, seed=seed, device="cpu"), strict=False):
            ctx.task.loss(expected, batch).backward()  # type: ignore[no-untyped-call]
    for (name, ours), theirs in zip(found.named_parameters(), expected.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None and bool(theirs.grad.any()), name
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert all(p.grad is None for p in net.parameters()), "the network itself is left alone"


class Normed(nn.Module):
    """Two Linear layers with a BatchNorm between them, or none."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6), nn.Linear(6, 2)
        self.norm = nn.BatchNorm1d(6) if norm else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(torch.relu(self.norm(self.first(x))))
        return out


@pytest.mark.parametrize("norm", [True, False])
def test_the_scale_of_a_batch_norm_is_what_its_units_are_worth(norm: bool) -> None:
    """By hand; a group without a BatchNorm takes the length of its weights."""
    torch.manual_seed(0)
    net = Normed(norm).eval()
    if norm:
        with torch.no_grad():
            net.norm.weight.copy_(torch.tensor([-5.0, 1.0, 2.0, 3.0, 0.5, 0.5]))
    ((group, *_), _) = prunable_groups(net, (torch.randn(3, 4),))
    by_scale = importance(net, group, Ranking("bn"))
    rows, columns = net.first.weight.detach().norm(dim=1), net.last.weight.detach().norm(dim=0)
    by_length = ((rows / rows.mean() + columns / columns.mean()) / 2).numpy()
    expected = np.array([5.0, 1.0, 2.0, 3.0, 0.5, 0.5]) / 2.0 if norm else by_length
    np.testing.assert_allclose(by_scale, expected, rtol=1e-5)
    np.testing.assert_allclose(importance(net, group, Ranking("l2")), by_length, rtol=1e-5)


def test_widths_of_groups_that_are_ranked_together_by_hand() -> None:
    scores = [np.array([9.0, 8.0, 7.0, 1.0]), np.array([6.0, 0.5, 0.4, 0.3, 0.2, 0.1])]
    together = Ranking("l2", global_ranking=True, round_to=1)
    assert widths(scores, 0.4, together, [1, 1]) == [3, 1]  # the four that are worth most
    assert widths(scores, 0.7, together, [1, 1]) == [4, 3]
    assert widths(scores, 1.0, together, [1, 1]) == [4, 6]
    assert widths(scores, 0.0, together, [1, 1]) == [1, 1], "a tenth stays, and one unit at least"
    apart = Ranking("l2", global_ranking=False, round_to=1)
    assert widths(scores, 0.5, apart, [1, 1]) == [2, 3]


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_only_depthwise_and_grouped_convolutions_of_pictures_are_cut_in_blocks(groups: int) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=groups), nn.Conv2d(8, 2, 1)).eval()
    found, _ = prunable_groups(net, (torch.randn(2, 3, 8, 8),))
    assert {grain(net, group) for group in found} == {BLOCK if groups > 1 else 1}


# ── distillation and quantization ────────────────────────────────────────────────────────────────────────────────────


def test_the_control_takes_its_share_of_the_time_and_the_student_what_is_left(
    ctx: Context, promoted: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[bool, float]] = []

    def recover(self: Context, net: Any, artifact: Any, *, teacher: Any, share: float, **given: Any) -> list[Any]:
        calls.append((teacher is not None, share))
        return []

    monkeypatch.setattr(Context, "recover", recover)
    stage = Distill(epochs=4, ensemble=2)
    stage(promoted, ctx)
    assert calls == [(False, 4 / stage.planned_epochs), (True, 1.0)] and math.isclose(calls[0][1], 1 / 2.6)


def test_files_are_timed_on_one_example_and_scored_in_pairs(
    line: SimpleNamespace,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """`timed` refuses more than one. The error is that of the difference to fp32, not of the file alone."""
    monkeypatch.setattr(measure, "latency", timed)
    ctx, task = line.ctx, line.ctx.task
    found = Quantize(methods=("dynamic",), max_drop=1.0)(line.fp32, ctx)
    assert found.notes["fp32"]["error"] == 0.0 and found.notes["fp32"]["agreement"] == 1.0
    torch.manual_seed(5)
    net, other = ctx.network(line.fp32), tmp_path / "other.onnx"
    with torch.no_grad():
        net[-1].weight.add_(0.5 * torch.randn_like(net[-1].weight))
    onnx_io.export(ctx.deployed(net), task.inputs, task.answers, other, example=ctx.example())
    path = ctx.model_path(line.fp32)
    reference, (variant,) = quantize.measured(path, {"other": other}, ctx.example(1), ctx)
    ours, theirs = (task.evaluate(OnnxPredictor(file), "val") for file in (other, path))
    assert variant.error == task.goal.standard_error(ours.scores, theirs.scores) > 0.0 == reference.error
    assert variant.metric == ours.metrics[task.goal.metric] and variant.size_bytes == other.stat().st_size
    assert variant.agreement == np.mean(ours.decisions == theirs.decisions) < 1.0


class InPairs:
    """A task whose examples come in pairs of one group, or in none."""

    def __init__(self, task: Any, paired: bool) -> None:
        self.task, self.paired = task, paired

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def groups(self, split: Any) -> np.ndarray | None:
        return np.arange(self.task.n_examples(split)) // 2 if self.paired else None


@pytest.mark.parametrize("paired", [True, False])
def test_evidence_counts_the_groups_that_its_intervals_resample(
    ctx: Context, promoted: Artifact, monkeypatch: pytest.MonkeyPatch, paired: bool
) -> None:
    monkeypatch.setattr(measure, "latency", timed)
    task: Any = InPairs(ctx.task, paired)
    found = evidence._measured(replace(ctx, task=task), [promoted], promoted, {promoted.id: "hash"})
    assert found.groups == (math.ceil(found.n / 2) if paired else None)
    assert found.models[0].metric.method == ("bca of groups" if paired else "wilson")
