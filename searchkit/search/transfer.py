"""A search whose networks start from trained weights (`--init-from`), and the control that starts from scratch.

Every candidate takes over the layers of the file that fit it. They are held fixed for the first tenth of its training,
then everything is trained. The first candidate is the network that the weights came from, or the one of the family that
takes most of them; once it is accepted, it is trained again from scratch, with the same seed, as the control.

Only safetensors files are read: a pickle could run any code.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial

from searchkit.core.errors import BadInput, Infeasible
from searchkit.core.files import write_atomically
from searchkit.core.serialization import JSON, derive_seed, thaw
from searchkit.core.space import Space
from searchkit.core.start_files import FirstNetwork, InitialFacts
from searchkit.core.state import OPTIMIZER
from searchkit.core.task import Task
from searchkit.core.training import FitPlan, TrainState
from searchkit.nn import transfer as layers
from searchkit.run import Run
from searchkit.search.candidates import Candidate, draw
from searchkit.search.choices import Choose, at, at_random, grid_values, like
from searchkit.search.sampler import Ask, Sampler, SearchView
from searchkit.search.tally import REJECTED
from searchkit.search.weights_source import WeightsSource

if TYPE_CHECKING:
    from torch import Tensor, nn

KEY = "initial"
"""The key of run.json that says where the weights came from."""

FILE = "initial.safetensors"
"""The weights, kept with the run."""

FACT = "from_scratch"
"""The fact of a trial that is the control; no other has it."""

FROZEN = 0.1
"""Of a training, in which what was taken over is held fixed; fastai's fine_tune takes one epoch by default."""

MOST_BUILDS = 400
"""Networks that are built to find the one that takes most of a file."""

CONTROL = "from scratch, as a control"
"""The way of the control."""


# ── before the search ────────────────────────────────────────────────────────────────────────────────────────────────


def begin(source: WeightsSource, task: Task, families: Sequence[Space]) -> InitialFacts:
    """What a new run keeps of the weights that it starts from: the networks that take most of them.

    Args:
        source: The weights.
        task: Of the search.
        families: Of the search.

    Raises:
        BadInput: No layer of them fits any network of the families.
    """
    found: dict[str, FirstNetwork] = {}
    for space in families:
        first = _closest(space, task, source)
        if first is not None:
            candidate, taken, of = first
            found[space.name] = {"params": candidate.params, "taken": taken, "of": of}
    if not found:
        name, tensor = next(iter(source.weights.items()), ("nothing", None))
        example = f"'{name}' of shape {tuple(tensor.shape)}" if tensor is not None else name
        raise BadInput(
            f"No layer of {source.asked} fits a network of {', '.join(space.name for space in families)} for the task "
            f"'{task.name}': it holds {example}, and layers are matched by name and shape; name the weights of such a "
            "network, or leave it out."
        )
    return {"source": source.name, "file": str(source.file), "sha256": source.sha256, "families": found}


Fit = tuple[bool, float, int]
"""How well a network fits some weights: whether it takes any, the share of names that both have, how many it takes."""


def _closest(space: Space, task: Task, source: WeightsSource) -> tuple[Candidate, int, int] | None:
    """The network of a family that takes most of the weights, with how many of its parameters it takes and has.

    The one that they came from, if the source says which; else the best of some, improved one parameter at a time.
    Names count before shapes, for they tell how many layers there are.
    """
    rng = random.Random(0)
    ways = [at(0.5), at(0.0), at(1.0), *(at_random(rng) for _ in range(21))]
    if source.family == space.name and source.params:
        ways = [like(source.params, at(0.5))]
    best, most = max(
        ((c, _fit(space, task, source, c)) for c in (_drawn(space, task, way) for way in ways)), key=_by_fit
    )
    n_built, improved = len(ways), len(ways) > 1
    while improved and n_built < MOST_BUILDS:
        improved = False
        for name in sorted(n for n in best.params if not n.startswith("train.")):
            values = grid_values(best.distributions[name], points=33) if name in best.params else []
            others = [_drawn(space, task, like({**best.params, name: value}, at(0.5))) for value in values]
            found, fit = max(((c, _fit(space, task, source, c)) for c in [best, *others]), key=_by_fit)
            n_built += len(others)
            if fit > most:
                best, most, improved = found, fit, True
    if not most[0]:
        return None
    return best, *layers.n_taken(space.build(best.arch, task.spec), source.weights)


def _by_fit(row: tuple[Candidate, Fit]) -> Fit:
    return row[1]


def _drawn(space: Space, task: Task, way: Choose) -> Candidate:
    return draw(space, task.spec, way, epochs=1, way="transfer")


def _fit(space: Space, task: Task, source: WeightsSource, candidate: Candidate) -> Fit:
    if candidate.arch is None:
        return False, 0.0, 0
    try:
        net = space.build(candidate.arch, task.spec)
    except Infeasible:
        return False, 0.0, 0
    taken, _ = layers.n_taken(net, source.weights)
    names, known = set(net.state_dict()), set(source.weights)
    return taken > 0, len(names & known) / len(names | known), taken


