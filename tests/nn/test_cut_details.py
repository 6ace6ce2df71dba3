"""Details of cutting: what is frozen stays frozen, and a difference is a share of the answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from searchkit.nn.surgery import apply_edits_, drops, gap, prunable_groups


def test_a_frozen_weight_is_frozen_after_it_was_cut() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    ((group, *_), _) = prunable_groups(net, (torch.randn(2, 4),))
    net[0].weight.requires_grad_(False)
    apply_edits_(net, drops([(group, [0, 1])]))
    assert net[0].weight.shape == (4, 4)
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True]


class Wide(nn.Module):
    """Its answers are `size` times as large, and an eighth larger if a unit is missing."""

    def __init__(self, size: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.size = nn.Linear(4, 6), nn.Linear(6, 3), size

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.size * self.last(h) * (1.0 if h.shape[1] == 6 else 1.125)


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_a_gap_is_a_share_of_the_largest_answer(size: float) -> None:
    x = (torch.randn(8, 4, generator=torch.Generator().manual_seed(0)),)
    net = Wide(size).eval()
    edits: list[Any] = [{"cut": "first", "side": "out", "drop": [1]}, {"cut": "last", "side": "in", "drop": [1]}]
    assert gap(net, x, edits) == pytest.approx(0.125, rel=0.01)
