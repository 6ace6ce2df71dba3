"""A look at a space before it is searched: its smallest, middle and largest candidate against the limits, and the
numeric setting in which this machine trains them quickest. Nothing is trained to keep.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from searchkit.run import Context
from searchkit.search.cost import CostBook
from searchkit.search.sampler import Candidate, at, at_random, draw, grid_values, like
from searchkit.types import JSON, BadInput, Infeasible, NothingFeasible, Space, derive_seed

Weigh = Callable[[Candidate], float]


def profile_space(space: Space, ctx: Context, book: CostBook, *, epochs: int) -> list[dict[str, JSON]]:
    """The smallest, middle and largest candidate that 24 draws and a descent find, with their costs and breaches.

    Raises NothingFeasible where for some limit even the candidate that is smallest by it breaks it, and BadInput where
    no draw can be built at all."""
    drawn = _drawn(space, ctx, epochs)
    weighed = sorted(
        ((w[0], n, c) for n, c in enumerate(drawn) if (w := book.weigh(c)) is not None), key=lambda row: row[:2]
    )
    if not weighed:
        reason = next((c.reason for c in drawn if c.reason), "its build raised Infeasible for every candidate")
        raise BadInput(f"The family '{space.name}' has no candidate for the task '{ctx.task.name}': {reason}.")
    smallest = _descend(space, ctx, weighed[0][2], lambda c: _params(book, c))
    _require_the_right_answer(space, ctx, smallest)
    rows = []
    for which, candidate in (
        ("smallest", smallest),
        ("middle", weighed[len(weighed) // 2][2]),
        ("largest", weighed[-1][2]),
    ):
        cost = book.cost(candidate)
        rows.append({"which": which, "cost": cost, "breaches": ctx.limits.breaches(cost), **candidate.plain})
    _require_one_that_fits(space, ctx, book, [smallest, *(c for _, _, c in weighed)])
    return rows


def _require_the_right_answer(space: Space, ctx: Context, candidate: Candidate) -> None:
    """Raises BadInput where the network does not take this data's examples, or does not give what its task wants."""
    import torch

    wanted = tuple(p.shape for p in ctx.task.spec.outputs)
    net = space.build(candidate.arch, ctx.task.spec).eval()
    try:
        with torch.no_grad():
            given = net(*ctx.model_inputs(2))
    except RuntimeError as error:
        raise BadInput(
            f"A network of the family '{space.name}' ({candidate.plain['arch']}) cannot take this data: "
            f"{str(error).splitlines()[0]}. Mend its build, or say in its accepts what it is for."
        ) from error
    outputs = given if isinstance(given, tuple) else (given,)
    shapes = tuple(tuple(x.shape[1:]) for x in outputs)
    if len(shapes) != len(wanted) or any(
        len(a) != len(b) or any(w is not None and w != g for w, g in zip(b, a, strict=True))
        for a, b in zip(shapes, wanted, strict=True)
    ):
        raise BadInput(
            f"The family '{space.name}' builds a network that gives {', '.join(map(str, shapes))} an example, and "
            f"the task '{ctx.task.name}' wants {', '.join(map(str, wanted))}; mend its build."
        )


def _drawn(space: Space, ctx: Context, epochs: int) -> list[Candidate]:
    rng = random.Random(derive_seed(ctx.seed, "profile"))
    ways = [at(0.0), at(0.5), at(1.0), *(at_random(rng) for _ in range(24))]
    return [draw(space, ctx.task.spec, way, epochs=epochs, way="profile") for way in ways]


def _params(book: CostBook, candidate: Candidate) -> float:
    weighed = book.weigh(candidate)
    return float("inf") if weighed is None else weighed[0]


