"""One line of small stages on iris: what the tests of the stages share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import torch

from searchkit.context import Context
from searchkit.core.artifact import Artifact
from searchkit.core.serialization import freeze
from searchkit.core.space_file import load_space
from searchkit.core.stage import Stage
from searchkit.core.task import Task
from searchkit.core.training import FitPlan, TrainState
from searchkit.onnx import measure
from searchkit.run import Run
from searchkit.stages.distill import Distill
from searchkit.stages.export import Export
from searchkit.stages.pipeline import apply
from searchkit.stages.promote import Promote
from searchkit.stages.prune import Prune
from searchkit.stages.quantize import Quantize
from searchkit.tasks import registry

SPACE = load_space(Path(__file__).parent / "families" / "tiny.py")
WIDE = SPACE.arch((96, 32), "relu")  # large enough for int8 to shrink its file
LINE: tuple[Stage, ...] = (
    Promote(),
    Distill(epochs=2, ensemble=2),
    Prune(to=0.6, steps=1, recovery_epochs=2, round_to=1),
    Quantize(methods=("weight-only", "dynamic"), max_drop=1.0),
    Export(),
)


def iris(**changes: object) -> Task:
    return registry.load({"task": "iris", **changes})


def trial(ctx: Context, number: int, arch: object = WIDE, epochs: int = 2) -> Artifact:
    """A trained network as the search leaves it."""
    torch.manual_seed(number)
    net = SPACE.build(arch, ctx.task.spec)
    training = replace(SPACE.training.default, epochs=epochs)
    state = ctx.task.fit(net, FitPlan(training, seed=number, until=epochs, validate=True), TrainState())
    (log, last) = (state.numbers["curve"], state.numbers["curve"][-1])
    draft = Artifact(
        id=f"trial-{number}", space=SPACE.name, arch=freeze(arch), training=freeze(training), edits=(), parent=None,
        made_by={"stage": "Trial", "number": number},
        metrics={ctx.task.goal.metric: last["val"], "params": float(measure.params(net))},
    )  # fmt: skip
    return ctx.run.save(draft, weights=net.state_dict(), log=log)


def context(folder: Path, task: Task) -> Context:
    run = Run.create(folder, "run", {"question": {}})
    return Context(run=run, task=task, spaces=lambda name: SPACE, echo=lambda text: None)


def whole_line(folder: Path, task: Task) -> SimpleNamespace:
    """The line, stage by stage: its artifacts, and what was on disk before each of them."""
    ctx = context(folder, task)
    trial(ctx, 1)
    line, snapshots = [trial(ctx, 0)], []
    for stage in LINE:
        snapshots.append(files(ctx.run.path / "artifacts"))
        line += apply((stage,), line[-1], ctx)
    return SimpleNamespace(ctx=ctx, artifacts=line[1:], snapshots=snapshots)


def timed(paths, example, **options):  # type: ignore[no-untyped-def]
    """In the place of `measure.latency`: no test depends on time."""
    assert all(len(rows) == 1 for rows in example.values())
    return {id: measure.Latency(1.0, 1.0, 1.0, 1.0, 1.0, 5, 40, "no difference") for id in paths}


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.rglob("*")) if p.is_file()}


def keep(draft: Artifact, parent: Artifact, ctx: Context) -> Artifact:
    """The parent's weights under the draft's id, without the seconds of an export."""
    metrics = {**parent.metrics, "size_bytes": 1.0}
    return ctx.run.save(replace(draft, metrics=metrics), weights=ctx.run.weights(parent))


@dataclass(frozen=True)
class Counted:
    """A stage that keeps the weights as they are and notes in a file that it did."""

    name: str = "a"

    def __call__(self, artifact: Artifact, ctx: Context) -> Artifact:
        ctx.run.append_line("calls.jsonl", {"name": self.name})
        return keep(ctx.child(artifact, self), artifact, ctx)
