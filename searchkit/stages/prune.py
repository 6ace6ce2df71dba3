"""Prune: remove the channels, hidden units and attention heads that matter least, in steps with recovery between.

The user asks for a result (a share of the parameters, the MACs, the file or the latency), and the share of units that
gives it is found by bisection on the structure alone. What is cut with what is `searchkit.edits`' business; which units
go is decided here: Li et al., 2017 (norms), Liu et al., 2017 (BatchNorm scales), Molchanov et al., 2019 (Taylor).
Not to be confused with unstructured sparsity: every cut leaves a smaller dense network.
"""

from __future__ import annotations

import copy
import functools
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from searchkit import measure, onnxfile
from searchkit.edits import Group, Member, apply_edits_, drops, parts, prunable_groups, units
from searchkit.run import Context
from searchkit.train import Teacher
from searchkit.types import JSON, Artifact, BadInput, GateFailed, Inapplicable, Tolerance, derive_seed, thaw

IMPORTANCES = ("l1", "l2", "taylor", "bn", "random")
COSTS = {"params": "parameters", "size": "bytes of the file", "macs": "MACs", "latency": "ms"}
Cost: TypeAlias = Callable[[nn.Module], float]
Gradients: TypeAlias = Callable[[nn.Module], nn.Module]


class Uncuttable(GateFailed):
    """No cut of the network gives what was asked. why: as a clause, for the report of a line that goes on without."""

    def __init__(self, why: str) -> None:
        super().__init__(f"Prune fails: {why}. Ask for less pruning, or search another network.")
        self.why = why


# ── Which units ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Ranking:
    """importance: one of IMPORTANCES. everywhere: rank the units of all groups together, each group's scores divided by
    their mean, instead of taking the same share of every group. round_to: widths of at least four times this are left
    at a multiple of it, as vector units like them, and narrower ones of a depthwise convolution at one of BLOCK; 1
    rounds nothing. narrow: groups of fewer units (a bottleneck, not heads) are left whole where a quarter of the others
    is enough: they hold little and carry much."""

    importance: str = "l2"
    everywhere: bool = False
    round_to: int = 8
    narrow: int = 16
    seed: int = 0


BLOCK = 4
"""ONNX Runtime has a quick depthwise convolution of pictures for channels of a multiple of this, and a slow one for any
other number: 9×9 over 22 channels take 17 times as long as over 24 (8×8, AVX-512); without groups it is all one."""


def importance(net: nn.Module, group: Group, ranking: Ranking) -> np.ndarray:
    """(units of the group,) float64 with mean 1: what each unit is worth. "taylor" reads the gradients, which must be
    there; "bn" takes l2 for a group without a BatchNorm."""
    if ranking.importance == "random":
        seed = derive_seed(ranking.seed, group.members[0].name, len(group))
        return np.random.default_rng(seed).uniform(0.0, 2.0, len(group))
    how, norms = ranking.importance, [m for m in group.members if isinstance(_module(net, m), _BatchNorm)]
    if how == "bn":
        how = "scale" if norms else "l2"
    scores = [s for m in (norms if how == "scale" else group.members) for s in _part_scores(net, m, how)]
    scores = [s / s.mean() for s in scores if s.mean() > 0]
    return np.mean(scores, axis=0) if scores else np.ones(len(group))


def _part_scores(net: nn.Module, member: Member, how: str) -> list[np.ndarray]:
    """One score a unit from each matrix that the member cuts. Biases tell little of a unit, and scales count for "bn"
    only, so that an LSTM's forget bias or a LayerNorm does not drown the weights."""
    module, found = _module(net, member), []
    if module is None:
        return []
    n_units = units(module, member.side)
    shared: np.ndarray | None = None  # of the units that several tensors share out, one value each
    for part in parts(module, member.side):
        tensor = part.tensor()
        if not part.is_parameter or (part.name != "weight" if how == "scale" else tensor.ndim < 2):
            continue
        weight = part.by_unit(tensor.detach()).double()
        if how == "taylor":
            gradient = tensor.grad if tensor.grad is not None else torch.zeros_like(tensor)
            each = (weight * part.by_unit(gradient).double()).abs().sum(1)
        else:
            each = weight.square().sum(1).sqrt() if how == "l2" else weight.abs().sum(1)
        if part.first is None:
            found.append(np.resize(each.numpy(), n_units))  # a grouped convolution stores one group's inputs
        else:
            shared = np.zeros(n_units) if shared is None else shared
            shared[part.first : part.first + len(each)] += each.numpy()
    found += [] if shared is None else [shared]
    return [np.array([values[list(unit)].sum() for unit in member.indices]) for values in found]


