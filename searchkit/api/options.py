"""What `search` takes beside the data, as the configuration of a run. The configuration itself checks each value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, TypedDict

from searchkit.config import sources
from searchkit.config.compression import CompressionConfig
from searchkit.config.options import options
from searchkit.config.run import SECTIONS, RunConfig, make_section
from searchkit.core.errors import BadInput
from searchkit.core.serialization import JSON
from searchkit.core.space import Budget, Limits


class Options(TypedDict, total=False):
    """Options of `search`, each with the default and the meaning of the command line's flag of the same name.

    Data: problem, modality, test_files, anomaly, noise, features, steps, split_seed, encoding, tokens, vocabulary,
    window, horizon, split, time_column. Search: seed, strategy, minimize, workers, executor, address, gpus_per_trial,
    workers_per_trial, storage, device, prior, init_from.
    Compression: prune_to, prune_by, importance, max_drop, max_rise. Output: reports.
    """

    problem: str
    modality: str
    test_files: str
    anomaly: str
    noise: str
    features: str
    steps: int
    split_seed: int
    encoding: str
    tokens: str
    vocabulary: int
    window: int
    horizon: int
    split: str
    time_column: str
    seed: int
    strategy: str
    minimize: str
    workers: int
    executor: str
    address: str
    gpus_per_trial: float
    workers_per_trial: int
    storage: str
    device: str
    prior: str
    init_from: str
    prune_to: float
    prune_by: str
    importance: str
    max_drop: float
    max_rise: float
    reports: str


class Compression(TypedDict, total=False):
    """Options of `compress`, each with the default and the meaning of the command line's flag of the same name."""

    prune_to: float
    prune_by: str
    importance: str
    max_drop: float
    max_rise: float
    student: int
    temperature: float
    teacher_weight: float
    ensemble: int


LIMITS = {"size": "size_bytes", "latency": "latency_ms", "params": "params", "macs": "macs"}
"""What a limit is called in `limits`, and its field of `Limits`. The option is called max_ and the same."""

BUDGET = {"trials": "trials", "epochs": "epochs", "rungs": "rungs", "time": "time_budget"}
"""What a part of a budget is called in `budget`, and the option."""


def limit_options(limits: Limits | Mapping[str, Any] | None) -> dict[str, Any]:
    """Hard limits as options, from a dictionary such as {"size": "100KB", "latency": "2ms", "params": "50k"}.

    A number stands for bytes, milliseconds, or a count.

    Raises:
        BadInput: a key is unknown.
    """
    if isinstance(limits, Limits):
        return {f"max_{name}": getattr(limits, field) for name, field in LIMITS.items()}
    require_known(limits or {}, LIMITS, "limit")
    return {f"max_{name}": value for name, value in (limits or {}).items()}


def budget_options(budget: Budget | Mapping[str, Any] | str | None) -> dict[str, Any]:
    """How much a search may spend, as options.

    Args:
        budget: a `Budget`; a dictionary with some of trials, epochs, rungs and time ("30m", or seconds); a text is the
            time alone.

    Raises:
        BadInput: a key is unknown.
    """
    if isinstance(budget, Budget):
        found = {name: getattr(budget, name) for name in ("trials", "epochs", "rungs")}
        return {**found, "time_budget": None if math.isinf(budget.seconds) else budget.seconds}
    given: Mapping[str, Any] = {"time": budget} if isinstance(budget, str) else budget or {}
    require_known(given, BUDGET, "part of a budget")
    return {BUDGET[name]: value for name, value in given.items()}


def run_config(
    space: str,
    source: Mapping[str, JSON],
    *,
    limits: Limits | Mapping[str, Any] | None,
    budget: Budget | Mapping[str, Any] | str | None,
    given: Mapping[str, Any],
) -> RunConfig:
    """The configuration of a run from what `search` was given.

    Args:
        space: a family's name, or the path of its file.
        source: the options that say where the data are.
        limits: see `limit_options`.
        budget: see `budget_options`.
        given: as `Options`.

    Raises:
        BadInput: an option is unknown, or its value is not allowed.
    """
    config = RunConfig.from_options(
        space=space, **{**given, **source, **limit_options(limits), **budget_options(budget)}
    )  # fmt: skip
    if isinstance(budget, Budget):
        # These two are internal options, which are not accepted as keywords.
        config = replace(
            config, budget=replace(config.budget, eta=budget.eta, least_rung_steps=budget.least_rung_steps)
        )
    return config


def compression(given: Mapping[str, Any]) -> CompressionConfig:
    """The options of `compress` as its configuration. Raises BadInput on an unknown one, or a wrong value."""
    found: CompressionConfig = make_section(
        CompressionConfig, sources.keywords(given, {"compression": CompressionConfig})
    )
    return found


def words(config: RunConfig, name: str) -> list[str]:
    """The command line that makes the same run, word by word, as `run.json` keeps it.

    What was given by value is named in it, though the command line takes no such value.
    """
    found = ["searchkit", "search"]
    for section, kind in SECTIONS.items():
        asked, usual = getattr(config, section), kind()
        for field, _ in options(kind):
            value = name if field.name == "name" else getattr(asked, field.name)
            if value is not None and value != getattr(usual, field.name):
                text = f"{value:g}s" if field.name == "time_budget" else str(value)
                found += ["--" + field.name.replace("_", "-"), text]
    own = {
        "--sampler": config.search.own_sampler,
        "--metric": config.search.own_metric,
        "--recipe": config.compression.own_recipe,
    }
    return found + [word for flag, name in own.items() if name is not None for word in (flag, name)]


def require_known(given: Mapping[str, Any], known: Mapping[str, Any], what: str) -> None:
    """Raises BadInput on an unknown key, with the nearest one."""
    for name in given:
        if name not in known:
            near = get_close_matches(str(name), list(known), n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"there is {', '.join(known)}."
            raise BadInput(f"No {what} named '{name}'{'. ' if near else '; '}{hint}")
