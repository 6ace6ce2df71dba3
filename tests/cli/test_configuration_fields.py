"""Every field of every configuration does something: each row changes one field, and what is observed must change.

A dataclass that gains a field fails here until the field has a row, and a field that the code ignores fails its row.
(The fields of the stages: see test_stage_fields.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import search_driver
import torch
from torch import Tensor, nn

from searchkit.config.run import RunConfig
from searchkit.context import Context
from searchkit.core.errors import SearchkitError
from searchkit.core.goal import Goal, Tolerance
from searchkit.core.space import Budget, Limits
from searchkit.core.space_file import load_space
from searchkit.core.task import Task
from searchkit.core.training import Batch, FitPlan, Training, TrainingSpace, TrainState, Uniform
from searchkit.run import Run
from searchkit.search import coordinator
from searchkit.search.candidates import draw
from searchkit.search.choices import at
from searchkit.search.coordinator import search
from searchkit.search.cost_model import CostModel
from searchkit.search.jobs import Outcome
from searchkit.search.results import history
from searchkit.search.settings import SearchSettings
from searchkit.search.time_planning import make_time_plan
from searchkit.tasks import registry
from searchkit.tasks.gan.adversary import Adversary
from searchkit.tasks.rl.replay import LEAST_RANDOM, ReplayTraining
from searchkit.train import fit
from searchkit.workflow import context

TINY = load_space(search_driver.TINY)


def require_a_row_for_each_field(kind: type, rows: dict[str, Any]) -> None:
    assert set(rows) == {f.name for f in fields(kind)}, f"a field of {kind.__name__} has no row, or a row no field"


@functools.cache
def task(name: str) -> Task:
    return registry.load({"task": name, "split_seed": 0})


# ── Training and FitPlan ─────────────────────────────────────────────────────────────────────────────────────────────

# two epochs of 17 steps on the digits; momentum is the optimizer in which the most fields have a say
TRAINING = Training(optimizer="momentum", lr=0.02, batch_size=64, epochs=2, clip_norm=0.5)


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(96, 10))


@functools.cache
def trained(training: Training) -> tuple[bytes, Any]:
    """The weights and the number of epochs that a training gives."""
    net = small_net()
    plan = FitPlan(training, seed=1, until=training.epochs)
    state = fit(net, task("digits"), plan, TrainState())
    return b"".join(p.detach().numpy().tobytes() for p in net.parameters()), state.epoch


def critic_loss(objective: str) -> float:
    """Of a generator's drawing, by a critic of this objective that has learnt nothing yet."""
    rival: Any = SimpleNamespace(raw=torch.zeros(2, 1, 8, 8), scale=lambda raw: raw)
    critic = Adversary(Training(objective=objective), rival, seed=0, units=4)
    return float(critic.generator_loss(torch.ones(2, 1, 8, 8)).detach())


