"""The artifact, a model at rest. What turns one into its child is a stage: see `searchkit.core.stage`."""

from __future__ import annotations

from dataclasses import dataclass, field

from searchkit.core.serialization import JSON


@dataclass(frozen=True)
class Artifact:
    """A model at rest: build(arch), replay the edits, load the weights; or the exported file alone.

    Attributes:
        id: The digest of the lineage.
        space: The family's name.
        arch: The family's own dataclass as JSON.
        training: `Training` as JSON.
        edits: What was cut since the network was built, in order.
        made_by: {"stage": name, **settings}.
        parent: The id of the artifact that it was made of; None of a trial.
        metrics: On val, and costs, by name.
        notes: What the stage has to tell the report.
        files: Role ("weights", "model", "scores", "log") to file name inside the artifact's folder.
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
        """The name of the stage that made it; "Trial" if the search did."""
        return str(self.made_by["stage"])
