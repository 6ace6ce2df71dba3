"""What `search` takes beside the data, as the configuration of a run: each value is checked here, once.

`run_config` is the only function that knows how the workflow wants its configuration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from difflib import get_close_matches
from typing import Any, TypedDict

from searchkit.config import naming
from searchkit.config.compression import RECIPES, CompressionConfig
from searchkit.config.limits import MANY_TRIALS, BudgetConfig
from searchkit.config.run import RunConfig, every_option
from searchkit.config.sources import RENAMED
from searchkit.core import quantities
from searchkit.core.errors import BadInput
from searchkit.core.serialization import JSON
from searchkit.core.space import Budget, Limits


class Options(TypedDict, total=False):
    """Options of `search`, each with the default and the meaning of the command line's flag of the same name.

    Data: modality, problem, test_files, anomaly, noise, features, steps, split_seed, encoding, tokens, vocabulary,
    window, horizon, split, time_column. Search: seed, sampler, minimize, workers, executor, address, storage, device.
    Compression: recipe, prune_to, prune_by, importance, max_drop, max_rise.
    """

    modality: str
    problem: str
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
    sampler: str
    minimize: str
    workers: int
    executor: str
    address: str
    storage: str
    device: str
    recipe: str
    prune_to: float
    prune_by: str
    importance: str
    max_drop: float
    max_rise: float


class Compression(TypedDict, total=False):
    """Options of `compress`, each with the default and the meaning of the command line's flag of the same name."""

    recipe: str
    prune_to: float
    prune_by: str
    importance: str
    max_drop: float
    max_rise: float
    student: int
    temperature: float
    teacher_weight: float
    ensemble: int


LIMITS = {"size": ("size", "size_bytes"), "latency": ("latency", "latency_ms"), "params": ("count", "params"),
          "macs": ("count", "macs")}  # fmt: skip
"""What a limit is called in `limits`, the kind of its quantity, and its field of `Limits`."""


def as_limits(limits: Limits | Mapping[str, Any] | None) -> Limits:
    """Hard limits from a dictionary such as {"size": "100KB", "latency": "2ms", "params": "50k", "macs": "5M"}.

    A number stands for bytes, milliseconds, or a count.

    Raises:
        BadInput: a key is unknown, or a value is not such a quantity above zero.
    """
    if limits is None or isinstance(limits, Limits):
        return limits or Limits()
    require_known(limits, LIMITS, "limit")
    found: dict[str, Any] = {}
    for name, value in limits.items():
        kind, field = LIMITS[name]
        amount = quantities.parse(kind, str(value), f"The limit {name} '{value}'")
        if field != "latency_ms" and amount < 1:
            raise BadInput(f"The limit {name} {value} is below one; it is a whole number from 1 on.")
        found[field] = amount if field == "latency_ms" else int(amount)
    return Limits(**found)


def as_budget(budget: Budget | Mapping[str, Any] | str | None, default: Budget) -> Budget:
    """How much a search may spend.

    Args:
        budget: a `Budget`; a dictionary with some of trials, epochs, rungs and time ("30m", or seconds); a text is the
            time alone.
        default: the family's own, which fills in what is left out.

    Raises:
        BadInput: a key is unknown, or a value is below one.
    """
    if budget is None or isinstance(budget, Budget):
        return budget or default
    given: dict[str, Any] = {"time": budget} if isinstance(budget, str) else dict(budget)
    require_known(given, ("trials", "epochs", "rungs", "time"), "part of a budget")
    time = given.pop("time", None)
    seconds = math.inf if time is None else quantities.parse("duration", str(time), f"The time budget '{time}'")
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadInput(f"A budget of {value!r} {name} is not possible; give a whole number from 1 on.")
    if "trials" not in given and time is not None:
        given["trials"] = MANY_TRIALS
    return replace(default, seconds=seconds, **given)


def run_config(
    space: str,
    data: Mapping[str, JSON],
    *,
    limits: Limits,
    budget: Budget,
    fixed_epochs: bool,
    output: Mapping[str, Any],
    options: Mapping[str, Any],
) -> RunConfig:
    """The configuration of a run: the one place that knows how the workflow wants it.

    Args:
        space: a family's name, or the path of its file.
        data: the options that say where the data are.
        limits: hard limits.
        budget: how much may be spent.
        fixed_epochs: whether the number of epochs is the user's own, which a plan must not change.
        output: the folder of runs, and the name of the run if it has one.
        options: as `Options`.

    Raises:
        BadInput: an option is unknown, or its value is not allowed.
    """
    require_known(options, [*Options.__annotations__, *RENAMED], "option")
    at_most = {f"max_{name}": getattr(limits, field) for name, (_, field) in LIMITS.items()}
    config = RunConfig.from_options(space=space, **data, **at_most, **output, **options)
    return replace(config, budget=budget_config(budget, fixed_epochs))


def budget_config(budget: Budget, fixed_epochs: bool) -> BudgetConfig:
    """A budget as the configuration has it.

    Args:
        budget: all of it.
        fixed_epochs: whether the number of epochs is the user's own, which a plan must not change.
    """
    numbers = asdict(budget)
    seconds = numbers.pop("seconds")
    return BudgetConfig(time_budget=seconds if math.isfinite(seconds) else None, fixed_epochs=fixed_epochs, **numbers)


def compression(options: Mapping[str, Any]) -> CompressionConfig:
    """The options of `compress` as the configuration has them. Raises BadInput."""
    require_known(options, [*Compression.__annotations__], "option")
    config = RunConfig.from_options(**options).compression
    if config.recipe == "none":
        allowed = ", ".join(name for name in RECIPES if name != "none")
        raise BadInput(f"The recipe 'none' compresses nothing; it is one of {allowed}.")
    return config


def words(config: RunConfig, name: str) -> list[str]:
    """The command line that makes the same run, word by word, as `run.json` keeps it.

    Args:
        config: the configuration with the budget filled in, see `lifecycle.resolve`.
        name: the name of the run.
    """
    found = ["searchkit", "search"]
    for section, declared, _ in every_option():
        value = getattr(getattr(config, section), declared.name)
        if declared.name == "name":
            value = name
        elif declared.name == "epochs" and not config.budget.fixed_epochs:
            continue  # as a flag they would be the user's own
        if value is not None and value != declared.default:
            found += [f"--{declared.name.replace('_', '-')}", naming.plain_number(value)]
    return found


def require_known(given: Mapping[str, Any], known: Any, what: str) -> None:
    """Raises BadInput on an unknown key, with the nearest one."""
    for name in given:
        if name not in known:
            near = get_close_matches(str(name), list(known), n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"there is {', '.join(known)}."
            raise BadInput(f"No {what} named '{name}'{'. ' if near else '; '}{hint}")