class Pretrained(nn.Module):
    """A network of a text task that counts how many batches it was asked to restore."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.n_restored = 0

    def restorer(self) -> nn.Module:
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.float().mean()


class TaughtByItself:
    """The few lines of a task that pre-training asks for."""

    goal = Goal("mse", "minimize")

    def n_examples(self, split: str) -> int:
        return 1

    def batches(self, split: str, training: Training, *, seed: int, device: str) -> list[Batch]:
        return [Batch((torch.ones(1),), torch.ones(1))]

    def loss(self, model: Pretrained, batch: Batch) -> Tensor:
        return model(*batch.inputs)

    def pretext(self, restorer: Pretrained, batch: Batch) -> Tensor:
        restorer.n_restored += 1
        return restorer(*batch.inputs)


def n_restored(epochs: int) -> int:
    net, taught = Pretrained(), TaughtByItself()
    fit(net, taught, FitPlan(Training(pretrain_epochs=epochs, epochs=1), 0, 1), TrainState())  # type: ignore[arg-type]
    return net.n_restored


# field: the value that it is changed to, and another training to change it in where the plain one gives it no say
TRAINING_ROWS: dict[str, tuple[Any, Training]] = {
    "optimizer": ("adamw", TRAINING),
    "momentum": (0.5, TRAINING),
    "lr": (0.01, TRAINING),
    "schedule": ("linear", TRAINING),
    "warmup": (0.4, TRAINING),
    "weight_decay": (0.2, TRAINING),
    "l1": (1e-3, TRAINING),
    "clip_norm": (0.1, TRAINING),
    "batch_size": (128, TRAINING),
    "epochs": (1, TRAINING),
    "augment": (("crop",), TRAINING),
    "label_smoothing": (0.1, TRAINING),
    "mixup": (0.4, TRAINING),
    "ema": (0.9, TRAINING),
    "patience": (1, replace(TRAINING, lr=1e-12, epochs=4)),  # no epoch is better than the first
}
APART: dict[str, tuple[Callable[[Any], Any], Any, Any]] = {
    "objective": (critic_loss, "minimax", "least-squares"),
    "pretrain_epochs": (n_restored, 0, 2),
}


def test_each_field_of_training_has_a_row() -> None:
    require_a_row_for_each_field(Training, {**TRAINING_ROWS, **APART})


@pytest.mark.parametrize("field", TRAINING_ROWS)
def test_each_field_of_training_changes_the_trained_network(field: str) -> None:
    value, training = TRAINING_ROWS[field]
    assert getattr(training, field) != value
    assert trained(replace(training, **{field: value})) != trained(training)


@pytest.mark.parametrize("field", APART)
def test_each_field_of_training_that_few_tasks_read_changes_theirs(field: str) -> None:
    observe, before, after = APART[field]
    assert observe(before) != observe(after)


def recorded_device(plan: FitPlan) -> str:
    """Where the loop asks the task for its batches."""
    seen: list[str] = []

    class Told(TaughtByItself):
        def batches(self, split: str, training: Training, *, seed: int, device: str) -> list[Batch]:
            seen.append(device)
            return [Batch((torch.ones(1, device=device),), torch.ones(1, device=device))]

    try:
        fit(nn.Linear(1, 1), Told(), plan, TrainState())  # type: ignore[arg-type]
    except (NotImplementedError, RuntimeError):  # "meta" has no numbers
        pass
    return seen[0]


def fitted(plan: FitPlan) -> dict[str, Any]:
    net = small_net()
    state = fit(net, task("digits"), plan, TrainState())
    curve = state.numbers["curve"]
    return {
        "weights": b"".join(p.detach().contiguous().numpy().tobytes() for p in net.parameters()),
        "strides": net[2].weight.stride(),  # type: ignore[index, union-attr, operator]
        "steps": [row["steps"] for row in curve],
        "val": ["val" in row for row in curve],
    }


@functools.cache
def plain_fit() -> dict[str, Any]:
    return fitted(FitPlan(TRAINING, 1, 2))


PLAN_ROWS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "training": (replace(TRAINING, lr=0.01), ("weights",)),
    "seed": (2, ("weights",)),
    "until": (1, ("steps", "weights")),
    "precision": ("bf16", ("weights",)),
    "channels_last": (True, ("strides",)),
    "seconds": (0.0, ("steps",)),
    "loss": (lambda net, batch: task("digits").loss(net, batch) * 0.5, ("weights",)),
    "validate": (True, ("val",)),
}


def test_each_field_of_a_fit_plan_has_a_row() -> None:
    """recovers: of an agent alone, whose loop reads it (see test_an_agent_that_recovers_explores_little)."""
    require_a_row_for_each_field(FitPlan, {**PLAN_ROWS, "device": None, "recovers": None})


@pytest.mark.parametrize("field", PLAN_ROWS)
def test_each_field_of_a_fit_plan_is_obeyed(field: str) -> None:
    value, changed = PLAN_ROWS[field]
    found, plain = fitted(replace(FitPlan(TRAINING, 1, 2), **{field: value})), plain_fit()
    assert all(found[name] != plain[name] for name in changed)


def test_the_device_of_a_fit_plan_is_where_the_batches_are_asked_for() -> None:
    plain = FitPlan(Training(epochs=1), 0, 1)
    assert [recorded_device(replace(plain, device=d)) for d in ("cpu", "meta")] == ["cpu", "meta"]


def test_an_agent_that_recovers_explores_little() -> None:
    chances = []
    for recovers in (False, True):
        playing: Any = SimpleNamespace(plan=FitPlan(TRAINING, 0, 2, recovers=recovers))
        chances.append([ReplayTraining.chance(playing, epoch) for epoch in (0.0, 2.0)])
    assert chances == [[1.0, LEAST_RANDOM], [LEAST_RANDOM, LEAST_RANDOM]]


# ── what a space says of its training ────────────────────────────────────────────────────────────────────────────────


def test_each_field_of_a_training_space_changes_what_is_drawn() -> None:
    spec, plain = task("iris").spec, TINY.training
    changes = {
        "default": replace(plain.default, momentum=0.123),
        "ranges": {"warmup": Uniform(0.2, 0.3)},
    }
    require_a_row_for_each_field(TrainingSpace, changes)
    for field, value in changes.items():
        space = replace(TINY, training=replace(plain, **{field: value}))
        drawn = [draw(s, spec, at(0.5), epochs=3, way="test").training for s in (TINY, space)]
        assert drawn[0] != drawn[1], field


# ── limits and tolerances ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Context(Run.create(tmp_path, "run", {}), task("iris"), lambda name: TINY, seed=1, echo=lambda line: None)


@pytest.mark.parametrize("field", [f.name for f in fields(Limits)])
def test_each_limit_is_measured_for_a_candidate_and_refuses_it(ctx: Context, field: str) -> None:
    limited = replace(ctx, limits=Limits(**{field: 10**9}))
    candidate = draw(TINY, ctx.task.spec, at(0.5), epochs=1, way="test")
    cost = CostModel(TINY, limited, cost=None, ship_int8=False).cost(candidate)
    assert limited.limits.breaches(cost) == {}
    tight = Limits(**{field: cost[field] / 2})  # type: ignore[arg-type]
    assert tight.breaches(cost) == {field: pytest.approx(1.0)}
    assert Limits(**{field: cost[field]}).breaches(cost) == {}, "what is just met is met"  # type: ignore[arg-type]


def test_each_field_of_a_tolerance_decides() -> None:
    plain = Tolerance(Goal("accuracy", "maximize"))
    error = replace(plain, goal=Goal("rmse", "minimize"))
    require_a_row_for_each_field(Tolerance, {"goal": 0, "max_drop": 0, "max_rise": 0})
    assert plain.admits(0.9951, 1.0) and not plain.admits(0.9949, 1.0)
    assert replace(plain, max_drop=0.02).admits(0.981, 1.0) and not replace(plain, max_drop=0.02).admits(0.979, 1.0)
    assert error.admits(1.019, 1.0) and not error.admits(1.021, 1.0)
    assert replace(error, max_rise=0.1).admits(1.09, 1.0) and not replace(error, max_rise=0.1).admits(1.11, 1.0)
    assert not plain.admits(0.9, 1.0) and error.admits(0.9, 1.0), "the goal says which way is worse"
    assert (plain.shown, replace(plain, max_drop=0.1).shown) == ("0.005", "0.1")
    assert (error.shown, replace(error, max_rise=0.1).shown) == ("0.02 of it", "0.1 of it")
    wide = replace(plain, goal=Goal("return", "maximize", span=450.0))
    assert wide.admits(400.0, 402.2) and not wide.admits(400.0, 402.3) and wide.shown == "2.25"
    assert plain.admits(0.9, 1.0, error=0.11) and not plain.admits(0.9, 1.0, error=0.09)


# ── a search ─────────────────────────────────────────────────────────────────────────────────────────────────────────

SMALL = Budget(trials=2, epochs=1, rungs=1, eta=2, least_rung_steps=1)


def searched(ctx: Context, **changes: Any) -> list[dict[str, Any]]:
    search(TINY, ctx, SearchSettings(**{"budget": SMALL, "precision": "fp32", **changes}))
    return history(ctx.run)


BUDGET_ROWS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "epochs": (9, (1, 3, 9)),
    "rungs": (2, (6, 18)),
    "eta": (2, (4, 9, 18)),
    "least_rung_steps": (31, (6, 18)),
}


def test_each_field_of_a_budget_has_a_row() -> None:
    require_a_row_for_each_field(Budget, {**BUDGET_ROWS, "trials": None, "seconds": None})


@pytest.mark.parametrize("field", BUDGET_ROWS)
def test_each_field_of_a_budget_moves_the_rungs(field: str) -> None:
    plain = Budget(epochs=18, least_rung_steps=5)
    assert plain.rung_epochs(10) == (2, 6, 18)
    value, expected = BUDGET_ROWS[field]
    assert replace(plain, **{field: value}).rung_epochs(10) == expected


@pytest.mark.parametrize(("eta", "kept"), [(2, 3), (3, 2), (5, 1)])
def test_one_in_eta_goes_on_at_a_rung(eta: int, kept: int) -> None:
    from searchkit.search.successive_halving import goes_on

    seen = {n: (float(n),) for n in range(5)}
    assert [n for n in seen if goes_on(n, seen, eta)] == list(range(kept))


def test_a_budget_is_spent_in_trials_and_seconds(ctx: Context) -> None:
    assert len(searched(ctx, budget=replace(SMALL, trials=3))) == 3
    config = RunConfig.from_options(space="tiny", time_budget=50)
    found = context(ctx.run, config, ctx.task, lambda name: TINY, print, spent=20.0)
    assert 29 < found.deadline.left() <= 30


class Recorded:
    """In the place of an executor: keeps what it was made with, and every job times out when it is cancelled."""

    capacity = 1
    made: list[dict[str, Any]]

    def __init__(self, *given: Any, **named: Any) -> None:
        Recorded.made.append(named)
        self.keys: list[str] = []
        self.cancelled: list[str] = []

    def submit(self, job: Any) -> None:
        self.keys.append(job.key)

    def wait(self, seconds: float) -> list[Outcome]:
        done, self.cancelled = self.cancelled, []
        return [Outcome(key, "timed-out", "it hung") for key in done]

    def cancel(self, key: str) -> None:
        self.cancelled.append(key)

    def close(self) -> None:
        self.keys.clear()


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recorded]:
    from searchkit.search import executors_ray

    Recorded.made = []
    for owner, name in ((coordinator, "InProcess"), (coordinator, "Processes"), (executors_ray, "Ray")):
        monkeypatch.setattr(owner, name, type(name, (Recorded,), {}))
    return Recorded


def made_executor(ctx: Context, recorded: type[Recorded], **changes: Any) -> dict[str, Any]:
    with pytest.raises(SearchkitError):  # every job is killed as hung
        searched(ctx, hang_seconds=0.0, **changes)
    return recorded.made[0]


def test_an_executor_is_made_as_the_settings_say(ctx: Context, recorded: type[Recorded]) -> None:
    assert made_executor(ctx, recorded) == {}


@pytest.mark.parametrize("address", ["auto", "ray://host:1"])
def test_ray_is_told_its_address_and_workers(ctx: Context, recorded: type[Recorded], address: str) -> None:
    found = made_executor(ctx, recorded, executor="ray", address=address, workers=3)
    assert found == {"workers": 3, "address": address, "device": "cpu"}


def test_processes_are_told_how_many(ctx: Context, recorded: type[Recorded]) -> None:
    assert made_executor(ctx, recorded, executor="processes", workers=5) == {"workers": 5}


def test_a_rung_that_hangs_for_longer_than_allowed_is_killed(ctx: Context, recorded: type[Recorded]) -> None:
    made_executor(ctx, recorded)
    assert {row["failure"] for row in history(ctx.run)} == {"timed-out"}


def test_the_sampler_chooses_the_candidates(ctx: Context) -> None:
    assert [row["way"] for row in searched(ctx, sampler="random")] == ["random", "random"]


@pytest.mark.parametrize("minimize", [None, "params", "macs"])
def test_what_is_minimized_is_an_objective_of_the_study(ctx: Context, minimize: str | None) -> None:
    import optuna

    searched(ctx, minimize=minimize)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{ctx.run.path / 'study.db'}")
    assert [d.name for d in study.directions] == ["MAXIMIZE"] + (["MINIMIZE"] if minimize else [])
    if minimize:
        assert [t.values[1] for t in study.trials] == [row["cost"][minimize] for row in history(ctx.run)]


def test_the_storage_is_where_the_study_lies(ctx: Context, tmp_path: Path) -> None:
    searched(ctx, storage=f"sqlite:///{tmp_path / 'elsewhere.db'}")
    assert (tmp_path / "elsewhere.db").exists() and not (ctx.run.path / "study.db").exists()


def test_a_candidate_is_weighed_as_it_is_shipped(ctx: Context, tmp_path: Path) -> None:
    candidate, sizes = draw(TINY, ctx.task.spec, at(1.0), epochs=1, way="test"), []
    for int8 in (False, True):
        run = Run.create(tmp_path, f"int8 is {int8}", {})  # a run keeps what it has measured
        limited = replace(ctx, run=run, limits=Limits(size_bytes=10**9))
        sizes.append(CostModel(TINY, limited, cost=None, ship_int8=int8).cost(candidate)["size_bytes"])
    parameters = CostModel(TINY, ctx, cost=None, ship_int8=False).cost(candidate)["params"]
    assert sizes[0] - sizes[1] > 0.5 * parameters
    assert [CostModel(TINY, ctx, cost=None, ship_int8=int8).bytes_a_weight for int8 in (False, True)] == [4, 1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_precision_that_is_asked_for_is_trained_in(ctx: Context, precision: str) -> None:
    assert make_time_plan(TINY, ctx, SearchSettings(precision=precision)).precision == precision


def test_few_rows_lengthen_the_training_only_where_the_user_chose_no_epochs(ctx: Context, tmp_path: Path) -> None:
    other = replace(ctx, run=Run.create(tmp_path, "other", {}))
    settings = SearchSettings(budget=SMALL, precision="fp32")
    assert make_time_plan(TINY, ctx, settings).epochs == 1
    assert make_time_plan(TINY, other, replace(settings, plans_epochs=True)).epochs > 50


def test_each_field_of_the_search_settings_has_a_test() -> None:
    named = "budget sampler minimize workers executor address storage ship_int8 precision plans_epochs hang_seconds"
    require_a_row_for_each_field(SearchSettings, dict.fromkeys(named.split()))
