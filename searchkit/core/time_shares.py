"""How a time budget is shared out: between the search, the final training, the stages and the evidence."""

from __future__ import annotations

from dataclasses import dataclass

STAGES_SECONDS = 30.0
"""What the stages take without any training: exports, parity, candidates."""

EVIDENCE_SECONDS = 30.0
"""Kept back for scoring on test, the latency in five fresh processes, the bundle and the report."""

FINAL_SHARE = 0.35
"""Of the whole budget, that the final training has at least. A network that is trained for a fixed time all alone is
what a search competes with: CIFAR-10 in ten minutes came to 76 % by trials of five epochs (reports/LOG.md)."""

FINAL_OF_ROOM = 0.6
"""Of what the fixed costs leave, for the final training: the architecture that the search finds has to make up for the
time that the search took."""

LEAST_SEARCH_SHARE = 0.3
"""Of the whole budget, for a budget that the fixed costs would use up."""

PRUNING_SHARE = 0.2
"""Of what the fixed costs leave, for the recovery after pruning."""


@dataclass(frozen=True)
class TimeShares:
    """Seconds of a time budget.

    Attributes:
        search: For trials.
        final: For the final training of the winner, planned; it takes what the search leaves too.
    """

    search: float
    final: float

    @property
    def both(self) -> float:
        """Until the stages begin."""
        return self.search + self.final

    def search_left(self, spent: float) -> float:
        """Seconds that the search may take from now on.

        Args:
            spent: Of the budget. Where it is more than the search's share, a search that this budget ended does not go
                on; one that was resumed with a larger budget shares the rest with the final training.
        """
        if spent < self.search:
            return self.search - spent
        return max(0.0, (1.0 - FINAL_OF_ROOM) * (self.both - spent))


def share_out(seconds: float, *, stages: bool, prunes: bool) -> TimeShares:
    """Plan a time budget.

    Args:
        seconds: The whole budget.
        stages: Whether a recipe follows; without one nothing is kept back.
        prunes: Whether that prunes, and so trains again.
    """
    room = max(0.0, seconds - (EVIDENCE_SECONDS + STAGES_SECONDS if stages else 0.0))
    room -= PRUNING_SHARE * room if prunes else 0.0
    search = max(LEAST_SEARCH_SHARE * seconds, (1.0 - FINAL_OF_ROOM) * room)
    return TimeShares(search, max(FINAL_SHARE * seconds, room - search))
