"""The configuration in run.json, as this release writes it and as the last one did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from searchkit.config.run import SECTIONS, RunConfig
from searchkit.config.sources import merge, tables_of
from searchkit.core.errors import BadInput
from searchkit.core.serialization import JSON, freeze
from searchkit.data import problems

KEY = "config"
"""The key of run.json that holds the configuration."""

OLD_KEY = "question"
"""The same in runs of the last release."""

OLD_SEARCH = ("space", "sampler", "minimize", "seed", "workers", "executor", "address", "storage", "device")
OLD_LIMITS = {"size_bytes": "max_size", "latency_ms": "max_latency", "params": "max_params", "macs": "max_macs"}
OLD_BUDGET = ("trials", "epochs", "rungs", "eta", "least_rung_steps")


LATER = {"search": ("strategy", "prior", "init_from", "gpus_per_trial", "workers_per_trial")}
"""Fields by section that runs of this release may lack: they were begun before there was the option."""


def plain(config: RunConfig) -> dict[str, JSON]:
    """The configuration as JSON: a table for each section, with every field."""
    found: dict[str, JSON] = freeze(config)
    return found


def parse(run_json: Mapping[str, JSON], where: str) -> RunConfig:
    """Read the configuration of a run.

    Args:
        run_json: what run.json holds.
        where: the words that name the file, such as "run.json of the run 'first'".

    Raises:
        BadInput: the configuration is not there, or a field of it is unknown, of another type or out of range.
    """
    if KEY not in run_json and OLD_KEY not in run_json:
        raise BadInput(f"There is no '{KEY}' in {where}, so nothing says what was asked; start a new run.")
    key = KEY if KEY in run_json else OLD_KEY
    tables = _table(run_json, key, where)
    values = tables_of(_as_now(tables, where) if key == OLD_KEY else tables, where, SECTIONS)
    if key == KEY:
        _require_whole(tables, where)
    return RunConfig.of(merge([values]))


def as_question(config: RunConfig) -> dict[str, JSON]:
    """The configuration in the flat shape that reports and other programs read."""
    budget = config.budget.budget()
    return {
        **{name: getattr(config.search, name) for name in (*OLD_SEARCH, *LATER["search"])},
        "sampler": config.search.own_sampler or config.search.sampler,
        "minimize": config.minimized,
        "source": config.data.plain(),
        "recipe": config.compression.shown_recipe,
        "wish": freeze(config.compression),
        "limits": freeze(config.limits.limits()),
        # The option's None instead of the budget's infinity, which JSON does not have.
        "budget": {**freeze(budget), "seconds": config.budget.time_budget},
    }


def _require_whole(tables: Mapping[str, Any], where: str) -> None:
    """Raises BadInput if a table or a field is not there: `plain` has written all of them."""
    for name, section in SECTIONS.items():
        for field in fields(section):
            if field.name not in tables.get(name, {}) and field.name not in LATER.get(name, ()):
                missing = f"{KEY}.{name}.{field.name}"
                raise BadInput(f"In {where}, the field '{missing}' is missing; restore the file, or start a new run.")


def _table(plain: Mapping[str, JSON], key: str, where: str) -> dict[str, Any]:
    """Raises BadInput if the value of the key is missing or no object."""
    value = plain.get(key, {})
    if not isinstance(value, Mapping):
        raise BadInput(f"The field '{key}' in {where} is no object; start a new run.")
    return dict(value)


def _as_now(old: Mapping[str, JSON], where: str) -> dict[str, Any]:
    """The tables of this release from the configuration of the last one."""
    source, limits, budget, wish = (_table(old, key, where) for key in ("source", "limits", "budget", "wish"))
    if "kind" in source:
        kind = source.pop("kind")
        source["problem"] = problems.shown(kind) if isinstance(kind, str) else kind
    search = {"sampler": "tpe", **{name: old[name] for name in OLD_SEARCH if name in old}}  # the default of its time
    if "minimize" in search:
        search["minimize"] = search["minimize"] or "none"  # None meant the metric alone
    recipe = old.get("recipe", "compact")
    return {
        "data": source,
        "search": search,
        "budget": {
            **{name: budget[name] for name in OLD_BUDGET if name in budget},
            "time_budget": budget.get("seconds"),
            "fixed_epochs": old.get("fixed_epochs", False),
        },
        "limits": {OLD_LIMITS.get(name, name): value for name, value in limits.items()},
        "compression": {**wish, "recipe": "distill" if recipe == "distil" else recipe},
    }