def _module(net: nn.Module, member: Member) -> nn.Module | None:
    """None for a parameter that stands by itself: it is cut along, and has no say."""
    return None if member.side.startswith("axis") else net.get_submodule(member.name)


def widths(scores: Sequence[np.ndarray], keep: float, ranking: Ranking, grains: Sequence[int]) -> list[int]:
    """How many units each group keeps when a share `keep` of all is kept; at least one. grains: as in `Cuts`."""
    if ranking.everywhere:
        pooled = np.sort(np.concatenate(scores))
        threshold = pooled[min(len(pooled) - 1, round((1.0 - keep) * len(pooled)))] if keep < 1 else -math.inf
        # a tenth of every group stays: a layer of two units is a dead end that no recovery opens
        kept = [max(math.ceil(0.1 * len(s)), int((s >= threshold).sum())) for s in scores]
    else:
        kept = [round(keep * len(s)) for s in scores]
    return [_rounded(max(1, k), len(s), ranking.round_to, g) for k, s, g in zip(kept, scores, grains, strict=True)]


def _rounded(width: int, before: int, round_to: int, grain: int) -> int:
    step = _step(before, round_to, grain)
    return min(before, math.ceil(width / step) * step)


def _step(before: int, round_to: int, grain: int) -> int:
    """What a width of `before` is cut in."""
    return round_to if before >= 4 * round_to else min(grain, round_to) if before >= 2 * grain else 1


def grain(net: nn.Module, group: Group) -> int:
    """BLOCK where the group has a depthwise convolution of pictures in it, else 1."""
    modules = [
        part for member in group.members if (found := _module(net, member)) is not None for part in found.modules()
    ]
    return BLOCK if any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in modules) else 1


def runs(net: nn.Module, group: Group) -> np.ndarray:
    """(units of the group,) the number of the run that each is in. Units that a module shares out to several tensors
    (to kernels of several sizes) are in one run where each such module has them in one tensor."""
    found = [np.zeros(len(group), int)]
    for member in group.members:
        module = _module(net, member)
        shared = [] if module is None else [p.first for p in parts(module, member.side) if p.first is not None]
        if shared:
            found.append(np.searchsorted(shared, [unit[0] for unit in member.indices], side="right"))
    return np.unique(np.stack(found), axis=1, return_inverse=True)[1].reshape(-1)


def least(scores: np.ndarray, runs: np.ndarray, keep: int, step: Callable[[int], int]) -> list[int]:
    """The units that go so that `keep` stay, least important first. Where there are several runs, each keeps a multiple
    of what its width is cut in, or all; fewer than `keep` may stay where that does not come out even. At least one
    does. step: what a width is cut in."""
    order = np.argsort(scores, kind="stable")
    if runs.max() == 0:
        return [int(u) for u in order[: len(scores) - keep]]
    blocks: list[tuple[int, np.ndarray]] = []
    for run in range(runs.max() + 1):
        best_first = order[runs[order] == run][::-1]
        wide = step(len(best_first))
        blocks += [(run, best_first[start : start + wide]) for start in range(0, len(best_first), wide)]
    kept: set[int] = set()
    done: set[int] = set()  # runs of which one block was too many
    for run, block in sorted(blocks, key=lambda found: -float(scores[found[1]].mean())):
        if run not in done and (len(kept) + len(block) <= keep or not kept):
            kept.update(int(u) for u in block)
        else:
            done.add(run)
    return [int(u) for u in order if u not in kept]