# ── in the search ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Initial:
    """The weights that the networks of one family start from.

    Attributes:
        source: What the user calls them.
        data: The weights, as a safetensors buffer.
        params: Of the candidate that takes most of them.
    """

    source: str
    data: bytes
    params: Mapping[str, Any]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights by name."""
        from safetensors.torch import load

        return load(self.data)


def initial_of(run: Run) -> dict[str, Initial]:
    """What a run starts from, by family; empty if its networks start from random weights.

    The weights are copied into the run when this is first called, so that the source may go.

    Raises:
        BadInput: They are not there, or are not those that the run began with.
    """
    if KEY not in run.config:
        return {}
    facts: InitialFacts = thaw(InitialFacts, run.config[KEY], file=run.named("run.json", KEY))
    kept, source = run.path / FILE, Path(facts["file"])
    place = kept if kept.is_file() else source
    if not place.is_file():
        raise BadInput(f"The weights that the run '{run.name}' starts from are gone: {source}; put the file back.")
    data = place.read_bytes()
    if hashlib.sha256(data).hexdigest() != facts["sha256"]:
        raise BadInput(
            f"The weights that the run '{run.name}' starts from have changed ({place}); put the file back, or start a "
            "new run."
        )
    if place is source:
        write_atomically(kept, data)
    return {family: Initial(facts["source"], data, first["params"]) for family, first in facts["families"].items()}


def frozen_epochs(epochs: int) -> int:
    """Of a training of so many, in which what was taken over is held fixed; 0 if there are too few to spare one."""
    return max(1, round(FROZEN * epochs)) if epochs >= 3 else 0


@dataclass(frozen=True)
class Transferring:
    """A sampler that proposes the network of the weights first, then the same from scratch.

    Every other of the rest is that network too, trained in another way: most networks have few layers of its shapes.

    Attributes:
        sampler: Proposes the others.
        initial: The weights.
    """

    sampler: Sampler
    initial: Initial

    @property
    def name(self) -> str:
        """The sampler's own."""
        return self.sampler.name

    def propose(self, trials: Sequence[FrozenTrial], ask: Ask, view: SearchView) -> Candidate | None:
        """See `Sampler.propose`."""
        if ask.number == 0 and ask.attempt == 0:
            return view.draw(like(self.initial.params, at(0.5)), f"as in {self.initial.source}")
        accepted = [t for t in trials if t.user_attrs.get("status") != REJECTED]
        if ask.attempt == 0 and accepted and not any(FACT in t.user_attrs for t in trials):
            twin = view.draw(like(accepted[0].params, at(0.5)), CONTROL)
            return replace(twin, is_control=True)
        rng = random.Random(derive_seed(ask.seed, "transfer"))
        if rng.random() < 0.5:
            network = {name: value for name, value in self.initial.params.items() if not name.startswith("train.")}
            return view.draw(like(network, at_random(rng)), f"as in {self.initial.source}, trained otherwise")
        return self.sampler.propose(trials, ask, view)


def fit_from(task: Task, net: nn.Module, plan: FitPlan, state: TrainState, *, data: bytes, epochs: int) -> TrainState:
    """Train a network that takes over layers: the new ones alone at first, then all of them.

    Args:
        task: Trains it.
        net: A new network, or one whose training goes on.
        plan: See `Task.fit`.
        state: Where the training stands.
        data: The weights, as a safetensors buffer.
        epochs: In which what was taken over is held fixed.
    """
    from safetensors.torch import load

    weights, ends = load(data), time.monotonic() + plan.seconds
    if state.epoch == 0:
        layers.take_over_(net, weights)
    if state.epoch < epochs:
        with layers.frozen(net, weights):
            state = task.fit(net, replace(plan, until=min(epochs, plan.until)), state)
        if state.epoch >= epochs:
            # The moments are of the layers that were trained; all layers have an optimizer of their own.
            state.tensors = {k: v for k, v in state.tensors.items() if not k.startswith(OPTIMIZER)}
    if state.epoch >= plan.until or state.numbers.get("stopped_by") is not None:
        return state
    return task.fit(net, replace(plan, seconds=max(0.0, ends - time.monotonic())), state)


def notes(initial: Initial | None, space: Space, task: Task, facts: Mapping[str, JSON]) -> dict[str, JSON]:
    """What a trial's artifact says of its start; {} if no networks of its family start from weights.

    Args:
        initial: The weights; None without any.
        space: The family.
        task: The data.
        facts: Of the trial: its "arch", and whether it is the control.
    """
    if initial is None:
        return {}
    net = space.build(thaw(space.arch, facts["arch"]), task.spec)
    taken, of = layers.n_taken(net, initial.weights)
    if FACT in facts:
        return {"transfer": {"source": initial.source, "start": "scratch", "taken": 0, "of": of}}
    return {"transfer": {"source": initial.source, "start": "", "taken": taken, "of": of}}
