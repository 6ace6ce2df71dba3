"""The artifact, which is a stored model. What turns one into another is a stage: see `searchkit.core.stage`."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    made_by: dict[str, JSON]
    parent: str | None
    metrics: dict[str, float] = field(default_factory=dict)
    notes: dict[str, JSON] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        """Name of the stage that made this artifact; "Trial" if the search did."""
        return str(self.made_by["stage"])
