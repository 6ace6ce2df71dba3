"""The artifact, which is a stored model, and the stage, which turns one artifact into another."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from searchkit.core.serialization import JSON


@dataclass(frozen=True)
class Artifact:
    """A stored model: a search winner, a pruned model and an int8 file are all artifacts.

    To restore its network, build the architecture, replay the edits and load the weights. An artifact may also hold
    only an exported file.

    Attributes:
        id: Digest of the lineage: the architecture, the training settings, and every stage up to this one.
        space: Name of the family.
        arch: The architecture as JSON; `thaw(space.arch, arch)` restores the dataclass.
        training: The training settings as JSON.
        edits: Structural edits in order, as `searchkit.nn.surgery.apply_edits_` takes them.
        made_by: The stage that made it, as `{"stage": name, **config}`.
        parent: Id of the artifact that the stage read, or None for a search trial.
        metrics: Metrics on the validation split and costs, by name.
        notes: What the stage adds to the report.
        files: File name in the artifact's folder by role: "weights", "model", "scores", "log".
    """

    id: str
    space: str
    arch: dict[str, JSON]
    training: dict[str, JSON]
    edits: tuple[JSON, ...]
    made_by: dict[str, JSON]  # {"stage": name, **config}
    parent: str | None
    metrics: dict[str, float] = field(default_factory=dict)
    notes: dict[str, JSON] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        """Name of the stage that made this artifact."""
        return str(self.made_by["stage"])


@runtime_checkable
class Stage(Protocol):
    """A frozen dataclass that turns an artifact into its child when it is called.

    Its fields are its configuration: they enter the child's id, and the report shows them.
    """

    def __call__(self, artifact: Artifact, ctx: Any) -> Artifact:
        """Make the child of an artifact; the parent stays as it is.

        Args:
            artifact: The parent.
            ctx: What a stage may use: the run, the task, devices and the remaining time (`searchkit.context.Context`).

        Returns:
            The child, already stored in the run.

        Raises:
            Inapplicable: If the network has nothing that the stage could change.
            GateFailed: If the result is not what the stage promises.
        """