@dataclass(frozen=True)
class Cuts:
    """What could be cut from a network: the units of each group, with their scores and their runs. grains: what narrow
    widths are cut in, a group."""

    net: nn.Module
    groups: tuple[Group, ...]
    scores: tuple[np.ndarray, ...]
    ranking: Ranking
    runs: tuple[np.ndarray, ...]
    grains: tuple[int, ...]

    def edits(self, kept: Sequence[int]) -> list[JSON]:
        """kept: units left in each group."""
        chosen = []
        for group, scores, its_runs, k, grain in zip(
            self.groups, self.scores, self.runs, kept, self.grains, strict=True
        ):
            step = functools.partial(_step, round_to=self.ranking.round_to, grain=grain)
            chosen.append((group, least(scores, its_runs, k, step)))
        return drops(chosen)

    def widths(self, keep: float) -> list[int]:
        return widths(self.scores, keep, self.ranking, self.grains)

    def sparing_the_narrow(self, cost: Cost, target: float) -> Cuts:
        """Without the narrow groups, where the wide ones alone can give the target."""
        wide = [
            index
            for index, group in enumerate(self.groups)
            if len(group) >= self.ranking.narrow or group.members[0].side == "inner"
        ]
        spared = replace(
            self,
            groups=tuple(self.groups[i] for i in wide),
            scores=tuple(self.scores[i] for i in wide),
            runs=tuple(self.runs[i] for i in wide),
            grains=tuple(self.grains[i] for i in wide),
        )
        enough = wide and cost(spared.trial(spared.widths(0.25))) <= target
        return spared if enough else self

    def trial(self, kept: Sequence[int]) -> nn.Module:
        net = copy.deepcopy(self.net)
        apply_edits_(net, self.edits(kept))
        return net

    def fit(self, cost: Cost, target: float, *, rounds: int = 12) -> list[int]:
        """The widest widths that `rounds` of bisection find for a cost of at most `target`. Raises Uncuttable where the
        smallest network costs more."""
        smallest = cost(self.trial(self.widths(0.0)))
        if smallest > target:
            raise Uncuttable(
                f"it cannot reach {target:,.6g}: the smallest that cutting this network gives is {smallest:,.6g}"
            )
        low, high = 0.0, 1.0  # the cost at low is within the target
        for _ in range(rounds):
            middle = (low + high) / 2
            fits = cost(self.trial(self.widths(middle))) <= target
            low, high = (middle, high) if fits else (low, middle)
        return self.widths(low)


def cuts(net: nn.Module, example: Sequence[Tensor], ranking: Ranking, gradients: Gradients | None = None) -> Cuts:
    """example: inputs of at least 2 rows. gradients: gives a copy of the network that has them; "taylor" needs it.
    Raises Inapplicable where the network has no inner units, Uncuttable where those that it has cannot be cut."""
    groups, refused = prunable_groups(net, example)
    if not groups and not refused:
        raise Inapplicable("the network has no inner units to cut")
    if not groups:
        raise Uncuttable(f"it can cut nothing: {', '.join(refused)} could not be followed through the network")
    scored = gradients(net) if gradients is not None else net
    return Cuts(
        net,
        groups,
        scores=tuple(importance(scored, group, ranking) for group in groups),
        ranking=ranking,
        runs=tuple(runs(net, group) for group in groups),
        grains=tuple(grain(net, group) for group in groups),
    )


def prune_(
    net: nn.Module,
    example: Sequence[Tensor],
    *,
    cost: Cost,
    target: float,
    ranking: Ranking,
    gradients: Gradients | None = None,
) -> list[JSON]:
    """One round, in place: cut the least important units until `cost` is at most `target`; the edits that were made.

    As `cuts`, and raises Uncuttable where even the smallest network costs more."""
    found = cuts(net, example, ranking, gradients).sparing_the_narrow(cost, target)
    kept = found.fit(cost, target)
    made = found.edits(_filled(kept, found, lambda k: cost(found.trial(k)) <= target))
    apply_edits_(net, made)
    return made


