"""What the machine and the time budget allow, found out before the first trial and kept with the run.

A middle candidate is trained for a few steps, kept by no one: in the quickest numeric setting, how long does an epoch
take? Where time is limited, that gives the epochs of a whole training, how many trials the time holds, and the longest
that one candidate's training may take: a search whose first candidate eats the night has found nothing. MACs are only
a first sieve for that, for they say little of time: a depthwise convolution trains 5 to 10 times as slowly on a CPU as
a dense one of the same MACs (measured). So a few steps of each candidate are timed before it is handed out.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from searchkit.context import Context
from searchkit.core.errors import Infeasible
from searchkit.core.quantities import show_seconds
from searchkit.core.serialization import freeze, thaw
from searchkit.core.space import Space
from searchkit.core.threads import torch_threads
from searchkit.core.training import Batch, FitPlan, TrainState
from searchkit.search.candidates import Candidate, draw
from searchkit.search.choices import at
from searchkit.search.feasibility import require_the_right_answer, some_candidates
from searchkit.search.settings import SearchSettings

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

FILE = "pace.json"

SETTINGS = (("fp32", False), ("fp32", True), ("bf16", False), ("bf16", True))

TRAININGS = 4
"""Whole trainings of the middle candidate that the time of one worker should hold."""

LEAST_EPOCHS = 3

LONGER = 2
"""Times the family's own epochs, where the time holds so long a training."""

LEAST_STEPS = 300
"""Updates of a whole training. A family's epochs are those of its default task; on the 229 training series of
JapaneseVowels 18 epochs are 72 updates, and a node task makes one update an epoch (Kipf & Welling train for 200)."""

OVERHEAD = 1.1
"""A reserve: an epoch is more than its steps, for augmentation, averaging, and val at the end of a rung. Measured on a
CNN of 78k parameters at 28×28: the steps alone 25.6 s an epoch, the epoch 25.4 to 25.8 s."""

FIT_SECONDS = 2.0
"""Of a task's own training, by which a step of it is compared with one of the loss alone."""

NOTABLE = 1.5
"""Times as long as a step of the loss: below, OVERHEAD knows of it. A critic's steps and an environment's lie above."""

SIEVE = 4.0
"""Times the MACs that a network like the middle candidate could have, above which one is refused without timing it."""


@dataclass(frozen=True)
class TimePlan:
    """epochs: of a trial that reaches the last rung. Where time is a limit, most_macs and most_seconds: of a candidate
    and its whole training; trials: about how many the time holds; own_work: seconds of an example that the task's own
    training takes beside a step of the loss, for a critic or an environment, whatever the candidate.
    """

    precision: str
    channels_last: bool
    epochs: int
    most_macs: int | None = None
    most_seconds: float | None = None
    trials: int | None = None
    own_work: float = 0.0


def make_time_plan(space: Space, ctx: Context, settings: SearchSettings) -> TimePlan:
    """Read from the run, or measured now. ctx.deadline is the search's own."""
    known = ctx.run.read_json(FILE) or {}
    if space.name in known:
        return thaw(TimePlan, known[space.name])
    pace = _measure(space, ctx, settings)
    ctx.run.write_json(FILE, {**known, space.name: freeze(pace)})
    ctx.echo(f"training in {pace.precision}" + (", channels last" if pace.channels_last else ""))
    if pace.most_seconds is not None:
        ctx.echo(
            f"the time budget holds about {pace.trials} trials of up to {pace.epochs} epochs, and no training of more "
            f"than {show_seconds(pace.most_seconds)}"
        )
    return pace


def _measure(space: Space, ctx: Context, settings: SearchSettings) -> TimePlan:
    epochs, left = settings.budget.epochs, ctx.deadline.left()
    middle = middle_candidate(space, ctx, epochs=epochs)
    if middle is None:
        return TimePlan("fp32", False, epochs)
    require_the_right_answer(space, ctx, middle)
    steps = math.ceil(ctx.task.n_examples("train") / middle.training.batch_size)
    if settings.plans_epochs:
        epochs = max(epochs, math.ceil(LEAST_STEPS / steps))
    choices: tuple[tuple[str, bool], ...] = SETTINGS
    if ctx.device == "cuda":
        choices = (("bf16", True),)
    elif settings.precision != "auto":
        choices = ((settings.precision, False),)
    if len(choices) == 1 and math.isinf(left):
        return TimePlan(*choices[0], epochs)
    (precision, channels_last), seconds = quickest(space, ctx, middle, choices)
    if math.isinf(left):
        return TimePlan(precision, channels_last, epochs)
    more = own_work(space, ctx, middle, (precision, channels_last), seconds)
    epoch_seconds = OVERHEAD * (seconds + more) * ctx.task.n_examples("train")
    if settings.plans_epochs:
        epochs = max(LEAST_EPOCHS, min(LONGER * epochs, int(left / TRAININGS / max(epoch_seconds, 1e-9))))
    whole = max(epochs * epoch_seconds, 1e-9)  # training of the middle candidate
    # half of the time, for the longest: the other half is for what it is compared with
    most_seconds = max(whole, left / 2)
    macs = ctx.macs(space.build(middle.arch, ctx.task.spec).eval())
    of_loss = whole * seconds / (seconds + more)  # what grows with the candidate
    most_macs = min(math.ceil(SIEVE * macs * (most_seconds - whole + of_loss) / of_loss), 2**53)
    share = share_of_a_trial(replace(settings.budget, epochs=epochs).rung_epochs(steps), settings.budget.eta)
    trials = max(1, min(settings.budget.trials, int(settings.workers * left / (share * whole))))
    return TimePlan(precision, channels_last, epochs, most_macs, most_seconds, trials, more)


