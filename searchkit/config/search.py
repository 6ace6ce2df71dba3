"""How to search: the family, the sampler, and the machines that train."""

from __future__ import annotations

from dataclasses import dataclass

from searchkit.config import naming
from searchkit.config.options import option, settle
from searchkit.core.errors import BadInput

SAMPLERS = ("gp", "tpe", "nsga2", "random", "grid")
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
        "Family of networks to search, by name (`searchkit spaces` lists them) or as the path of your own file. "
        "Several between commas share one search, and `all` takes those that accept the data.",
        usual="required",
        example="cnn",
    )
    sampler: str = option("gp", "Algorithm that proposes the next network.", choices=SAMPLERS, example="nsga2")
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
    gpus_per_trial: float | None = option(
        None,
        "GPUs of a Ray cluster for each training, such as 0.5 for two trainings on one GPU.",
        kind="number",
        low=0,
        above=True,
        usual="with a GPU here, one GPU shared by all workers; else none",
        example="0.5",
    )
    workers_per_trial: int = option(
        1,
        "Number of Ray workers that train one network together, each on its share of every batch.",
        kind="whole",
        low=1,
        example="2",
    )
    storage: str | None = option(
        None,
        "URL of a database that several searches share, for one study on many machines.",
        usual="a file in the run",
        example="postgresql://user@host/db",
    )
    device: str = option("auto", "Device that trains the networks.", choices=DEVICES, example="cpu")
    prior: str | None = option(
        None,
        "Earlier run of the same kind of task, by name or path, whose best trials are tried first.",
        usual="none",
        example="cnn-digits-1",
    )
    init_from: str | None = option(
        None,
        "Trained weights to start from: a .safetensors file, a run, or the bundle inside of a run. Layers are matched "
        "by name and shape.",
        usual="random weights",
        example="runs/cnn-digits-1",
    )
    own_sampler: str | None = option(None, "Name of a sampler that was given as a value.", internal=True)
    own_metric: str | None = option(None, "Name of a metric that was given as a value.", internal=True)

    def __post_init__(self) -> None:
        settle(self)
        if self.address is not None and self.executor != "ray":
            raise BadInput(
                f"{naming.given('address', self.address)} is for a Ray cluster; add "
                f"{naming.advice('executor', 'ray')}, or leave it out."
            )
        if self.init_from is not None and self.strategy != "trials":
            raise BadInput(
                f"{naming.given('init_from', self.init_from)} and {naming.given('strategy', self.strategy)} both say "
                "which weights networks start from; leave one of them out."
            )
        self._require_ray_for("gpus_per_trial", self.gpus_per_trial is not None)
        self._require_ray_for("workers_per_trial", self.workers_per_trial > 1)
        self._require_shares()
        if self.executor == "inline" and (self.workers or 1) > 1:
            raise BadInput(
                f"{naming.given('workers', self.workers)} needs processes of its own, and "
                f"{naming.advice('executor', 'inline')} has one; leave one of them out."
            )
        if self.executor == "inline":
            object.__setattr__(self, "workers", 1)

    def _require_ray_for(self, name: str, given: bool) -> None:
        if given and self.executor != "ray":
            raise BadInput(
                f"{naming.given(name, getattr(self, name))} is for Ray; add {naming.advice('executor', 'ray')}, "
                "or leave it out."
            )

    def _require_shares(self) -> None:
        """Raise BadInput if workers or GPUs cannot be shared out among trainings."""
        each = self.workers_per_trial
        if self.workers is not None and self.workers % each:
            raise BadInput(
                f"{naming.given('workers', self.workers)} cannot be shared out by "
                f"{naming.given('workers_per_trial', each)}; give a multiple of {each}."
            )
        gpus = (self.gpus_per_trial or 0.0) / each
        if gpus > 1 and not gpus.is_integer():
            raise BadInput(
                f"{naming.given('gpus_per_trial', self.gpus_per_trial)} gives each worker {gpus:g} GPUs; Ray shares "
                "out parts of one GPU or whole GPUs, so give a worker at most 1 or a whole number."
            )
