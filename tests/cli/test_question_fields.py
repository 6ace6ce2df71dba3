"""Every field of a question and of the wishes in it reaches what it is meant for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import search_driver

from searchkit import workflow
from searchkit.core.errors import BadInput
from searchkit.core.serialization import freeze
from searchkit.core.space import Budget, Limits
from searchkit.core.space_file import load_space
from searchkit.core.stage import Stage
from searchkit.core.training import Training
from searchkit.run import Run
from searchkit.search.settings import SearchSettings
from searchkit.stages import recipes
from searchkit.stages.pipeline import LeftOut
from searchkit.stages.recipes import CompressionConfig
from searchkit.tasks import registry
from searchkit.workflow import RunConfig, context, settings_of, start

TINY = load_space(search_driver.TINY)
PLAIN = RunConfig("tiny", {"task": "iris"}, executor="processes", workers=2, device="cpu")


def settings(question: RunConfig) -> SearchSettings:
    return settings_of(question)


SETTINGS: dict[str, tuple[Any, Callable[[SearchSettings], Any], Any]] = {
    "budget": (Budget(trials=77), lambda s: s.budget.trials, 77),
    "sampler": ("nsga2", lambda s: s.sampler, "nsga2"),
    "minimize": (None, lambda s: s.cost, None),
    "workers": (3, lambda s: s.workers, 3),
    "executor": ("ray", lambda s: s.executor, "ray"),
    "address": ("ray://x:1", lambda s: s.address, "ray://x:1"),
    "storage": ("sqlite:///x.db", lambda s: s.storage, "sqlite:///x.db"),
    "recipe": ("prune", lambda s: s.ship_int8, False),
    "fixed_epochs": (True, lambda s: s.plans_epochs, False),
}


@pytest.mark.parametrize("field", SETTINGS)
def test_what_a_question_asks_of_the_search_reaches_its_settings(field: str) -> None:
    value, read, expected = SETTINGS[field]
    assert read(settings_of(replace(PLAIN, **{field: value}))) == expected != read(settings_of(PLAIN))


def made_context(question: RunConfig, folder: Path) -> Any:
    return context(Run(folder, {}), question, registry.load({"task": "iris"}), lambda name: TINY, print)


CONTEXT: dict[str, tuple[Any, Callable[[Any], Any], Any]] = {
    "seed": (9, lambda ctx: ctx.seed, 9),
    "workers": (3, lambda ctx: ctx.threads, 3),
    "limits": (Limits(params=5), lambda ctx: ctx.limits.params, 5),
}


@pytest.mark.parametrize("field", CONTEXT)
def test_what_a_question_asks_of_the_stages_reaches_their_context(field: str, tmp_path: Path) -> None:
    value, read, expected = CONTEXT[field]
    found = [read(made_context(q, tmp_path)) for q in (PLAIN, replace(PLAIN, **{field: value}))]
    assert found[1] == expected != found[0]


def test_the_device_is_picked_as_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = [made_context(replace(PLAIN, device=d), tmp_path).device for d in ("cpu", "cuda", "auto")]
    assert found == ["cpu", "cuda", "cuda"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert made_context(replace(PLAIN, device="auto"), tmp_path).device == "cpu"
    with pytest.raises(BadInput, match="finds no CUDA device"):
        made_context(replace(PLAIN, device="cuda"), tmp_path)
    with pytest.raises(BadInput, match="No device named 'tpu'"):
        made_context(replace(PLAIN, device="tpu"), tmp_path)


def test_the_family_that_is_asked_for_is_the_contexts(tmp_path: Path) -> None:
    asked: list[str] = []

    def spaces(name: str) -> Any:
        asked.append(name)
        return TINY

    found = context(Run(tmp_path, {}), replace(PLAIN, space="mine.py"), registry.load({"task": "iris"}), spaces, print)
    assert asked == ["mine.py"] and found.spaces("tiny") is TINY and found.spaces("mine.py") is TINY
    assert asked == ["mine.py"], "loaded once, known by both of its names"
    found.spaces("other")
    assert asked == ["mine.py", "other"]


def test_a_question_is_stored_whole_and_read_back(tmp_path: Path) -> None:
    changed = RunConfig(
        "cnn", {"task": "digits", "split_seed": 5}, Budget(trials=3, seconds=9.0), Limits(params=7),
        CompressionConfig(prune_to=0.25),
        "prune", "random", "macs", 4, 3, "processes", "a", "sqlite:///x", "cpu", True,
    )  # fmt: skip
    default = RunConfig("x", {"task": "iris"})
    same = [f.name for f in fields(RunConfig) if getattr(changed, f.name) == getattr(default, f.name)]
    assert same == ["executor"], "a field that is not changed here is not tested"
    run = start(changed, registry.load({"task": "iris"}), root=tmp_path, name="run", command=["search"])
    stored = json.loads((run.path / "run.json").read_text())["question"]
    assert RunConfig.parse(stored) == changed
    assert RunConfig.parse(json.loads(json.dumps(default.plain()))) == default, "an endless budget too"
    whole = RunConfig.parse({**stored, "executor": "ray"})
    assert whole == replace(changed, executor="ray")


def test_each_field_of_a_question_has_a_row() -> None:
    rows = {**SETTINGS, **CONTEXT, "space": 0, "source": 0, "wish": 0, "device": 0}
    assert set(rows) == {f.name for f in fields(RunConfig)}


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
    assert set(WISHES) == {f.name for f in fields(CompressionConfig)}


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
    assert set(recipes.NAMES) == set(recipes.STAGES)
    assert [name for name in recipes.NAMES if recipes.quantizes(name)] == ["compact", "int8"]
    assert not recipes.quantizes("all")


def test_the_recipe_the_wish_and_the_limits_make_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`compress` asks for the recipe that the question names, with its wish, and says whether there are limits."""
    from types import SimpleNamespace

    seen: list[dict[str, Any]] = []

    def make(name: str, wish: CompressionConfig, **given: Any) -> tuple[Stage, ...]:
        seen.append({"name": name, "wish": wish, **given})
        return ()

    monkeypatch.setattr(recipes, "make", make)
    run = Run(tmp_path, {"name": "run"})
    ctx = replace(made_context(PLAIN, tmp_path), run=run)
    winner: Any = SimpleNamespace(
        training=freeze(Training(epochs=7)), notes={"setting": ["fp32", False]}, id="x", files={}
    )
    monkeypatch.setattr(Run, "log", lambda self, artifact: [])
    for question in (PLAIN, replace(PLAIN, recipe="int8", wish=CompressionConfig(ensemble=2), limits=Limits(macs=3))):
        assert workflow.compress(winner, ctx, question) == []
    plain = {"name": "compact", "wish": CompressionConfig(), "epochs": 7, "limited": False}
    assert seen == [plain, {"name": "int8", "wish": CompressionConfig(ensemble=2), "epochs": 7, "limited": True}]
