"""How to search: the family, the sampler, and the machines that train."""

from __future__ import annotations

from dataclasses import dataclass

from searchkit.config import naming
from searchkit.config.options import option, settle
from searchkit.core.errors import BadInput

SAMPLERS = ("tpe", "nsga2", "random", "grid")
STRATEGIES = ("trials", "inherit", "supernet")
EXECUTORS = ("inline", "processes", "ray")
DEVICES = ("auto", "cpu", "cuda")
COSTS = {"latency": "latency_ms", "size": "size_bytes", "macs": "macs", "params": "params"}
"""What the user may minimize, and its name among the metrics of an artifact."""


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """How to search.

    Raises:
        BadInput: a value is not allowed, or two of them do not go together.
    """

    space: str | None = option(
        None,
        "Family of networks to search, by name (`searchkit spaces` lists them) or as the path of your own file.",
        usual="required",
        example="cnn",
    )
    sampler: str = option("tpe", "Algorithm that proposes the next network.", choices=SAMPLERS, example="nsga2")
    strategy: str = option(
        "trials",
        "Source of the weights that networks start from: random numbers (trials), a trained network that has at least "
        "half of them (inherit), or one network that is trained first and holds all others (supernet).",
        choices=STRATEGIES,
        example="supernet",
    )
    minimize: str | None = option(
        None,
        "Cost to minimize beside the metric.",
        choices=(*COSTS, "none"),
        usual="params; none if a limit is set",
        example="latency",
    )
    seed: int = option(
        0, "Seed of the search and of every training in it.", kind="whole", low=0, high=2**31 - 1, example="1"
    )
    workers: int | None = option(
        None,
        "Number of worker processes, which use one thread each.",
        kind="whole",
        low=1,
        usual="one for each core; at most 2 with a GPU",
        example="4",
    )
    executor: str = option(
        "processes",
        "Executor that trains the networks: in this process, in local processes, or on a Ray cluster.",
        choices=EXECUTORS,
        example="ray",
    )
    address: str | None = option(
        None, "Address of a running Ray cluster.", usual="a cluster on this machine", example="10.0.0.1:6379"
    )
    storage: str | None = option(
        None,
        "URL of a database that several searches share, for one study on many machines.",
        usual="a file in the run",
        example="postgresql://user@host/db",
    )
    device: str = option("auto", "Device that trains the networks.", choices=DEVICES, example="cpu")
    own_sampler: str | None = option(None, "Name of a sampler that was given as a value.", internal=True)
    own_metric: str | None = option(None, "Name of a metric that was given as a value.", internal=True)

    def __post_init__(self) -> None:
        settle(self)
        if self.address is not None and self.executor != "ray":
            raise BadInput(
                f"{naming.given('address', self.address)} is for a Ray cluster; add "
                f"{naming.advice('executor', 'ray')}, or leave it out."
            )
        if self.executor == "inline" and (self.workers or 1) > 1:
            raise BadInput(
                f"{naming.given('workers', self.workers)} needs processes of its own, and "
                f"{naming.advice('executor', 'inline')} has one; leave one of them out."
            )
        if self.executor == "inline":
            object.__setattr__(self, "workers", 1)
