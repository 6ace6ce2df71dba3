"""What the machine and the time budget allow, found out before the first trial and kept with the run.

A middle candidate is trained for a few steps, kept by no one: in the quickest numeric setting, how long does an epoch
take? Where time is limited, that gives the epochs of a whole training and the most MACs of a network that can be
trained through in it: a search whose first candidate eats the night has found nothing.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from searchkit.run import Context
from searchkit.search.profile import require_the_right_answer, some_candidates
from searchkit.search.sampler import Candidate, at, draw
from searchkit.search.settings import SearchSettings
from searchkit.types import Infeasible, Space, freeze, thaw

FILE = "pace.json"

SETTINGS = (("fp32", False), ("fp32", True), ("bf16", False), ("bf16", True))

TRAININGS = 3
"""Whole trainings of the middle candidate that the time of one worker should hold."""

LEAST_EPOCHS = 3

OVERHEAD = 1.3
"""A reserve, not a measurement: an epoch is more than its steps, for augmentation, averaging, and val at its end."""


@dataclass(frozen=True)
class Pace:
    """epochs: of a trial that reaches the last rung. most_macs: of a candidate; None where time is no limit."""

    precision: str
    channels_last: bool
    epochs: int
    most_macs: int | None = None


def find_pace(space: Space, ctx: Context, settings: SearchSettings) -> Pace:
    """Read from the run, or measured now. ctx.deadline is the search's own."""
    known = ctx.run.read_json(FILE) or {}
    if space.name in known:
        return thaw(Pace, known[space.name])
    pace = _measure(space, ctx, settings)
    ctx.run.write_json(FILE, {**known, space.name: freeze(pace)})
    ctx.echo(f"training in {pace.precision}" + (", channels last" if pace.channels_last else ""))
    if pace.most_macs is not None:
        ctx.echo(
            f"the time budget holds trainings of {pace.epochs} epochs and networks of up to {pace.most_macs:,} MACs"
        )
    return pace


def _measure(space: Space, ctx: Context, settings: SearchSettings) -> Pace:
    epochs, left = settings.budget.epochs, ctx.deadline.left()
    middle = middle_candidate(space, ctx, epochs=epochs)
    if middle is None:
        return Pace("fp32", False, epochs)
    require_the_right_answer(space, ctx, middle)
    choices: tuple[tuple[str, bool], ...] = SETTINGS
    if ctx.device == "cuda":
        choices = (("bf16", True),)
    elif settings.precision != "auto":
        choices = ((settings.precision, False),)
    if len(choices) == 1 and math.isinf(left):
        return Pace(*choices[0], epochs)
    (precision, channels_last), seconds = quickest(space, ctx, middle, choices)
    if math.isinf(left):
        return Pace(precision, channels_last, epochs)
    epoch_seconds = OVERHEAD * seconds * ctx.task.n_examples("train")
    if settings.plans_epochs:
        epochs = max(LEAST_EPOCHS, min(epochs, int(left / TRAININGS / max(epoch_seconds, 1e-9))))
    macs = ctx.macs(space.build(middle.arch, ctx.task.spec).eval())
    # half of the time, for the largest: the other half is for what it is compared with
    most = macs * max(1.0, left / 2 / max(epochs * epoch_seconds, 1e-9))
    return Pace(precision, channels_last, epochs, min(math.ceil(most), 2**53))


def quickest(
    space: Space, ctx: Context, candidate: Candidate, settings: tuple[tuple[str, bool], ...], *, rounds: int = 5
) -> tuple[tuple[str, bool], float]:
    """The (precision, channels_last) in which a training step of `candidate` is quickest here, by the median of
    interleaved steps, and its seconds an example.

    The first setting is left only for a gain of 15 %. bf16 is 2 times as fast with AMX and several times slower
    without."""
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
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker has

    def settle() -> None:
        """A GPU's work goes on after the call that began it."""
        if ctx.device == "cuda":
            torch.cuda.synchronize()

    for _ in range(rounds + 1):
        for (precision, _), (net, optimizer), spent in zip(usable, nets, times, strict=True):
            settle()
            started = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(ctx.device, torch.bfloat16, enabled=precision == "bf16"):
                loss = task.loss(net, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            settle()
            spent.append(time.perf_counter() - started)
    torch.set_num_threads(n_threads)
    medians = [sorted(spent[1:])[rounds // 2] for spent in times]  # the first step warms up
    best = min(range(len(usable)), key=medians.__getitem__)
    best = best if medians[best] < 0.85 * medians[0] else 0
    return usable[best], medians[best] / len(batch.target)


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