def _descend(space: Space, ctx: Context, start: Candidate, weigh: Weigh, *, at_most: int = 200) -> Candidate:
    """Change one parameter of the architecture at a time for as long as `weigh` falls, in at most so many builds."""
    best, least, n_built = start, weigh(start), 0
    improved = True
    while improved and n_built < at_most:
        improved = False
        for name in sorted(n for n in best.params if not n.startswith("train.")):
            for value in grid_values(best.distributions[name]):
                if value == best.params.get(name):
                    continue
                otherwise = at(0.0)
                trial = draw(
                    space,
                    ctx.task.spec,
                    like({**best.params, name: value}, otherwise),
                    epochs=best.training.epochs,
                    way="profile",
                )
                n_built += 1
                weight = weigh(trial)
                if weight < least:
                    best, least, improved = trial, weight, True
            if n_built >= at_most or name not in best.params:
                break
    return best


def _require_one_that_fits(space: Space, ctx: Context, book: CostBook, candidates: list[Candidate]) -> None:
    """Each limit by itself must be met by some candidate; and the smallest must be checked in full."""
    smallest = candidates[0]
    breaches = ctx.limits.breaches(book.cost(smallest))
    if not breaches:
        return
    for name in breaches:
        costs = [(book.cost(c).get(name, float("inf")), c) for c in candidates[:3]]
        least, candidate = min(costs, key=lambda row: row[0])
        if name not in ctx.limits.breaches({name: least}):
            continue
        limit: Any = getattr(ctx.limits, name)
        shown = ", ".join(f"{k}={v}" for k, v in candidate.plain["arch"].items())
        raise NothingFeasible(
            f"No candidate of '{space.name}' can fit: the smallest found ({shown}) has {_quantity(name, least)} and "
            f"the limit is {_quantity(name, float(limit))}; raise the limit or take another family."
        )


def _quantity(name: str, value: float) -> str:
    match name:
        case "size_bytes":
            return f"a file of {value:,.0f} bytes"
        case "latency_ms":
            return f"a latency of {value:.3g} ms"
        case "macs":
            return f"{value:,.0f} multiply-accumulates"
    return f"{value:,.0f} parameters"


# ── the quickest setting ─────────────────────────────────────────────────────────────────────────────────────────────

SETTINGS = (("fp32", False), ("fp32", True), ("bf16", False), ("bf16", True))


def fastest_setting(space: Space, ctx: Context, candidate: Candidate, *, rounds: int = 5) -> tuple[str, bool]:
    """(precision, channels_last) in which a training step of `candidate` is quickest here, by the median of steps.

    Plain fp32 is left only for a gain of 15 %. bf16 is 2 times as fast with AMX and several times slower without."""
    import torch

    from searchkit.train import make_optimizer

    if ctx.device == "cuda":
        return "bf16", True
    task, training = ctx.task, candidate.training
    batch = next(iter(task.batches("train", training, seed=0, device=ctx.device)))
    settings = [s for s in SETTINGS if not s[1] or any(x.ndim == 4 for x in batch.inputs)]
    nets = []
    for _, channels_last in settings:
        torch.manual_seed(0)
        net = space.build(candidate.arch, task.spec).to(ctx.device).train()
        if channels_last:
            net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        nets.append((net, make_optimizer(net, training)))
    times: list[list[float]] = [[] for _ in settings]
    for _ in range(rounds + 1):
        for (precision, _), (net, optimizer), spent in zip(settings, nets, times, strict=True):
            started = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(ctx.device, torch.bfloat16, enabled=precision == "bf16"):
                loss = task.loss(net, batch)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            spent.append(time.perf_counter() - started)
    medians = [sorted(spent[1:])[rounds // 2] for spent in times]  # the first step warms up
    quickest = min(range(len(settings)), key=medians.__getitem__)
    return settings[quickest] if medians[quickest] < 0.85 * medians[0] else settings[0]


def middle_candidate(space: Space, ctx: Context, *, epochs: int) -> Candidate | None:
    """A candidate of middling size that can be built; None where no draw can."""
    for candidate in [draw(space, ctx.task.spec, at(0.5), epochs=epochs, way="profile"), *_drawn(space, ctx, epochs)]:
        try:
            if candidate.arch is not None:
                space.build(candidate.arch, ctx.task.spec)
                return candidate
        except Infeasible:
            continue
    return None
