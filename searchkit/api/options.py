"""What `search` takes beside the data, as the configuration of a run: each value is checked here, once.

`run_config` is the only function that knows how the workflow wants its configuration.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypedDict

from searchkit.core import quantities
from searchkit.core.errors import BadInput
from searchkit.core.serialization import JSON
from searchkit.core.space import Budget, Limits

if TYPE_CHECKING:
    from searchkit.run import Run
    from searchkit.workflow import RunConfig

MANY_TRIALS = 1000
"""The number of trials if a time budget alone is to end the search."""


class Options(TypedDict, total=False):
    """Options of `search`, each with the default and the meaning of the command line's flag of the same name.

    Data: modality, kind, test_files, anomaly, noise, features, steps, split_seed, encoding, tokens, vocabulary, window,
    horizon, split, time_column. Search: seed, sampler, minimize, workers, executor, address, storage, device.
    Compression: recipe, prune_to, prune_by, importance, max_drop, max_rise.
    """

    modality: str
    kind: str
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


OF_DATA = (
    "modality", "kind", "test_files", "anomaly", "noise", "features", "steps", "split_seed", "encoding", "tokens",
    "vocabulary", "window", "horizon", "split", "time_column",
)  # fmt: skip
OF_COMPRESSION = ("prune_to", "prune_by", "importance", "max_drop", "max_rise")
OF_RUN = ("seed", "sampler", "workers", "executor", "address", "device", "recipe")

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
        amount = quantities.parse(kind, str(value), f"the limit {name}")
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
    seconds = math.inf if time is None else quantities.parse("duration", str(time), "the time budget")
    for name, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadInput(f"A budget of {value!r} {name} is not possible; give a whole number from 1 on.")
    if "trials" not in given and time is not None:
        given["trials"] = MANY_TRIALS
    return replace(default, seconds=seconds, **given)


def run_config(
    space: str,
    source: Mapping[str, JSON],
    *,
    limits: Limits,
    budget: Budget,
    fixed_epochs: bool,
    options: Mapping[str, Any],
) -> RunConfig:
    """The configuration of a run: the one place that knows how the workflow wants it.

    Args:
        space: a family's name, or the path of its file.
        source: the fields of `Source` that say where the data are.
        limits: hard limits; {} if there are none.
        budget: how much may be spent.
        fixed_epochs: whether the number of epochs is the user's own, which a plan must not change.
        options: as `Options`.

    Raises:
        BadInput: an option is unknown, or its value is not allowed.
    """
    from searchkit.search.storage import without_password
    from searchkit.stages import recipes
    from searchkit.workflow import RunConfig, settings_of

    require_known(options, [*Options.__annotations__], "option")
    recipe = options.get("recipe", "compact")
    if recipe not in recipes.NAMES:
        raise BadInput(f"No recipe named '{recipe}'; it is one of {', '.join(recipes.NAMES)}.")
    minimize = options.get("minimize", "params" if limits == Limits() else "none")
    storage = options.get("storage")
    executor = options.get("executor", "processes")
    config = RunConfig(
        space=space,
        source={**source, **{name: options[name] for name in OF_DATA if options.get(name) is not None}},
        budget=budget,
        limits=limits,
        wish=compression(options),
        minimize=None if minimize == "none" else minimize,
        storage=None if storage is None else without_password(storage),
        fixed_epochs=fixed_epochs,
        **{"workers": 1 if executor == "inline" else None, **{k: options[k] for k in OF_RUN if k in options}},
    )
    if config.address is not None and config.executor != "ray":
        raise BadInput(f"The address {config.address} is for a Ray cluster; add executor='ray', or leave it out.")
    settings_of(config)
    return config


def compression(options: Mapping[str, Any]) -> Any:
    """The options of the stages as `CompressionConfig`. Raises BadInput."""
    from searchkit.stages.prune import Prune
    from searchkit.stages.recipes import CompressionConfig

    known = {field.name for field in fields(CompressionConfig)}
    config = CompressionConfig(**{name: value for name, value in options.items() if name in known})
    Prune(by=config.prune_by, importance=config.importance)  # which knows their names
    return config


def words(config: RunConfig, name: str) -> list[str]:
    """The command line that makes the same run, word by word, as `run.json` keeps it."""
    from dataclasses import asdict

    from searchkit.workflow import RunConfig

    plain: dict[str, JSON] = dict(config.source)
    limits = {f"max_{name}": getattr(config.limits, field) for name, (_, field) in LIMITS.items()}
    time = None if math.isinf(config.budget.seconds) else f"{config.budget.seconds:g}s"
    plain |= {"trials": config.budget.trials, "time_budget": time, **limits}
    plain |= {"epochs": config.budget.epochs if config.fixed_epochs else None, "rungs": config.budget.rungs}
    plain |= {"minimize": config.minimize or "none", "name": name}
    default = RunConfig(space="", source={})
    for given, usual in ((asdict(config.wish), asdict(default.wish)), (vars(config), vars(default))):
        kept = (*OF_COMPRESSION, *OF_RUN, "storage")
        plain |= {k: v for k, v in given.items() if k in kept and v != usual[k]}
    flags = [(f"--{key.replace('_', '-')}", str(value)) for key, value in plain.items() if value is not None]
    return ["searchkit", "search", "--space", config.space, *(word for flag in flags for word in flag)]


def require_known(given: Mapping[str, Any], known: Any, what: str) -> None:
    """Raises BadInput on an unknown key, with the nearest one."""
    for name in given:
        if name not in known:
            near = get_close_matches(str(name), list(known), n=1)
            hint = f"Did you mean '{near[0]}'?" if near else f"there is {', '.join(known)}."
            raise BadInput(f"No {what} named '{name}'{'. ' if near else '; '}{hint}")


def config_of(run: Run) -> RunConfig:
    """The configuration of a run that is on disk. Raises BadInput if it cannot be read."""
    from searchkit.workflow import RunConfig

    return RunConfig.parse(run.config["question"])
