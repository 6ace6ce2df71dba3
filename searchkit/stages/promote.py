"""Promote: a trial becomes the fp32 model that every later stage is compared with.

Its weights are the trial's. What is new is the exported file, compared with the network on every example of val.
"""

from __future__ import annotations

from dataclasses import dataclass

from searchkit.core.artifact import Artifact
from searchkit.core.stage import StageContext


@dataclass(frozen=True)
class Promote:
    """Export the winner as it stands."""

    def __call__(self, artifact: Artifact, ctx: StageContext) -> Artifact:
        """The winner with its file. Raises GateFailed if the file disagrees with the network."""
        return ctx.save(ctx.child(artifact, self), ctx.network(artifact), log=ctx.run.log(artifact))
