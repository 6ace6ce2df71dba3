"""Every option of a configuration reaches what it is meant for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import search_driver

from searchkit import workflow
from searchkit.config.compression import RECIPES, CompressionConfig
from searchkit.config.limits import BudgetConfig
from searchkit.config.run import SECTIONS, RunConfig, every_option
from searchkit.core.artifact import Artifact
from searchkit.core.errors import BadInput
from searchkit.core.serialization import freeze
from searchkit.core.space_file import load_space
from searchkit.core.stage import Stage
from searchkit.core.training import Training
from searchkit.lifecycle import config_of, start
from searchkit.run import Run
from searchkit.search.settings import SearchSettings
from searchkit.stages import recipes
from searchkit.stages.pipeline import LeftOut
from searchkit.tasks import registry
from searchkit.workflow import context, settings_of

TINY = load_space(search_driver.TINY)
ASKED = {"space": "tiny", "task": "iris", "workers": 2, "device": "cpu"}
PLAIN = RunConfig.from_options(**ASKED)


def configured(**given: Any) -> RunConfig:
    return RunConfig.from_options(**{**ASKED, **given})


SETTINGS: dict[str, tuple[dict[str, Any], Callable[[SearchSettings], Any], Any]] = {
    "trials": ({"trials": 77}, lambda s: s.budget.trials, 77),
    "epochs": ({"epochs": 7}, lambda s: s.budget.epochs, 7),
    "rungs": ({"rungs": 2}, lambda s: s.budget.rungs, 2),
    "sampler": ({"sampler": "nsga2"}, lambda s: s.sampler, "nsga2"),
    "minimize": ({"minimize": "none"}, lambda s: s.cost, None),
    "workers": ({"workers": 3}, lambda s: s.workers, 3),
    "executor": ({"executor": "ray"}, lambda s: s.executor, "ray"),
    "address": ({"executor": "ray", "address": "ray://x:1"}, lambda s: s.address, "ray://x:1"),
    "gpus_per_trial": ({"executor": "ray", "gpus_per_trial": 0.5}, lambda s: s.gpus_per_trial, 0.5),
    "workers_per_trial": ({"executor": "ray", "workers_per_trial": 2}, lambda s: s.workers_per_trial, 2),
    "storage": ({"storage": "sqlite:///x.db"}, lambda s: s.storage, "sqlite:///x.db"),
    "recipe": ({"recipe": "prune"}, lambda s: s.ship_int8, False),
}


@pytest.mark.parametrize("option", SETTINGS)
def test_what_is_asked_of_the_search_reaches_its_settings(option: str) -> None:
    given, read, expected = SETTINGS[option]
    assert read(settings_of(configured(**given))) == expected != read(settings_of(PLAIN))


def test_only_epochs_that_the_user_chose_are_fixed() -> None:
    fixed = replace(PLAIN, budget=replace(PLAIN.budget, fixed_epochs=True))
    assert settings_of(PLAIN).plans_epochs and not settings_of(fixed).plans_epochs


def made_context(config: RunConfig, folder: Path) -> Any:
    return context(Run(folder, {}), config, registry.load({"task": "iris"}), lambda name: TINY, print)


CONTEXT: dict[str, tuple[dict[str, Any], Callable[[Any], Any], Any]] = {
    "seed": ({"seed": 9}, lambda ctx: ctx.seed, 9),
    "workers": ({"workers": 3}, lambda ctx: ctx.threads, 3),
    "max_params": ({"max_params": 5}, lambda ctx: ctx.limits.params, 5),
    "max_size": ({"max_size": "2KB"}, lambda ctx: ctx.limits.size_bytes, 2000),
    "max_latency": ({"max_latency": "500us"}, lambda ctx: ctx.limits.latency_ms, 0.5),
    "max_macs": ({"max_macs": "1k"}, lambda ctx: ctx.limits.macs, 1000),
}


@pytest.mark.parametrize("option", CONTEXT)
def test_what_is_asked_of_the_stages_reaches_their_context(option: str, tmp_path: Path) -> None:
    given, read, expected = CONTEXT[option]
    found = [read(made_context(config, tmp_path)) for config in (PLAIN, configured(**given))]
    assert found[1] == expected != found[0]


def test_the_device_is_picked_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = [made_context(configured(device=d), tmp_path).device for d in ("cpu", "cuda", "auto")]
    assert found == ["cpu", "cuda", "cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert made_context(configured(device="auto"), tmp_path).device == "cpu"
    with pytest.raises(BadInput, match="finds no CUDA device"):
        made_context(configured(device="cuda"), tmp_path)
    with pytest.raises(BadInput, match="device='tpu' is unknown; choose auto, cpu or cuda"):
        configured(device="tpu")


def test_the_family_that_is_asked_for_is_the_contexts(tmp_path: Path) -> None:
    asked: list[str] = []

    def spaces(name: str) -> Any:
        asked.append(name)
        return TINY

    config = configured(space="mine.py")
    found = context(Run(tmp_path, {}), config, registry.load({"task": "iris"}), spaces, print)
    assert asked == ["mine.py"] and found.spaces("tiny") is TINY and found.spaces("mine.py") is TINY
    assert asked == ["mine.py"], "loaded once, known by both of its names"
    found.spaces("other")
    assert asked == ["mine.py", "other"]


def test_every_option_has_another_value_that_is_stored_and_read_back(tmp_path: Path) -> None:
    # they exclude others: each by itself below
    alone = {"task", "recipe", "executor", "problem", "noise", "anomaly", "strategy"}
    given = {declared.name: about.example.strip("'") for _, declared, about in every_option()}
    changed = RunConfig.from_options(**{k: v for k, v in given.items() if k not in alone}, executor="ray",
                                     problem="forecasting", recipe="int8")  # fmt: skip
    changed = replace(changed, budget=BudgetConfig(30.0, 3, 4, 1, 2, 7, True))
    own = {"own_sampler": "mine.Walk", "own_metric": "mine.cost"}
    changed = replace(changed, search=replace(changed.search, **own),
                      compression=replace(changed.compression, own_recipe="Promote, Mine"))  # fmt: skip
    default = RunConfig()
    for name, section in SECTIONS.items():
        pairs = [(getattr(getattr(c, name), f.name) for c in (changed, default)) for f in fields(section)]
        same = [f.name for f, (one, other) in zip(fields(section), pairs, strict=True) if one == other]
        assert set(same) <= alone, "a field that is not changed here is not tested"
    run = start(changed, registry.load({"task": "iris"}), root=tmp_path, name="run", command=["search"])
    assert config_of(Run.open(run.path)) == changed
    for other in ({"task": "wine"}, {"noise": "gaussian:0.5"}, {"anomaly": "crack"}, {"strategy": "inherit"}):
        config = RunConfig.from_options(space="x", workers=2, **other)
        run = start(config, registry.load({"task": "iris"}), root=tmp_path, name=next(iter(other)), command=[])
        assert config_of(Run.open(run.path)) == config


# ── wishes ───────────────────────────────────────────────────────────────────────────────────────────────────────────

WISHES: dict[str, tuple[Any, dict[str, Any]]] = {
    "prune_to": (0.3, {"Prune.to": 0.3, "Prune.max_drop": None}),
    "prune_by": ("macs", {"Prune.by": "macs"}),
    "importance": ("l1", {"Prune.importance": "l1"}),
    "max_drop": (0.25, {"Prune.max_drop": 0.25, "Quantize.max_drop": 0.25}),
    "max_rise": (0.25, {"Prune.max_rise": 0.25, "Quantize.max_rise": 0.25}),
    "student": (4, {"Distill.student": 4}),
    "temperature": (3.5, {"Distill.temperature": 3.5}),
    "teacher_weight": (0.125, {"Distill.weight": 0.125}),
    "ensemble": (5, {"Distill.ensemble": 5}),
}


def flat(stages: tuple[Stage, ...]) -> dict[str, Any]:
    return {f"{type(s).__name__}.{k}": v for s in stages for k, v in freeze(s).items()}


@pytest.mark.parametrize("field", WISHES)
def test_each_wish_reaches_the_stages_and_nothing_else_changes(field: str) -> None:
    value, expected = WISHES[field]
    before = flat(recipes.make("compact", CompressionConfig(), epochs=12, limited=False))
    after = flat(recipes.make("compact", CompressionConfig(**{field: value}), epochs=12, limited=False))
    assert {name: v for name, v in after.items() if v != before[name]} == expected


def test_each_field_of_a_wish_has_a_row() -> None:
    assert {*WISHES, "recipe", "own_recipe"} == {f.name for f in fields(CompressionConfig)}


def test_the_defaults_of_a_recipe() -> None:
    found = flat(recipes.make("compact", CompressionConfig(), epochs=12, limited=False))
    assert found["Prune.to"] == 0.5 and found["Prune.max_drop"] == 0.005 and found["Prune.recovery_epochs"] == 12
    assert found["Distill.epochs"] == 4
    short = flat(recipes.make("compact", CompressionConfig(), epochs=3, limited=False))
    assert short["Distill.epochs"] == 2 and short["Prune.recovery_epochs"] == 6


@pytest.mark.parametrize(("name", "limited", "to", "pruned"), [
    ("compact", True, None, False), ("compact", True, 0.5, True), ("compact", False, None, True),
    ("prune", True, None, True),
])  # fmt: skip
def test_a_winner_under_hard_limits_is_pruned_only_when_asked(
    name: str, limited: bool, to: float | None, pruned: bool
) -> None:
    stages = recipes.make(name, CompressionConfig(prune_to=to), epochs=3, limited=limited)
    assert [s.stage for s in stages if isinstance(s, LeftOut)] == ([] if pruned else ["Prune"])


def test_a_recipe_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(BadInput, match="No recipe named 'all'; the recipes are compact, int8, prune"):
        recipes.make("all", CompressionConfig(), epochs=3, limited=False)
    assert set(RECIPES) == set(recipes.STAGES)
    assert [name for name in RECIPES if recipes.quantizes(name)] == ["compact", "int8"]
    assert not recipes.quantizes("all")


def test_the_recipe_the_wish_and_the_limits_make_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`compress` asks for the recipe that is asked for, with its wish, and says whether there are limits."""
    seen: list[dict[str, Any]] = []

    def make(name: str, wish: CompressionConfig, **given: Any) -> tuple[Stage, ...]:
        seen.append({"name": name, "wish": wish, **given})
        return ()

    monkeypatch.setattr(recipes, "make", make)
    run = Run(tmp_path, {"name": "r"})
    ctx = replace(made_context(PLAIN, tmp_path), run=run)
    winner = Artifact("x", "tiny", {}, freeze(Training(epochs=7)), (), {}, None, notes={"setting": ["fp32", False]})
    monkeypatch.setattr(Run, "log", lambda self, artifact: [])
    for config in (PLAIN, configured(recipe="int8", ensemble=2, max_macs=3)):
        assert workflow.compress(winner, ctx, config) == []
    plain = {"name": "compact", "wish": CompressionConfig(), "epochs": 7, "limited": False}
    int8 = CompressionConfig("int8", ensemble=2)
    assert seen == [plain, {"name": "int8", "wish": int8, "epochs": 7, "limited": True}]
