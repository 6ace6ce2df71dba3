"""What the engine gets of a configuration: every option changes something, and nothing else does."""

from __future__ import annotations

from dataclasses import Field, replace
from pathlib import Path
from typing import Any

import pytest

from searchkit import lifecycle, workflow
from searchkit.config.options import Option
from searchkit.config.run import RunConfig, every_option
from searchkit.core.space import Budget
from searchkit.run import Run
from searchkit.stages import recipes
from searchkit.tasks import registry

FAMILY = Budget(trials=4, epochs=9, rungs=2, eta=2, least_rung_steps=7)
WITH = {
    **{name: {"executor": "ray"} for name in ("address", "gpus_per_trial", "workers_per_trial")},
    "student": {"recipe": "distill"},
    "temperature": {"recipe": "distill"},
}
ELSEWHERE = ("name", "runs", "reports", "space", "device", "prior", "init_from")
"""Folders, the run's name, the family, the device and what a run starts from: tests/cli, tests/search and the tests
below look at what they do."""
ENGINE = [
    (field, about)
    for section, field, about in every_option()
    if section != "data" and field.name not in ELSEWHERE
]  # fmt: skip


class Family:
    """All that `resolve` reads of a family."""

    budget = FAMILY
    shares = staticmethod(lambda arch, other: None)


def engine(run: Run, config: RunConfig) -> tuple[Any, ...]:
    """All that the search and the stages are told."""
    resolved = lifecycle.resolve(config, Family())  # type: ignore[arg-type]
    ctx = workflow.context(run, resolved, None, lambda name: Family(), print)  # type: ignore[arg-type, return-value]
    limited = resolved.limits != RunConfig().limits
    stages = recipes.make(resolved.compression.recipe, resolved.compression, epochs=6, limited=limited)
    endless = ctx.deadline.left() > 1e9
    return workflow.settings_of(resolved), stages, ctx.seed, ctx.threads, ctx.limits, endless


@pytest.mark.parametrize(("field", "about"), ENGINE, ids=[field.name for field, _ in ENGINE])
def test_every_option_reaches_the_engine(
    field: Field[Any], about: Option, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEARCHKIT_STORAGE", "")
    run = Run.create(tmp_path, "r", {})
    before = RunConfig.from_options(space="mlp", device="cpu", **WITH.get(field.name, {}))
    after = RunConfig.from_options(
        **{"space": "mlp", "device": "cpu", **WITH.get(field.name, {}), field.name: about.example}
    )
    assert engine(run, before) == engine(run, before)
    assert engine(run, after) != engine(run, before), f"{field.name} is ignored"


def test_the_budget_of_the_family_is_the_default() -> None:
    settings = workflow.settings_of(lifecycle.resolve(RunConfig(), Family()))  # type: ignore[arg-type]
    assert settings.budget == FAMILY and settings.plans_epochs
    timed = lifecycle.resolve(RunConfig.from_options(time_budget="1m"), Family())  # type: ignore[arg-type]
    assert timed.budget.budget() == replace(FAMILY, trials=1000, seconds=60.0), "the time alone ends the search"
    chosen = lifecycle.resolve(RunConfig.from_options(epochs=9), Family())  # type: ignore[arg-type]
    assert not workflow.settings_of(chosen).plans_epochs, "the user's epochs stay"


def test_without_a_limit_the_cheapest_of_equals_is_sought_and_with_one_the_best() -> None:
    assert RunConfig().minimized == "params"
    assert RunConfig.from_options(max_size="1MB").minimized is None
    assert RunConfig.from_options(max_size="1MB", minimize="macs").minimized == "macs"
    assert RunConfig.from_options(minimize="none").minimized is None


def test_a_report_goes_to_the_run_or_to_the_named_folder(tmp_path: Path) -> None:
    run = Run.create(tmp_path, "r", {})
    assert lifecycle.report_folder(run, None) == run.path / "report"
    assert lifecycle.report_folder(run, "public") == Path("public/r")


def test_a_raised_budget_is_stored_with_the_words_that_raised_it(tmp_path: Path) -> None:
    from searchkit.config.limits import BudgetConfig

    config = RunConfig(budget=BudgetConfig(trials=2))
    run = lifecycle.start(
        config, registry.load({"task": "iris"}), root=tmp_path, name="r", command=["searchkit", "search"]
    )
    workers = lifecycle.config_of(run).search.workers
    lifecycle.extend(run, BudgetConfig(trials=5), ["--trials", "5"])
    again = Run.open(run.path)
    assert lifecycle.config_of(again) == replace(
        config, budget=BudgetConfig(trials=5), search=replace(config.search, workers=workers)
    )
    assert again.config["command"] == ["searchkit", "search", "--trials", "5"]
    assert again.config["changes"][0]["budget_before"]["trials"] == 2
