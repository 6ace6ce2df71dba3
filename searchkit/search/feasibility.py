"""A look at a space before it is searched: its smallest, middle and largest candidate against the limits."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from searchkit.context import Context
from searchkit.core.errors import BadInput, NothingFeasible
from searchkit.core.serialization import JSON, derive_seed
from searchkit.core.space import Space
from searchkit.search.candidates import Candidate, draw
from searchkit.search.choices import at, at_random, grid_values, like
from searchkit.search.cost_model import CostModel

Weigh = Callable[[Candidate], float]


def profile_space(space: Space, ctx: Context, book: CostModel, *, epochs: int) -> list[dict[str, JSON]]:
    """The smallest, middle and largest candidate that 24 draws and a descent find.

    Args:
        space: The family.
        ctx: Gives the task and the limits.
        book: What a candidate would cost.
        epochs: Of a trial that reaches the last rung.

    Returns:
        A row each: "which", "cost" by name, "breaches" (by how much it breaks each limit), "arch", "training".

    Raises:
        NothingFeasible: Even the candidate that is smallest by some limit breaks it.
        BadInput: No draw can be built at all.
    """
    drawn = some_candidates(space, ctx, epochs)
    # Candidates have no order, so the key leaves them out.
    weighed = sorted(
        ((w[0], n, c) for n, c in enumerate(drawn) if (w := book.weigh(c)) is not None), key=lambda row: row[:2]
    )
    if not weighed:
        reason = next((c.reason for c in drawn if c.reason), "its build raised Infeasible for every candidate")
        raise BadInput(f"The family '{space.name}' has no candidate for the task '{ctx.task.name}': {reason}.")
    smallest = _descend(space, ctx, weighed[0][2], lambda c: _params(book, c))
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


def require_the_right_answer(space: Space, ctx: Context, candidate: Candidate) -> None:
    """Check that the network takes this data's examples and gives outputs of the shapes that the task wants.

    Raises:
        BadInput: It does not; the sentence names the shapes.
    """
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


def some_candidates(space: Space, ctx: Context, epochs: int) -> list[Candidate]:
    """All values low, all in the middle, all high, and 24 at random."""
    rng = random.Random(derive_seed(ctx.seed, "profile"))
    ways = [at(0.0), at(0.5), at(1.0), *(at_random(rng) for _ in range(24))]
    return [draw(space, ctx.task.spec, way, epochs=epochs, way="profile") for way in ways]


def _params(book: CostModel, candidate: Candidate) -> float:
    weighed = book.weigh(candidate)
    return float("inf") if weighed is None else weighed[0]


def _descend(space: Space, ctx: Context, start: Candidate, weigh: Weigh, *, at_most: int = 200) -> Candidate:
    """Change one parameter of the architecture at a time for as long as `weigh` falls, in at most so many builds."""
    best, least, n_built = start, weigh(start), 0
    improved = True
    while improved and n_built < at_most:
        improved = False
        for name in sorted(n for n in best.params if not n.startswith("train.")):
            if name not in best.params:
                continue  # a change before it has closed the branch that asks for it
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
            if n_built >= at_most:
                break
    return best


def _require_one_that_fits(space: Space, ctx: Context, book: CostModel, candidates: list[Candidate]) -> None:
    """Each limit by itself must be met by some candidate; and the smallest must be checked in full."""
    smallest = candidates[0]
    breaches = ctx.limits.breaches(book.cost(smallest))
    if not breaches:
        return
    # A limit that some candidate meets is left to the search. The smallest three are tried, since the one with the
    # fewest parameters need not have the fewest MACs or the lowest latency.
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
