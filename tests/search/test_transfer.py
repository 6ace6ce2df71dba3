"""A search whose networks start from trained weights, and its control."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import search_driver
import torch
from safetensors.torch import save_file
from small_search import BUDGET, begun, settings

from searchkit.context import Context
from searchkit.core.errors import BadInput
from searchkit.core.space import Space
from searchkit.core.space_file import load_space
from searchkit.core.task import Task
from searchkit.core.training import FitPlan, Training, TrainState
from searchkit.nn.transfer import matching
from searchkit.report.transfer import transfer_of
from searchkit.run import Run
from searchkit.search import transfer
from searchkit.search.coordinator import search
from searchkit.search.results import history
from searchkit.search.transfer import CONTROL, begin, fit_from, frozen_epochs, initial_of
from searchkit.search.weights_source import WeightsSource, find_weights

PARAMS = {"depth": 2, "width0": 12, "width1": 8, "activation": "relu"}


def tiny_weights(tiny: Space, task: Task, seed: int = 0) -> dict[str, torch.Tensor]:
    """Those of the network that `PARAMS` are of."""
    torch.manual_seed(seed)
    return dict(tiny.build(tiny.arch((12, 8), "relu"), task.spec).state_dict())


@pytest.fixture
def source(tmp_path: Path, tiny: Space, task: Task) -> WeightsSource:
    file = tmp_path / "w.safetensors"
    save_file(tiny_weights(tiny, task), file)
    return find_weights(str(file), tmp_path)


def started(root: Path, task: Task, tiny: Space, facts: Any, **changes: Any) -> Run:
    run = begun(root, task, "second", initial=facts)
    ctx = Context(run, task, lambda name: tiny, seed=9, echo=lambda line: None)
    search(tiny, ctx, settings(**{"budget": replace(BUDGET, trials=6, epochs=4, rungs=2), **changes}))
    return run


def test_the_network_that_takes_most_of_a_file_is_found(source: WeightsSource, tiny: Space, task: Task) -> None:
    (name,) = begin(source, task, [tiny])["families"]
    first = begin(source, task, [tiny])["families"][name]
    assert first["taken"] == first["of"] == sum(w.numel() for w in source.weights.values())
    assert {key: value for key, value in first["params"].items() if not key.startswith("train.")} == {
        **PARAMS, "activation": first["params"]["activation"]
    }  # fmt: skip


def test_the_first_trial_takes_the_weights_and_the_second_is_its_control(
    tmp_path: Path, source: WeightsSource, tiny: Space, task: Task
) -> None:
    run = started(tmp_path, task, tiny, begin(source, task, [tiny]))
    rows, trials = history(run), {int(a.made_by["number"]): a for a in run.trials()}
    assert [row["way"] for row in rows[:2]] == ["as in w.safetensors", CONTROL]
    assert rows[0]["params"] == rows[1]["params"] and trials[0].arch == trials[1].arch
    assert trials[0].made_by["seed"] == trials[1].made_by["seed"], "the same order of the examples"
    notes = [trials[n].notes["transfer"] for n in (0, 1)]
    n = sum(w.numel() for w in source.weights.values())
    assert notes == [
        {"source": "w.safetensors", "start": "", "taken": n, "of": n},
        {"source": "w.safetensors", "start": "scratch", "taken": 0, "of": n},
    ]
    first = [run.log(trials[n])[0]["loss"] for n in (0, 1)]
    assert first[0] != first[1], "the control took the weights too"
    assert any(row["way"] == "as in w.safetensors, trained otherwise" for row in rows[2:])
    found = transfer_of(run, run.trials(), task.goal)
    assert found is not None and [row.number for row in found.rows] == [0, 1]
    assert found.rows[0].taken == 1.0 and found.rows[1].taken == 0.0
    assert found.rows[0].epoch == found.rows[1].epoch == min(row.epochs for row in found.rows)
    assert found.n == len(trials) and found.n_taking == sum(a.notes["transfer"]["taken"] > 0 for a in trials.values())


def test_a_search_from_weights_resumes_without_their_file(
    tmp_path: Path, source: WeightsSource, tiny: Space, task: Task
) -> None:
    facts = begin(source, task, [tiny])
    budget = replace(BUDGET, trials=4, epochs=4, rungs=2)
    whole = started(tmp_path / "whole", task, tiny, facts, budget=budget)
    run = started(tmp_path / "parts", task, tiny, facts, budget=replace(budget, trials=2))
    source.file.unlink()
    ctx = Context(run, task, lambda name: tiny, seed=9, echo=lambda line: None)
    search(tiny, ctx, settings(budget=budget))
    told = [[(row["params"], row["value"], row["way"]) for row in history(one)] for one in (whole, run)]
    assert told[0] == told[1]
    fresh = begun(tmp_path / "fresh", task, "second", initial=facts)
    with pytest.raises(BadInput, match="The weights that the run 'second' starts from are gone"):
        initial_of(fresh)
    (run.path / transfer.FILE).write_bytes(b"other")
    with pytest.raises(BadInput, match="have changed"):
        initial_of(run)


class Recorded:
    """A task that notes what is trained in each call."""

    def __init__(self, task: Task) -> None:
        self.task, self.calls = task, []  # type: ignore[var-annotated]

    def fit(self, net: Any, plan: FitPlan, state: TrainState) -> TrainState:
        trained = [name for name, p in net.named_parameters() if p.requires_grad]
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        after = self.task.fit(net, plan, state)
        moved = [name for name, p in net.named_parameters() if not torch.equal(p, before[name])]
        self.calls.append((state.epoch, plan.until, trained, moved))
        return after


def test_what_was_taken_is_held_fixed_first_and_then_trained(tiny: Space, task: Task, source: WeightsSource) -> None:
    arch = tiny.arch((12, 16), "relu")  # the first layer alone has the same shape
    plan = FitPlan(Training(epochs=4, lr=1e-2, ema=0.0), seed=1, until=4)
    torch.manual_seed(3)
    net, recorded = tiny.build(arch, task.spec), Recorded(task)
    assert set(matching(net, source.weights)) == {"0.weight", "0.bias"}
    data = source.file.read_bytes()
    state = fit_from(recorded, net, plan, TrainState(), data=data, epochs=2)  # type: ignore[arg-type]
    new = ["2.weight", "2.bias", "4.weight", "4.bias"]
    assert recorded.calls == [(0, 2, new, new), (2, 4, ["0.weight", "0.bias", *new], ["0.weight", "0.bias", *new])]
    assert state.epoch == 4 and [row["epoch"] for row in state.numbers["curve"]] == [1, 2, 3, 4]
    # by rungs: as in one go, bit for bit
    torch.manual_seed(3)
    again, where = tiny.build(arch, task.spec), TrainState()
    for until in (1, 2, 3, 4):
        where = fit_from(task, again, replace(plan, until=until), where, data=data, epochs=2)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_the_first_layer_is_that_of_the_file_after_the_frozen_epochs(
    tiny: Space, task: Task, source: WeightsSource
) -> None:
    net = tiny.build(tiny.arch((12, 16), "relu"), task.spec)
    plan = FitPlan(Training(epochs=4, lr=1e-2, ema=0.9), seed=1, until=2)
    fit_from(task, net, plan, TrainState(), data=source.file.read_bytes(), epochs=2)
    assert torch.allclose(net.state_dict()["0.weight"], source.weights["0.weight"], atol=1e-6)


@pytest.mark.parametrize(("epochs", "held"), [(1, 0), (2, 0), (3, 1), (10, 1), (20, 2), (80, 8)])
def test_a_tenth_of_the_epochs_is_held(epochs: int, held: int) -> None:
    assert frozen_epochs(epochs) == held


def test_weights_that_fit_no_network_are_refused(tmp_path: Path, tiny: Space, task: Task) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"conv.weight": torch.zeros(3, 3), "0.weight": torch.zeros(5, 30)}, file)
    narrow = load_space(search_driver.NARROW)
    with pytest.raises(BadInput) as refused:
        begin(find_weights(str(file), tmp_path), task, [tiny, narrow])
    assert "No layer of --init-from" in str(refused.value) and "fits a network of tiny, narrow" in str(refused.value)
    assert "of shape (" in str(refused.value)
    save_file({}, file)
    with pytest.raises(BadInput, match="it holds nothing"):
        begin(find_weights(str(file), tmp_path), task, [tiny])


def test_of_several_families_those_that_fit_start_from_the_weights(
    tmp_path: Path, source: WeightsSource, tiny: Space, task: Task
) -> None:
    wide = source.weights | {"0.weight": torch.zeros(24, 30), "0.bias": torch.zeros(24)}
    save_file(wide, tmp_path / "wide.safetensors")
    narrow = load_space(search_driver.NARROW)
    facts = begin(find_weights(str(tmp_path / "wide.safetensors"), tmp_path), task, [narrow, tiny])
    assert list(facts["families"]) == ["tiny"]
    run = begun(tmp_path / "runs", task, "second", initial=facts)
    spaces = {"tiny": tiny, "narrow": narrow}
    ctx = Context(run, task, spaces.__getitem__, seed=9, echo=lambda line: None)
    search([narrow, tiny], ctx, settings(budget=replace(BUDGET, trials=5, epochs=1, rungs=1)))
    ways = {row["space"]: [r["way"] for r in history(run) if r["space"] == row["space"]] for row in history(run)}
    assert ways["tiny"][:2] == ["as in wide.safetensors", CONTROL] and CONTROL not in ways["narrow"]
    assert all(("transfer" in a.notes) == (a.space == "tiny") for a in run.trials())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none.safetensors", "is neither a file nor a run in"),
        ("model.pt", "may run code when it is read; save the weights by safetensors.torch.save_file"),
        ("model.onnx", "is no file of weights; save the weights by"),
        ("torn.safetensors", "cannot be read: "),
        ("folder", "is a folder without a run or a bundle"),
        ("bundle", "is a bundle outside of its run: its exported files have lost the names of the layers"),
    ],
)
def test_what_holds_no_weights_is_refused(tmp_path: Path, name: str, says: str) -> None:
    for file in ("model.pt", "model.onnx", "torn.safetensors"):
        (tmp_path / file).write_bytes(b"\x80\x04 garbage")
    for folder in ("folder", "bundle"):
        (tmp_path / folder).mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    with pytest.raises(BadInput) as refused:
        find_weights(str(tmp_path / name), tmp_path)
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_the_weights_of_a_run_are_those_of_its_best_trial(tmp_path: Path, tiny: Space, task: Task) -> None:
    run = begun(tmp_path, task, "first")
    with pytest.raises(BadInput, match="has no search in it yet"):
        find_weights("first", tmp_path)
    ctx = Context(run, task, lambda name: tiny, seed=5, echo=lambda line: None)
    search(tiny, ctx, settings(budget=replace(BUDGET, trials=3, epochs=1, rungs=1), sampler="random"))
    found = find_weights("first", tmp_path)
    best = max(history(run), key=lambda row: row["value"] or 0.0)
    assert (found.name, found.family, found.params) == ("first", "tiny", best["params"])
    assert found.file.parent.name == best["artifact"]
    assert found.sha256 == hashlib.sha256(found.file.read_bytes()).hexdigest()
    first = begin(found, task, [tiny])["families"]["tiny"]
    assert first["params"] == best["params"] and first["taken"] == first["of"]
