"""The artifact, a model at rest, and the stage, which turns one into its child."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from searchkit.core.serialization import JSON

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Artifact:
    """A model at rest: build(arch), replay the edits, load the weights; or the exported file alone.

    id: digest of the lineage. metrics: val metrics and costs, by name. notes: what the stage has to tell the report.
    files: role to file name inside the artifact's folder ("weights", "model", "scores", "log").
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
        return str(self.made_by["stage"])


@runtime_checkable
class Stage(Protocol):
    """A frozen dataclass; calling it turns an artifact into its child. Its fields are hash key and report row."""

    def __call__(self, artifact: Artifact, ctx: Any) -> Artifact: ...
