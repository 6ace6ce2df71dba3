"""The flags of `search` as a Question: every value is checked here, and named with what is allowed."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import replace

from searchkit import recipes, units
from searchkit.line import Question
from searchkit.types import JSON, BadInput, Budget, Limits

MANY_TRIALS = 1000
"""Where a time budget alone is to end the search."""


def question(given: Mapping[str, JSON], task: str | None, *, space: str) -> Question:
    """The flags as a Question, without its budget, which is the family's to begin with. Raises BadInput."""

    def choice(flag: str, allowed: tuple[str, ...]) -> str:
        if given[flag] not in allowed:
            raise BadInput(f"--{flag} '{given[flag]}' is not known; it is one of {', '.join(allowed)}.")
        return str(given[flag])

    def quantity(kind: str, flag: str) -> float | None:
        text = given[flag]
        return None if text is None else units.parse(kind, text, "--" + flag.replace("_", "-"))

    def whole(kind: str, flag: str) -> int | None:
        value = quantity(kind, flag)
        return None if value is None else int(value)

    if given["prune_to"] is not None and given["prune_to"] <= 0:
        raise BadInput(f"--prune-to {given['prune_to']} leaves nothing; give a share in (0, 1) or an absolute target.")
    if not 0 <= given["max_drop"] < 1:
        raise BadInput(f"--max-drop {given['max_drop']} is not a drop of the metric; it lies in [0, 1), such as 0.005.")
    workers = given["workers"] if given["workers"] is not None else os.cpu_count() or 1
    if workers < 1:
        raise BadInput(f"--workers {workers} trains nothing; it must be at least 1.")
    source = {
        "task": None if given["data"] is not None and given["task"] is None else task,
        "data": None if given["data"] is None else str(given["data"].resolve()),
        "test_data": None if given["test_data"] is None else str(given["test_data"].resolve()),
        "target": given["target"],
        "modality": given["modality"],
        "kind": given["kind"],
    }
    minimize = choice("minimize", ("latency", "size", "macs", "params", "none"))
    return Question(
        space=space,
        source={key: value for key, value in source.items() if value is not None},
        limits=Limits(
            size_bytes=whole("size", "max_size"),
            latency_ms=quantity("latency", "max_latency"),
            params=whole("count", "max_params"),
            macs=whole("count", "max_macs"),
        ),
        wish=recipes.Wish(
            prune_to=given["prune_to"],
            prune_by=choice("prune_by", ("params", "size", "macs", "latency")),
            importance=choice("importance", ("l1", "l2", "taylor", "bn", "random")),
            max_drop=given["max_drop"],
        ),
        recipe=choice("recipe", tuple(recipes.NAMES)),
        sampler=choice("sampler", ("tpe", "nsga2", "random", "grid")),
        minimize=None if minimize == "none" else minimize,
        seed=given["seed"],
        workers=workers,
        executor=choice("executor", ("inline", "processes", "ray")),
        address=given["address"],
        storage=given["storage"],
        device=choice("device", ("auto", "cpu", "cuda")),
    )


def budget(given: Mapping[str, JSON], default: Budget) -> Budget:
    """Without a number of trials, a time budget alone decides when the search ends."""
    seconds = (
        math.inf if given["time_budget"] is None else units.parse("duration", given["time_budget"], "--time-budget")
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
