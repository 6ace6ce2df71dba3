"""The flags of the command line as a Question: every value is checked here, and named with what is allowed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from searchkit.core import quantities
from searchkit.core.errors import BadInput
from searchkit.core.serialization import JSON
from searchkit.core.space import Budget, Limits
from searchkit.stages import recipes
from searchkit.workflow import RunConfig

MANY_TRIALS = 1000
"""Where a time budget alone is to end the search."""


def question(given: Mapping[str, JSON], task: str | None, *, space: str) -> RunConfig:
    """The flags as a Question, without its budget, which is the family's to begin with. Raises BadInput."""

    def quantity(kind: str, flag: str) -> float | None:
        text = given[flag]
        return None if text is None else quantities.parse(kind, text, "--" + flag.replace("_", "-"))

    def whole(kind: str, flag: str) -> int | None:
        value = quantity(kind, flag)
        if value is not None and value < 1:
            raise BadInput(
                f"--{flag.replace('_', '-')} '{given[flag]}' is less than one; it is a whole number from 1 on."
            )
        return None if value is None else int(value)

    executor = choice(given, "executor", ("inline", "processes", "ray"))
    if given["address"] is not None and executor != "ray":
        raise BadInput(f"--address {given['address']} is for a Ray cluster; add --executor ray, or leave it out.")
    source = {
        "task": None if given["data"] is not None and given["task"] is None else task,
        "data": None if given["data"] is None else str(given["data"].resolve()),
        "test_data": None if given["test_data"] is None else str(given["test_data"].resolve()),
        "test_files": given["test_files"],
        "target": given["target"],
        "modality": given["modality"],
        "kind": given["kind"],
        "anomaly": given["anomaly"],
        "noise": given["noise"],
        "features": given["features"],
        "steps": given["steps"],
        "split_seed": given["split_seed"] or None,
        "encoding": given["encoding"],
        "tokens": given["tokens"],
        "vocabulary": given["vocabulary"],
        "window": given["window"],
        "horizon": given["horizon"],
        "split": given["split"],
        "time_column": given["time_column"],
    }
    limits = Limits(
        size_bytes=whole("size", "max_size"),
        latency_ms=quantity("latency", "max_latency"),
        params=whole("count", "max_params"),
        macs=whole("count", "max_macs"),
    )
    # who sets a limit has said what the network may cost: within it the best is wanted, not the cheapest
    by_default = "params" if limits == Limits() else "none"
    asked = {**given, "minimize": by_default if given["minimize"] is None else given["minimize"]}
    minimize = choice(asked, "minimize", ("latency", "size", "macs", "params", "none"))
    return RunConfig(
        space=space,
        source={key: value for key, value in source.items() if value is not None},
        limits=limits,
        wish=wish(given),
        recipe=choice(given, "recipe", tuple(recipes.NAMES)),
        sampler=choice(given, "sampler", ("tpe", "nsga2", "random", "grid")),
        minimize=None if minimize == "none" else minimize,
        seed=given["seed"],
        workers=workers(given["workers"], executor),
        executor=executor,
        address=given["address"],
        storage=storage(given["storage"]),
        device=choice(given, "device", ("auto", "cpu", "cuda")),
    )


def choice(given: Mapping[str, JSON], flag: str, allowed: tuple[str, ...]) -> str:
    if given[flag] not in allowed:
        name = flag.replace("_", "-")
        raise BadInput(f"--{name} '{given[flag]}' is not known; it is one of {', '.join(allowed)}.")
    return str(given[flag])


def wish(given: Mapping[str, JSON]) -> recipes.CompressionConfig:
    """What `search` and `compress` ask of the stages. Raises BadInput."""
    if given["prune_to"] is not None and not 0 < given["prune_to"] < math.inf:
        raise BadInput(f"--prune-to {given['prune_to']} leaves nothing; give a share in (0, 1) or an absolute target.")
    if not 0 <= given["max_drop"] < 1:
        raise BadInput(f"--max-drop {given['max_drop']} is not a drop of the metric; it lies in [0, 1), such as 0.005.")
    if not 0 <= given["max_rise"] < math.inf:
        raise BadInput(f"--max-rise {given['max_rise']} is not a rise of an error; it is 0 or more, such as 0.02.")
    distill = {name: given[name] for name in ("student", "temperature", "teacher_weight", "ensemble") if name in given}
    return recipes.CompressionConfig(
        **distill,
        prune_to=given["prune_to"],
        prune_by=choice(given, "prune_by", ("params", "size", "macs", "latency")),
        importance=choice(given, "importance", ("l1", "l2", "taylor", "bn", "random")),
        max_drop=given["max_drop"],
        max_rise=given["max_rise"],
    )


def workers(wanted: int | None, executor: str) -> int | None:
    """None leaves the number to the machine, which is looked at when a run starts."""
    if wanted is not None and wanted < 1:
        raise BadInput(f"--workers {wanted} trains nothing; it must be at least 1.")
    if executor == "inline" and (wanted or 1) > 1:
        raise BadInput(f"--workers {wanted} need processes of their own, and --executor inline has one; leave one out.")
    return 1 if executor == "inline" else wanted


def storage(url: str | None) -> str | None:
    """Without its password, which no file is to hold."""
    if url is None:
        return None
    from searchkit.search.storage import without_password

    return without_password(url)


def budget(given: Mapping[str, JSON], default: Budget) -> Budget:
    """Without a number of trials, a time budget alone decides when the search ends."""
    seconds = (
        math.inf
        if given["time_budget"] is None
        else quantities.parse("duration", given["time_budget"], "--time-budget")
    )
    trials, epochs, rungs = given["trials"], given["epochs"], given["rungs"]
    for flag, value in (("trials", trials), ("epochs", epochs), ("rungs", rungs)):
        if value is not None and value < 1:
            raise BadInput(f"--{flag} {value} trains nothing; it must be at least 1.")
    if trials is None:
        trials = default.trials if math.isinf(seconds) else MANY_TRIALS
    return replace(
        default, trials=trials, epochs=epochs or default.epochs, rungs=rungs or default.rungs, seconds=seconds
    )


def raised(given: Mapping[str, JSON], before: Budget) -> Budget:
    """The budget of a run that goes on, with what --trials and --time-budget add to it. Raises BadInput where they
    would take away: what is spent cannot be had back.
    """
    trials, text = given["trials"], given["time_budget"]
    if trials is not None and trials < before.trials:
        raise BadInput(f"--trials {trials} is below the run's own {before.trials}; --resume can only raise it.")
    seconds = before.seconds if text is None else quantities.parse("duration", text, "--time-budget")
    if seconds < before.seconds:
        own = (
            "no time budget, so it has no end"
            if math.isinf(before.seconds)
            else quantities.show_seconds(before.seconds)
        )
        raise BadInput(f"--time-budget {text} is below the run's own ({own}); --resume can only raise it.")
    return replace(before, trials=trials or before.trials, seconds=seconds)
