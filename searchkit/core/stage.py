"""What a stage is, and what it may use: a search's winner goes through stages, each of which makes a child of it.

A stage is a frozen dataclass: its fields are its settings, and `__call__` makes the child. One of your own:

```
@dataclass(frozen=True)
class Halve:
    factor: float = 0.5

    def __call__(self, artifact: Artifact, ctx: StageContext) -> Artifact:
        network = ctx.network(artifact)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(self.factor)
        return ctx.save(ctx.child(artifact, self), network)
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from searchkit.core.artifact import Artifact
from searchkit.core.data_spec import Arrays
from searchkit.core.deadline import Deadline
from searchkit.core.serialization import JSON
from searchkit.core.space import Limits, Space
from searchkit.core.task import Task
from searchkit.core.training import Teacher, Training

if TYPE_CHECKING:
    from torch import Tensor, nn


class ArtifactStore(Protocol):
    """The run, as far as a stage uses it; `searchkit.run.Run` is one.

    A stage writes artifacts by `StageContext.save` alone.
    """

    @property
    def name(self) -> str:
        """The run's."""

    @property
    def bundle(self) -> Path:
        """The folder of what is shipped."""

    def has(self, id: str) -> bool:
        """Whether there is a whole artifact of this id."""

    def load(self, id: str) -> Artifact:
        """The artifact of this id. Raises BadInput if it is damaged."""

    def line(self, artifact: Artifact) -> list[Artifact]:
        """The artifact and its ancestors, oldest first."""

    def trials(self) -> list[Artifact]:
        """What the search trained, in order of the trials' numbers."""

    def trial(self, number: int) -> Artifact:
        """The trial of this number. Raises BadInput if it has not finished."""

    def weights(self, artifact: Artifact) -> dict[str, Tensor]:
        """The weights by name."""

    def scores(self, artifact: Artifact) -> np.ndarray:
        """(n,) float64: the score of each example of val."""

    def log(self, artifact: Artifact) -> list[dict[str, JSON]]:
        """The learning curve, a row an epoch; empty if nothing was trained."""

    def file(self, artifact: Artifact, role: str) -> Path:
        """The path of one of its files: "weights", "model", "scores" or "log"."""

    def write_json(self, name: str, value: JSON) -> None:
        """Keep a small file in the run, such as "bundle.json"."""


class StageContext(Protocol):
    """What a stage may use; `searchkit.context.Context` is one."""

    @property
    def run(self) -> ArtifactStore:
        """Where artifacts are."""

    @property
    def task(self) -> Task:
        """The data with their loss and metric. A stage reads train and val; test is for the evidence."""

    @property
    def spaces(self) -> Callable[[str], Space]:
        """A family by its name."""

    @property
    def seed(self) -> int:
        """The run's; derive others from it by `derive_seed`."""

    @property
    def device(self) -> str:
        """On which training runs."""

    @property
    def limits(self) -> Limits:
        """What is shipped must be within these."""

    @property
    def deadline(self) -> Deadline:
        """When this stage should end."""

    @property
    def echo(self) -> Callable[[str], None]:
        """Tells the user a line."""

    def network(self, artifact: Artifact) -> nn.Module:
        """The artifact's network with its weights, in eval mode, on the CPU; a copy that the stage may change."""

    def source(self, artifact: Artifact) -> Artifact:
        """The artifact itself, or its nearest ancestor that has weights."""

    def deployed(self, net: nn.Module) -> nn.Module:
        """The network between the task's preprocessor and postprocessor: from raw features to answers."""

    def model_path(self, artifact: Artifact) -> Path:
        """The artifact's ONNX file."""

    def training(self, artifact: Artifact) -> Training:
        """How it was trained."""

    def example(self, n: int = 2) -> Arrays:
        """Raw examples of val, `n` of them, the fullest if they differ in size."""

    def model_inputs(self, n: int) -> tuple[Tensor, ...]:
        """The same after the preprocessor: what the network itself takes."""

    def child(self, parent: Artifact, stage: Stage, *, edits: tuple[JSON, ...] | None = None) -> Artifact:
        """The draft of what `stage` makes of `parent`, its id known before any work."""

    def save(
        self,
        draft: Artifact,
        net: nn.Module | None,
        *,
        model: Path | None = None,
        log: Sequence[dict[str, JSON]] | None = None,
        notes: Mapping[str, JSON] | None = None,
    ) -> Artifact:
        """Export `net` (or take the file `model`), prove it on val, measure it, and write the artifact."""

    def export(self, net: nn.Module, path: Path) -> dict[str, float]:
        """Write `net` as one ONNX file. Raises GateFailed if the two disagree on an example of val."""

    def scores(self, net: nn.Module) -> np.ndarray:
        """(n,) float64: the score of each example of val."""

    def macs(self, net: nn.Module) -> int:
        """Multiply-accumulates for one example."""

    def recover(
        self,
        net: nn.Module,
        parent: Artifact,
        *,
        epochs: int,
        teacher: Teacher | None = None,
        lr_scale: float = 0.5,
        seed: int = 0,
        share: float = 1.0,
    ) -> list[dict[str, JSON]]:
        """Train `net` in place as its parent was trained; returns the learning curve."""


@runtime_checkable
class Stage(Protocol):
    """Turns an artifact into its child.

    A frozen dataclass: its fields and its name are part of the child's id, so that what is on disk is not made again,
    and are shown in the report.
    """

    def __call__(self, artifact: Artifact, ctx: StageContext) -> Artifact:
        """Make the child, by `ctx.save(ctx.child(artifact, self), …)`; the parent is not changed.

        Raises:
            Inapplicable: There is nothing to do; the recipe goes on without this stage.
            GateFailed: What was made does not do what it promises.
        """
