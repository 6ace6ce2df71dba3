"""Prune on every kind of structure: it reaches what was asked, runs and trains after, and rebuilds from its edits."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from prunable_nets import NETS, Recurrences, example
from torch import Tensor, nn

from searchkit.context import Context
from searchkit.core.artifact import Artifact
from searchkit.core.data_spec import TensorSpec
from searchkit.core.errors import BadInput, GateFailed, Inapplicable
from searchkit.core.serialization import freeze
from searchkit.core.space_file import load_space
from searchkit.core.training import Batch, FitPlan, Training, TrainState
from searchkit.nn.convolution import MixedDepthwise
from searchkit.nn.surgery import apply_edits_, drops, mask_edits_, prunable_groups
from searchkit.onnx import io as onnx_io
from searchkit.onnx.measure import macs, params
from searchkit.onnx.predictor import Deployed
from searchkit.run import Run
from searchkit.stages.importance import IMPORTANCES, Ranking, cuts, importance, least, prune_, widths
from searchkit.stages.prune import Prune
from searchkit.tasks import registry


def with_gradients(inputs: tuple[Tensor, ...]):
    def probe(net: nn.Module) -> nn.Module:
        net.zero_grad()
        net(*inputs).square().sum().backward()
        return net

    return probe


def test_the_gradients_draw_no_batch_that_they_do_not_use() -> None:
    """A batch is made when it is asked for."""
    drawn = []

    def batches(*args: object, **kwargs: object) -> Iterator[Batch]:
        for number in range(40):
            drawn.append(number)
            yield Batch((torch.full((1, 2), float(number)),), torch.zeros(1))

    task = SimpleNamespace(batches=batches, loss=lambda net, batch: net(*batch.inputs).sum())
    ctx: Any = SimpleNamespace(task=task, seed=0, training=lambda artifact: Training())
    artifact: Any = None
    found = Prune()._gradients(artifact, ctx)(nn.Linear(2, 1))
    assert drawn == list(range(16))
    assert found.bias.grad.item() == 16 and found.weight.grad.tolist() == [[120.0, 120.0]]


@pytest.mark.parametrize("name", NETS)
def test_half_of_the_parameters_of_every_structure(name: str) -> None:
    net, inputs = example(name)
    before, shape = params(net), net(*inputs).shape
    edits = prune_(net, inputs, cost=params, target=before / 2, ranking=Ranking(round_to=1))
    assert 0.35 * before < params(net) <= before / 2

    net.train()
    loss = net(*inputs).square().mean() + (net.aux_loss() if name == "vae" else 0.0)
    loss.backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in net.parameters() if p.numel())
    torch.optim.AdamW(net.parameters()).step()

    rebuilt, _ = example(name, seed=1)
    apply_edits_(rebuilt, json.loads(json.dumps(edits)))
    rebuilt.load_state_dict(net.state_dict())
    with torch.no_grad():
        out = net.eval()(*inputs)
        assert out.shape == shape and torch.equal(out, rebuilt(*inputs))


@pytest.mark.parametrize("kind, both", [("lstm", False), ("gru", False), ("gru", True), ("peephole", False)])
def test_a_recurrent_network_at_half_its_parameters_equals_the_masked_one_and_its_file_shrinks(
    kind: str, both: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    net = Recurrences(kind, both=both, norm=False).eval()
    x, lengths = torch.randn(5, 11, 4), torch.tensor([11, 3, 7, 1, 11])
    masked, before = Recurrences(kind, both=both, norm=False).eval(), params(net)
    masked.load_state_dict(net.state_dict())
    size = file_bytes(net, tmp_path)
    edits = prune_(net, (x, lengths), cost=params, target=before / 2, ranking=Ranking(round_to=1))
    mask_edits_(masked, edits)
    assert params(net) <= before / 2
    with torch.no_grad():
        assert (net(x, lengths) - masked(x, lengths)).abs().max() <= 1e-6
        assert net(x, lengths).abs().max() > 1e-3
    assert file_bytes(net, tmp_path) <= size - 4 * 0.45 * before  # 4 bytes a parameter; the graph stays


def file_bytes(net: nn.Module, folder: Path) -> int:
    """Of the exported file."""
    inputs = (TensorSpec("x", (11, 4)), TensorSpec("lengths", (), "int64"))
    rows = {"x": np.zeros((2, 11, 4), np.float32), "lengths": np.array([11, 3])}
    whole = Deployed(AsGiven(), net, nn.Identity()).eval()
    return onnx_io.export(whole, inputs, (TensorSpec("logits", (5,)),), folder / "model.onnx", example=rows)


class AsGiven(nn.Module):
    """The preprocessor of data that need no scaling."""

    def forward(self, *raw: Tensor) -> tuple[Tensor, ...]:
        return raw


@pytest.mark.parametrize("how", IMPORTANCES)
@pytest.mark.parametrize("global_ranking", [False, True])
def test_every_importance_reaches_a_target_in_macs(how: str, global_ranking: bool) -> None:
    net, inputs = example("mbconv")
    one = tuple(x[:1] for x in inputs)
    before = macs(net, one)
    ranking = Ranking(how, global_ranking=global_ranking, round_to=1)
    prune_(net, inputs, cost=lambda n: macs(n, one), target=0.6 * before, ranking=ranking,
           gradients=with_gradients(inputs) if how == "taylor" else None)  # fmt: skip
    assert macs(net, one) <= 0.6 * before
    assert net(*inputs).shape == (3, 5)


@pytest.mark.parametrize("how", ["l1", "l2", "taylor", "bn"])
@pytest.mark.parametrize("name", ["plain", "residual", "mixed", "mlp", "simple", "transformer"])
def test_units_that_do_nothing_are_worth_least(name: str, how: str) -> None:
    net, inputs = example(name)
    groups, _ = prunable_groups(net, inputs)
    dead = {g: list(range(1, len(g), 3)) for g in groups}
    mask_edits_(net, drops(dead.items()))
    if how == "taylor":
        with_gradients(inputs)(net)
    for group in groups:
        scores = importance(net, group, Ranking(how))
        assert scores.shape == (len(group),) and np.isfinite(scores).all()
        assert (scores[dead[group]] == 0).all()
        alive = np.delete(scores, dead[group])
        assert (alive > 0).all() or (how == "taylor" and alive.max() > 0)  # a ReLU may be off for every row


def test_the_random_control_is_seeded_and_differs() -> None:
    net, inputs = example("mlp")
    group = prunable_groups(net, inputs)[0][0]
    first, again, other = (importance(net, group, Ranking("random", seed=s)) for s in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_wide_layers_are_left_at_a_multiple_of_eight_and_narrow_ones_as_they_come() -> None:
    wide, narrow, depthwise = np.linspace(0.5, 1.5, 64), np.linspace(0.5, 1.5, 20), np.linspace(0.5, 1.5, 22)
    for keep in np.linspace(0, 1, 21):
        a, b, c = widths((wide, narrow, depthwise), float(keep), Ranking(round_to=8), (1, 1, 4))
        assert a % 8 == 0 and 8 <= a <= 64 and b == max(1, round(keep * 20))
        assert c in (4, 8, 12, 16, 20, 22) and c >= keep * 22 - 0.5
    assert widths((wide, narrow, depthwise), 1.0, Ranking(global_ranking=True), (1, 1, 4)) == [64, 20, 22]
    assert widths((wide, depthwise), 0.5, Ranking(round_to=1), (1, 4)) == [32, 11]


@pytest.mark.parametrize("width, step", [(96, 4), (160, 8)])
@pytest.mark.parametrize("share", [0.7, 0.4])
def test_the_runs_of_a_mixed_convolution_keep_widths_that_run_fast(width: int, step: int, share: float) -> None:
    """Each run by itself, whichever units are the least important; the rebuilt network is the masked one."""
    torch.manual_seed(0)
    mixed = MixedDepthwise(width, kernels=(3, 5, 7, 9))
    net = nn.Sequential(nn.Conv2d(1, width, 1), mixed, nn.ReLU(), nn.Conv2d(width, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 1))
    inputs, masked = (torch.randn(2, 1, 8, 8),), copy.deepcopy(net)
    found = cuts(net, inputs, Ranking())
    assert sorted(found.grains) == [1, 4]
    edits = prune_(net, inputs, cost=params, target=share * params(net), ranking=Ranking())
    left = [n for _, n in mixed.runs()]
    assert sum(left) < width and len(set(left)) > 1 and all(n % step == 0 for n in left), left
    mask_edits_(masked, edits)
    torch.testing.assert_close(net(*inputs), masked(*inputs))


def test_a_narrow_depthwise_convolution_is_cut_in_blocks() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 20, 1), nn.Conv2d(20, 20, 3, groups=20), nn.ReLU(), nn.Conv2d(20, 19, 1), nn.ReLU()
    )
    net.extend([nn.Conv2d(19, 3, 1)])
    prune_(net, (torch.randn(2, 1, 8, 8),), cost=params, target=0.6 * params(net), ranking=Ranking())
    assert net[1].out_channels in (4, 8, 12, 16) and net[3].out_channels < 19


def test_where_runs_do_not_come_out_even_fewer_units_stay() -> None:
    scores, runs = np.array([5.0, 1, 1, 9, 9, 9, 1, 1, 1, 1]), np.array([0] * 3 + [1] * 7)

    def gone(keep: int, step: int) -> list[int]:
        return sorted(least(scores, runs, keep, lambda width: step))

    assert gone(4, 1) == [1, 2, 6, 7, 8, 9] and gone(3, 3) == [0, 1, 2, 6, 7, 8, 9]
    assert gone(6, 3) == [6, 7, 8, 9], "three of each run"
    assert gone(5, 3) == gone(3, 3), "not three and the one that is left of seven: four is no width to cut in threes"
    assert len(gone(1, 4)) == 10 - 4, "at least one block stays"


def test_rounding_does_not_cost_much_more_than_was_asked() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 3))
    inputs = (torch.randn(2, 10),)
    before = params(net)
    prune_(net, inputs, cost=params, target=before / 2, ranking=Ranking())
    hidden = [net[0].out_features, net[2].out_features, net[4].out_features]
    assert all(h % 8 == 0 for h in hidden)
    assert 0.42 * before <= params(net) <= 0.5 * before, hidden


def test_an_unreachable_target_names_the_smallest() -> None:
    net, inputs = example("mlp")
    with pytest.raises(GateFailed, match=r"cannot reach 5: the smallest that cutting this network gives is 27\. Ask"):
        prune_(net, inputs, cost=params, target=5, ranking=Ranking(round_to=1))


def test_a_network_without_inner_units_is_not_for_pruning() -> None:
    with pytest.raises(Inapplicable, match="no inner units to cut"):
        cuts(nn.Linear(4, 3), (torch.randn(2, 4),), Ranking())


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"by": "mass"}, "cannot aim at 'mass'"),
        ({"importance": "l3"}, "No importance named 'l3'"),
        ({"to": 1.0}, "shrinks nothing"),
        ({"to": 0.0}, "shrinks nothing"),
        ({"to": float("nan")}, "shrinks nothing"),
        ({"steps": 0}, "at least 1 step"),
    ],
)
def test_bad_settings_are_refused_when_made(fields: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Prune(**fields)  # type: ignore[arg-type]


# ── The stage ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Context]:
    """A trained network of two hidden layers, promoted to an artifact with its file."""
    space, said = load_space(Path(__file__).parents[1] / "families" / "tiny.py"), list[str]()
    task = registry.load({"task": "wine", "split_seed": 0})
    run = Run.create(tmp_path_factory.mktemp("runs"), "r", {"seed": 0})
    ctx = Context(run=run, task=task, spaces=lambda name: space, echo=said.append)
    arch = space.arch((48, 20), "relu")
    torch.manual_seed(0)
    net = space.build(arch, task.spec)
    training = replace(space.training.default, epochs=15)
    task.fit(net, FitPlan(training=training, seed=0, until=15), TrainState())
    draft = Artifact("a" * 12, "tiny", freeze(arch), freeze(training), (), {"stage": "Trial", "number": 0}, None)
    return ctx.save(draft, net.eval()), ctx


@pytest.mark.parametrize("how", ["l2", "taylor"])
def test_the_stage_reaches_the_target_recovers_and_stores_edits_that_rebuild_the_network(
    how: str, start: tuple[Artifact, Context]
) -> None:
    parent, ctx = start
    child = Prune(to=0.4, importance=how, steps=2, recovery_epochs=6)(parent, ctx)
    assert child.metrics["params"] <= 0.4 * parent.metrics["params"]
    assert child.metrics["size_bytes"] < 0.7 * parent.metrics["size_bytes"]
    assert child.metrics["macs"] < parent.metrics["macs"]
    assert child.metrics["accuracy"] >= parent.metrics["accuracy"] - 0.1
    assert ctx.run.load(parent.id) == parent

    loaded = ctx.run.load(child.id)
    assert loaded.edits and loaded.parent == parent.id and params(ctx.network(loaded)) == child.metrics["params"]
    steps = loaded.notes["steps"]
    assert [step["params"] for step in steps] == sorted((s["params"] for s in steps), reverse=True) and len(steps) == 2
    rows = {row["name"]: row for row in loaded.notes["layers"]}
    assert rows["0"]["before"] == [48, 13] and rows["0"]["after"][0] < 48 and rows["0"]["after"][0] % 8 == 0
    assert sum(row["params_after"] for row in rows.values()) == child.metrics["params"]
    assert {row["step"] for row in ctx.run.log(loaded)} == {1, 2}


def test_the_same_stage_twice_gives_the_same_network(start: tuple[Artifact, Context]) -> None:
    parent, ctx = start
    stage = Prune(to=0.5, importance="random", steps=1, recovery_epochs=2, teacher=False)
    first = stage(parent, ctx)
    weights, again = ctx.run.weights(first), stage(parent, ctx)
    assert first == again
    assert all(torch.equal(v, weights[k]) for k, v in ctx.run.weights(again).items())


def test_a_pruned_network_is_pruned_further(start: tuple[Artifact, Context]) -> None:
    parent, ctx = start
    stage = Prune(to=0.6, steps=1, recovery_epochs=1)
    child = stage(parent, ctx)
    grandchild = stage(child, ctx)
    assert grandchild.edits[: len(child.edits)] == child.edits and len(grandchild.edits) > len(child.edits)
    assert grandchild.metrics["params"] <= 0.36 * parent.metrics["params"]
    ctx.network(grandchild)


def test_a_size_in_bytes_is_kept_by_the_file(start: tuple[Artifact, Context]) -> None:
    parent, ctx = start
    goal = int(0.6 * parent.metrics["size_bytes"])
    child = Prune(to=goal, by="size", steps=2, recovery_epochs=0, round_to=1)(parent, ctx)
    assert 0.9 * goal < child.metrics["size_bytes"] <= goal
    assert child.notes["after"] >= child.metrics["size_bytes"]


def test_what_is_small_enough_or_cannot_be_reached_is_said_before_any_training(start: tuple[Artifact, Context]) -> None:
    parent, ctx = start
    for max_drop in (None, 0.005):
        with pytest.raises(Inapplicable, match="already costs .* parameters, no more than the 10,000 asked for"):
            Prune(to=10_000, max_drop=max_drop)(parent, ctx)
    with pytest.raises(GateFailed, match="Prune fails: it cannot reach 3: the smallest"):
        Prune(to=3)(parent, ctx)
    with pytest.raises(Inapplicable, match="it cannot reach 3: the smallest .* gives is [0-9,]+$"):
        Prune(to=3, max_drop=0.005)(parent, ctx)