def _filled(kept: list[int], cuts: Cuts, fits: Callable[[list[int]], bool]) -> list[int]:
    """Give back units while the target allows: rounding makes the cost fall in leaps, which bisection alone overshoots.
    The group whose next unit is worth most comes first."""
    kept, scores, open_groups = list(kept), cuts.scores, set(range(len(kept)))
    while open_groups:
        ordered = {g: np.sort(scores[g])[::-1] for g in open_groups if kept[g] < len(scores[g])}
        if not ordered:
            break
        best = max(sorted(ordered), key=lambda g: float(ordered[g][kept[g]]))
        wider = _rounded(kept[best] + 1, len(scores[best]), cuts.ranking.round_to, cuts.grains[best])
        trial = [wider if g == best else k for g, k in enumerate(kept)]
        if fits(trial):
            kept = trial
        else:
            open_groups.discard(best)
        open_groups &= set(ordered)
    return kept


@dataclass(frozen=True)
class Aim:
    """What the steps work towards: `cost` from `before` to `target`, in the unit of `by`."""

    by: str
    cost: Cost
    before: float
    target: float


# ── The stage ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Prune:
    """to: below 1 the share of the parent's cost to keep, above 1 the cost itself, in the unit of `by`: "params",
    "size" (bytes of the fp32 file), "macs", or "latency" (ms at batch 1; below 1 it is a share too). recovery_epochs:
    in all, half of them after the last step. teacher: whether the parent's answers guide the recovery.

    max_drop: None delivers what was asked, or is a failed gate. A number keeps the last step that is as good as the
    parent on val within it (max_rise, for an error), or within what val can tell (`Tolerance.admits_in_pairs`), and
    where there is none, or the target is out of reach, the stage does not apply."""

    to: float = 0.5
    by: str = "params"
    importance: str = "l2"
    everywhere: bool = False
    steps: int = 3
    recovery_epochs: int = 12
    teacher: bool = True
    temperature: float = 2.0
    weight: float = 0.5  # of the teacher's part in the loss
    lr_scale: float = 0.5
    round_to: int = 8
    max_drop: float | None = None
    max_rise: float = 0.02

    def __post_init__(self) -> None:
        if self.by not in COSTS:
            raise BadInput(f"Prune cannot aim at '{self.by}'; it can at {', '.join(COSTS)}.")
        if self.importance not in IMPORTANCES:
            raise BadInput(f"No importance named '{self.importance}'; they are {', '.join(IMPORTANCES)}.")
        if not 0 < self.to < math.inf or self.to == 1:
            raise BadInput(f"Prune to {self.to:g} shrinks nothing; give a share between 0 and 1, or a number above 1.")
        if self.steps < 1 or self.recovery_epochs < 0 or self.round_to < 1:
            raise BadInput("Prune takes at least 1 step, 0 recovery epochs and a rounding of 1.")

    @property
    def planned_epochs(self) -> float:
        """Epochs of plain training that the stage would like; a teacher adds its forward pass."""
        return self.recovery_epochs * (1.3 if self.teacher else 1.0)

    def __call__(self, artifact: Artifact, ctx: Context) -> Artifact:
        """Raises Inapplicable where there is nothing to cut or the target is met already; see max_drop for the rest."""
        try:
            return self._cut(artifact, ctx)
        except Uncuttable as error:
            if self.max_drop is None:
                raise
            raise Inapplicable(error.why) from error

    def _cut(self, artifact: Artifact, ctx: Context) -> Artifact:
        parent = ctx.network(artifact)
        net, example = copy.deepcopy(parent), ctx.model_inputs(4)
        aim = self._aim(net, artifact, ctx)
        cost, before, target = aim.cost, aim.before, aim.target
        edits: list[JSON] = []
        log: list[dict[str, JSON]] = []
        steps: list[dict[str, JSON]] = []
        snapshots: list[tuple[nn.Module, list[JSON], np.ndarray]] = []
        for step in range(self.steps):
            rung = before * (target / before) ** ((step + 1) / self.steps)  # the same share each step
            ranking = Ranking(self.importance, self.everywhere, self.round_to, derive_seed(ctx.seed, artifact.id, step))
            if cost(net) > rung:
                gradients = self._gradients(artifact, ctx) if self.importance == "taylor" else None
                edits += prune_(net, example, cost=cost, target=rung, ranking=ranking, gradients=gradients)
            raw = ctx.task.goal.value(ctx.scores(net))
            log += [{"step": step + 1, **row} for row in self._recover(net, artifact, ctx, step, parent)]
            scores = ctx.scores(net)
            value = ctx.task.goal.value(scores)
            steps.append({"params": measure.params(net), "raw": raw, "val": value})
            snapshots.append((copy.deepcopy(net), list(edits), scores))
            ctx.echo(f"Prune: step {step + 1} of {self.steps}: {measure.params(net):,} parameters, val {value:.4g}")
        kept = self._keep([found for _, _, found in snapshots], ctx.scores(parent), ctx)
        net, edits, _ = snapshots[kept]
        self._prove(net, parent, artifact, edits, example, ctx)
        notes = {
            "metric": ctx.task.goal.metric,
            "asked": {"by": self.by, "to": self.to},
            "by": aim.by,
            "before": before,
            "after": cost(net),
            "target": target,
            "steps": steps,
            "kept_step": kept + 1,
            "layers": layers(parent, net),
        }
        return ctx.save(ctx.child(artifact, self, edits=(*artifact.edits, *edits)), net, log=log, notes=notes)

    def _keep(self, scores: list[np.ndarray], reference: np.ndarray, ctx: Context) -> int:
        """The index of the step whose network is the stage's result. Raises Inapplicable where none is as good."""
        if self.max_drop is None:
            return len(scores) - 1
        tolerance = Tolerance(ctx.task.goal, self.max_drop, self.max_rise)
        good = [index for index, found in enumerate(scores) if tolerance.admits_in_pairs(found, reference)]
        if good:
            return good[-1]
        raise Inapplicable(
            f"no step was as good as its parent within {tolerance.shown} on val: {ctx.task.goal.metric} "
            f"{ctx.task.goal.value(scores[0]):.4g} after the first, {ctx.task.goal.value(reference):.4g} before; "
            "--prune-to delivers it all the same"
        )

    def _recover(
        self, net: nn.Module, artifact: Artifact, ctx: Context, step: int, parent: nn.Module
    ) -> list[dict[str, JSON]]:
        last = math.ceil(self.recovery_epochs / 2) if self.steps > 1 else self.recovery_epochs
        epochs = last if step == self.steps - 1 else (self.recovery_epochs - last) // (self.steps - 1)
        if not epochs:
            return []
        teacher = Teacher(parent, self.temperature, self.weight) if self.teacher else None
        still = last + (epochs * (self.steps - 1 - step) if step < self.steps - 1 else 0)
        return ctx.recover(
            net, artifact, epochs=epochs, teacher=teacher, lr_scale=self.lr_scale, seed=step, share=epochs / still
        )

    def _aim(self, net: nn.Module, artifact: Artifact, ctx: Context) -> Aim:
        """Raises Inapplicable where the parent meets the target already, Uncuttable where no cut of it does."""
        ranking = Ranking("l2", self.everywhere, self.round_to)  # the structure matters here, not the units
        found = cuts(net, ctx.model_inputs(4), ranking)
        costs: dict[str, Cost] = {"macs": ctx.macs, "size": _FileSize(net, ctx)}
        cost = costs.get(self.by, _params)
        with tempfile.TemporaryDirectory() as folder:
            timed = _Latency(net, ctx, Path(folder)) if self.by == "latency" else None
            before = (timed or cost)(net)
            target = self.to * before if self.to < 1 else self.to
            if before <= target:
                raise Inapplicable(
                    f"the network already costs {before:,.6g} {COSTS[self.by]}, no more than the {target:,.6g} asked"
                    " for"
                )
            kept = found.fit(timed or cost, target, rounds=5 if timed else 1)
            if timed is not None:  # an export a network is too dear for every step: aim at the parameters that it gave
                return Aim("params", cost, cost(net), cost(found.trial(kept)))
        return Aim(self.by, cost, before, target)

    def _gradients(self, artifact: Artifact, ctx: Context) -> Gradients:
        """A copy of the network with the gradients of the task's loss over some batches of train."""

        def with_gradients(net: nn.Module) -> nn.Module:
            probe = copy.deepcopy(net).train()
            plain = replace(ctx.training(artifact), augment=(), mixup=0.0, label_smoothing=0.0)
            batches = ctx.task.batches("train", plain, seed=derive_seed(ctx.seed, "taylor"), device="cpu")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive_seed(ctx.seed, "taylor"))
                for batch, _ in zip(batches, range(16), strict=False):
                    ctx.task.loss(probe, batch).backward()  # type: ignore[no-untyped-call]
            return probe

        return with_gradients

    def _prove(
        self, net: nn.Module, parent: nn.Module, artifact: Artifact, edits: list[JSON], example: Sequence[Tensor],
        ctx: Context,
    ) -> None:  # fmt: skip
        """The network shrank, and its edits rebuild it."""
        if measure.params(net) >= measure.params(parent):
            raise GateFailed(f"Prune shrank nothing: {measure.params(net):,} parameters before and after.")
        space = ctx.spaces(artifact.space)
        rebuilt = space.build(thaw(space.arch, artifact.arch), ctx.task.spec)
        apply_edits_(rebuilt, (*artifact.edits, *edits))
        rebuilt.load_state_dict(net.state_dict())
        with torch.no_grad():
            difference = (rebuilt.eval()(*example) - net.eval()(*example)).abs().max().item()
        if not difference <= 1e-6:
            raise GateFailed(f"The pruned network cannot be rebuilt from its edits: answers differ by {difference:g}.")


