"""Prune: remove the channels, hidden units and attention heads that matter least, in steps with recovery between.

The user asks for a result (a share of the parameters, the MACs, the file or the latency), and the share of units that
gives it is found by bisection on the structure alone. What is cut with what is the business of `searchkit.nn.surgery`;
which units go, that of `importance`. Not to be confused with unstructured sparsity: every cut leaves a smaller dense
network.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from searchkit.core.artifact import Artifact
from searchkit.core.errors import BadInput, GateFailed, Inapplicable
from searchkit.core.goal import Tolerance
from searchkit.core.random_state import seeded
from searchkit.core.scratch import scratch_folder
from searchkit.core.serialization import JSON, derive_seed, thaw
from searchkit.core.stage import StageContext
from searchkit.core.training import Teacher
from searchkit.nn.surgery import apply_edits_
from searchkit.onnx import io as onnx_io
from searchkit.onnx import measure
from searchkit.stages.importance import IMPORTANCES, Cost, Gradients, Ranking, Uncuttable, cuts, listed, prune_

COSTS = {"params": "parameters", "size": "bytes of the file", "macs": "MACs", "latency": "ms"}


@dataclass(frozen=True)
class Aim:
    """What the steps work towards.

    Attributes:
        by: The cost's name, which says its unit.
        cost: Measures a network.
        before: Of the parent.
        target: What is aimed at.
        whole: Names of the layers that cannot be cut on the way.
    """

    by: str
    cost: Cost
    before: float
    target: float
    whole: tuple[str, ...]


@dataclass(frozen=True)
class Prune:
    """Cut a network in steps, with training between them.

    Attributes:
        to: Below 1 the share of the parent's cost to keep, above 1 the cost itself, in the unit of `by`.
        by: "params", "size" (bytes of the fp32 file), "macs", or "latency" (ms at batch 1 on one thread).
        importance: What says which units go: one of IMPORTANCES.
        global_ranking: See `Ranking`.
        steps: Each takes the same share of what is left.
        recovery_epochs: In all, half of them after the last step.
        teacher: Whether the parent's answers guide the recovery.
        temperature: Of the softened logits; above 0.
        weight: Of the teacher's part in the loss, 0 to 1.
        lr_scale: Times the parent's learning rate.
        round_to: See `Ranking`.
        max_drop: None delivers what was asked, or is a failed gate. A number keeps the last step that is as good as the
            parent on val within it, or within what val can tell (`Tolerance.admits_in_pairs`); if there is none, or
            the target is out of reach, the stage does not apply.
        max_rise: The same of an error, relative.
    """

    to: float = 0.5
    by: str = "params"
    importance: str = "l2"
    global_ranking: bool = False
    steps: int = 3
    recovery_epochs: int = 12
    teacher: bool = True
    temperature: float = 2.0
    weight: float = 0.5
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

    def __call__(self, artifact: Artifact, ctx: StageContext) -> Artifact:
        """The smaller network.

        Raises:
            Inapplicable: There is nothing to cut, or the target is met already; see max_drop for more.
            Uncuttable: No cut gives what was asked, and `max_drop` is None.
            GateFailed: The network did not shrink, or its edits do not rebuild it.
        """
        try:
            return self._cut(artifact, ctx)
        except Uncuttable as error:
            if self.max_drop is None:
                raise
            raise Inapplicable(error.why) from error

    def _cut(self, artifact: Artifact, ctx: StageContext) -> Artifact:
        parent = ctx.network(artifact)
        net, example = copy.deepcopy(parent), ctx.model_inputs(4)
        aim = self._aim(net, artifact, ctx)
        cost, before, target = aim.cost, aim.before, aim.target
        if aim.whole:
            ctx.echo(f"Prune: cannot follow {listed(aim.whole)} through the network, and leaves them whole")
        edits: list[JSON] = []
        log: list[dict[str, JSON]] = []
        steps: list[dict[str, JSON]] = []
        snapshots: list[tuple[nn.Module, list[JSON], np.ndarray]] = []
        for step in range(self.steps):
            rung = before * (target / before) ** ((step + 1) / self.steps)  # the same share each step
            ranking = Ranking(
                self.importance, self.global_ranking, self.round_to, derive_seed(ctx.seed, artifact.id, step)
            )
            # Widths are rounded, so an earlier step may have met this step's target already.
            if cost(net) > rung:
                gradients = self._gradients(artifact, ctx) if self.importance == "taylor" else None
                edits += prune_(net, example, cost=cost, target=rung, ranking=ranking, gradients=gradients)
            raw = ctx.task.goal.value(ctx.scores(net))
            log += [{"step": step + 1, **row} for row in self._recover(net, artifact, ctx, step, parent)]
            scores = ctx.scores(net)
            value = ctx.task.goal.value(scores)
            steps.append({"params": measure.params(net), "raw": raw, "val": value})
            # Copies: the next step changes the network and the list in place.
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
        if aim.whole:
            notes["whole"] = list(aim.whole)
        return ctx.save(ctx.child(artifact, self, edits=(*artifact.edits, *edits)), net, log=log, notes=notes)

    def _keep(self, scores: list[np.ndarray], reference: np.ndarray, ctx: StageContext) -> int:
        """The index of the step whose network is the stage's result. Raises Inapplicable if none is as good."""
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
        self, net: nn.Module, artifact: Artifact, ctx: StageContext, step: int, parent: nn.Module
    ) -> list[dict[str, JSON]]:
        # Half of the epochs follow the last step, the others are shared out among the steps before it. `still` counts
        # the epochs from this step on, of which this one takes its share of the stage's time.
        last = math.ceil(self.recovery_epochs / 2) if self.steps > 1 else self.recovery_epochs
        epochs = last if step == self.steps - 1 else (self.recovery_epochs - last) // (self.steps - 1)
        if not epochs:
            return []
        teacher = Teacher(parent, self.temperature, self.weight) if self.teacher else None
        still = last + (epochs * (self.steps - 1 - step) if step < self.steps - 1 else 0)
        return ctx.recover(
            net, artifact, epochs=epochs, teacher=teacher, lr_scale=self.lr_scale, seed=step, share=epochs / still
        )

    def _aim(self, net: nn.Module, artifact: Artifact, ctx: StageContext) -> Aim:
        """What to cut to. Raises Inapplicable if the parent meets the target already, Uncuttable if no cut does."""
        ranking = Ranking("l2", self.global_ranking, self.round_to)  # the structure matters here, not the units
        found = cuts(net, ctx.model_inputs(4), ranking)
        costs: dict[str, Cost] = {"macs": ctx.macs, "size": _FileSize(net, ctx)}
        cost = costs.get(self.by, _params)
        with scratch_folder() as folder:
            timed = _Latency(net, ctx, folder) if self.by == "latency" else None
            before = (timed or cost)(net)
            target = self.to * before if self.to < 1 else self.to
            if before <= target:
                raise Inapplicable(
                    f"the network already costs {before:,.6g} {COSTS[self.by]}, no more than the {target:,.6g} asked"
                    " for"
                )
            # For a latency, the widths that reach it are needed. For another cost, the only question here is whether
            # the smallest network reaches the target, which `fit` asks first: one round is enough.
            kept = found.fit(timed or cost, target, rounds=5 if timed else 1)
            if timed is not None:  # an export a network is too dear for every step: aim at the parameters that it gave
                return Aim("params", cost, cost(net), cost(found.trial(kept)), found.whole)
        return Aim(self.by, cost, before, target, found.whole)

    def _gradients(self, artifact: Artifact, ctx: StageContext) -> Gradients:
        """A copy of the network with the gradients of the task's loss over some batches of train."""

        def with_gradients(net: nn.Module) -> nn.Module:
            probe = copy.deepcopy(net).train()
            plain = replace(ctx.training(artifact), augment=(), mixup=0.0, label_smoothing=0.0)
            batches = ctx.task.batches("train", plain, seed=derive_seed(ctx.seed, "taylor"), device="cpu")
            # Dropout draws from torch's global generator.
            with seeded(derive_seed(ctx.seed, "taylor")):
                for batch in islice(batches, 16):
                    ctx.task.loss(probe, batch).backward()  # type: ignore[no-untyped-call]
            return probe

        return with_gradients

    def _prove(
        self, net: nn.Module, parent: nn.Module, artifact: Artifact, edits: list[JSON], example: Sequence[Tensor],
        ctx: StageContext,
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
    """Bytes of the exported file by arithmetic after one export, and never fewer than the file has.

    Cutting takes 4 bytes a number out of the matrices, leaves the graph as it is, and shortens what else there is.
    """

    def __init__(self, net: nn.Module, ctx: StageContext) -> None:
        self.net, self.ctx, self.rest = net, ctx, math.nan

    def __call__(self, net: nn.Module) -> float:
        if math.isnan(self.rest):
            self.rest = _exported(self.net, self.ctx, measure.size_bytes) - _matrix_bytes(self.net)
        return self.rest + _matrix_bytes(net)


def _matrix_bytes(net: nn.Module) -> int:
    return sum(4 * p.numel() for p in net.parameters() if p.ndim > 1)


class _Latency:
    """Milliseconds of the exported file at batch 1 on one thread, by interleaved ratio to the parent's file."""

    def __init__(self, net: nn.Module, ctx: StageContext, folder: Path) -> None:
        self.ctx, self.parent = ctx, folder / "parent.onnx"
        # A copy, since `export` moves the network to the CPU and into eval mode.
        ctx.export(copy.deepcopy(net), self.parent)

    def __call__(self, net: nn.Module) -> float:
        return _exported(net, self.ctx, self._measure)

    def _measure(self, path: Path) -> float:
        timed = measure.latency({"parent": self.parent, "this": path}, self.ctx.example(), processes=0)
        # Milliseconds by way of the ratio, for which both files were timed in the same rounds.
        return timed["this"].ratio * timed["parent"].p50_ms


def _exported(net: nn.Module, ctx: StageContext, ask: Callable[[Path], float]) -> float:
    with scratch_folder() as folder:
        path = folder / "model.onnx"
        deployed = ctx.deployed(copy.deepcopy(net))
        onnx_io.export(deployed, ctx.task.inputs, ctx.task.answers, path, example=ctx.example())
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