def share_of_a_trial(rung_epochs: tuple[int, ...], eta: int) -> float:
    """Of a whole training, what a trial costs on average where 1 in `eta` goes on at each rung."""
    total, since = 0.0, 0
    for rung, until in enumerate(rung_epochs):
        total += (until - since) / eta**rung
        since = until
    return total / rung_epochs[-1]


def own_work(space: Space, ctx: Context, candidate: Candidate, setting: tuple[str, bool], seconds: float) -> float:
    """See `Pace`. seconds: an example's in a step of the loss, from `quickest`. 0 where there is nothing notable."""
    import torch

    from searchkit.train import Diverged

    task, (precision, channels_last) = ctx.task, setting
    training = replace(candidate.training, pretrain_epochs=0)
    torch.manual_seed(0)
    plan = FitPlan(training, 0, 1, ctx.device, precision, channels_last, seconds=FIT_SECONDS)
    try:
        with torch_threads(1):
            row = task.fit(space.build(candidate.arch, task.spec), plan, TrainState()).numbers["curve"][0]
    except Diverged:
        return 0.0
    examples = min(row["steps"] * training.batch_size, task.n_examples("train"))
    found = float(row["seconds" if ctx.device == "cuda" else "thread_seconds"] / examples)
    return found - seconds if found > NOTABLE * seconds else 0.0


def training_seconds(space: Space, ctx: Context, candidate: Candidate, own_work: float) -> float:
    """How long the whole training of `candidate` takes one worker, from a few of its steps. Raises Infeasible."""
    _, seconds = quickest(space, ctx, candidate, ((ctx.precision, ctx.channels_last),), rounds=3)
    epochs = candidate.training.epochs + candidate.training.pretrain_epochs
    return OVERHEAD * (seconds + own_work) * ctx.task.n_examples("train") * epochs


def quickest(
    space: Space, ctx: Context, candidate: Candidate, settings: tuple[tuple[str, bool], ...], *, rounds: int = 5
) -> tuple[tuple[str, bool], float]:
    """The (precision, channels_last) in which a training step of `candidate` is quickest here, by the median of
    interleaved steps, and its seconds an example: of this thread's own time on a CPU, for workers may share the cores.

    The first setting is left only for a gain of 15 %. bf16 is 2 times as fast with AMX and several times slower
    without.
    """
    import torch

    from searchkit.train import CHANNELS_LAST, channels_last_, make_optimizer

    task, training = ctx.task, candidate.training
    batch = next(iter(task.batches("train", training, seed=0, device=ctx.device)))
    has_channels = any(x.ndim in CHANNELS_LAST for x in batch.inputs)
    usable = [s for s in settings if has_channels or not s[1]] or list(settings[:1])
    nets = []
    for _, channels_last in usable:
        torch.manual_seed(0)
        net = space.build(candidate.arch, task.spec).to(ctx.device).train()
        if channels_last:
            channels_last_(net)
        nets.append((net, make_optimizer(net, training)))
    times: list[list[float]] = [[] for _ in usable]
    with torch_threads(1):  # as a worker has
        for _ in range(rounds + 1):
            for (precision, _), (net, optimizer), spent in zip(usable, nets, times, strict=True):
                spent.append(_step_seconds(ctx, net, optimizer, batch, precision))
    medians = [sorted(spent[1:])[rounds // 2] for spent in times]  # the first step warms up
    best = min(range(len(usable)), key=medians.__getitem__)
    best = best if medians[best] < 0.85 * medians[0] else 0
    return usable[best], medians[best] / len(batch.target)


def _step_seconds(ctx: Context, net: nn.Module, optimizer: Optimizer, batch: Batch, precision: str) -> float:
    """The seconds of one training step: of this thread's own time on a CPU, for workers may share the cores."""
    import torch

    def settle() -> None:
        """A GPU's work goes on after the call that began it."""
        if ctx.device == "cuda":
            torch.cuda.synchronize()

    clock = time.perf_counter if ctx.device == "cuda" else time.thread_time
    settle()
    started = clock()
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast(ctx.device, torch.bfloat16, enabled=precision == "bf16"):
        loss = ctx.task.loss(net, batch)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    settle()
    return clock() - started


def middle_candidate(space: Space, ctx: Context, *, epochs: int) -> Candidate | None:
    """A candidate of middling size that can be built; None where no draw can."""
    first = draw(space, ctx.task.spec, at(0.5), epochs=epochs, way="profile")
    for candidate in [first, *some_candidates(space, ctx, epochs)]:
        try:
            if candidate.arch is not None:
                space.build(candidate.arch, ctx.task.spec)
                return candidate
        except Infeasible:
            continue
    return None