def _params(net: nn.Module) -> float:
    return float(measure.params(net))


class _FileSize:
    """Bytes of the exported file by arithmetic after one export, and never fewer than the file has: cutting takes 4
    bytes a number out of the matrices, leaves the graph as it is, and shortens what else there is."""

    def __init__(self, net: nn.Module, ctx: Context) -> None:
        self.net, self.ctx, self.rest = net, ctx, math.nan

    def __call__(self, net: nn.Module) -> float:
        if math.isnan(self.rest):
            self.rest = _exported(self.net, self.ctx, measure.size_bytes) - _matrix_bytes(self.net)
        return self.rest + _matrix_bytes(net)


def _matrix_bytes(net: nn.Module) -> int:
    return sum(4 * p.numel() for p in net.parameters() if p.ndim > 1)


class _Latency:
    """Milliseconds of the exported file at batch 1 on one thread, by interleaved ratio to the parent's file."""

    def __init__(self, net: nn.Module, ctx: Context, folder: Path) -> None:
        self.ctx, self.parent = ctx, folder / "parent.onnx"
        ctx.export(copy.deepcopy(net), self.parent)

    def __call__(self, net: nn.Module) -> float:
        return _exported(net, self.ctx, self._measure)

    def _measure(self, path: Path) -> float:
        timed = measure.latency({"parent": self.parent, "this": path}, self.ctx.example(), processes=0)
        return timed["this"].ratio * timed["parent"].p50_ms


def _exported(net: nn.Module, ctx: Context, ask: Callable[[Path], float]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        deployed = ctx.deployed(copy.deepcopy(net))
        onnxfile.export(deployed, ctx.task.inputs, ctx.task.answers, path, example=ctx.example())
        return float(ask(path))


def layers(before: nn.Module, after: nn.Module) -> list[dict[str, JSON]]:
    """Every module with parameters of its own, before and after: the rows of the report's table."""
    now = dict(after.named_modules())
    return [
        {"name": name, "kind": type(module).__name__, "before": _shape(module), "after": _shape(now[name]),
         "params_before": _own_params(module), "params_after": _own_params(now[name])}
        for name, module in before.named_modules()
        if _own_params(module)
    ]  # fmt: skip


def _shape(module: nn.Module) -> list[int]:
    return list(next(module.parameters(recurse=False)).shape)


def _own_params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters(recurse=False))
