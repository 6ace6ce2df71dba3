"""The first weights of the layers that have their own, and what stands in for a layer while dependencies are traced."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from searchkit.nn.dependencies import _stand_in
from searchkit.nn.graph import GraphAttention
from searchkit.nn.sequence import AttentionPool


@pytest.mark.parametrize("width", [64, 4096])
def test_the_query_of_attention_pooling_has_the_length_of_one(width: int) -> None:
    torch.manual_seed(0)
    query = AttentionPool(width).query.detach()
    assert float(query.std()) == pytest.approx(1 / math.sqrt(width), rel=0.25)


def test_the_vectors_of_graph_attention_are_glorots_for_one_output() -> None:
    torch.manual_seed(0)
    layer = GraphAttention(8, 256, heads=4)
    bound = math.sqrt(6 / (1 + 256))
    for vector in (layer.from_source.detach(), layer.from_target.detach()):
        assert float(vector.abs().max()) == pytest.approx(bound, rel=0.02) and float(vector.abs().max()) <= bound
        assert float(vector.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize(
    ("kind", "batch_first", "bidirectional", "n_layers"),
    list(itertools.product((nn.RNN, nn.GRU, nn.LSTM), (True, False), (True, False), (1, 2))),
)
@pytest.mark.parametrize("batched", [True, False])
def test_the_stand_in_of_a_recurrent_layer_has_its_shapes(
    kind: type[nn.RNNBase], batch_first: bool, bidirectional: bool, n_layers: int, batched: bool
) -> None:
    layer = kind(5, 7, num_layers=n_layers, batch_first=batch_first, bidirectional=bidirectional)  # type: ignore[arg-type]
    x = torch.randn(*((2, 3) if batched else (3,)), 5, requires_grad=True)
    y, state = layer(x)
    like, state_like = _stand_in(layer, x)
    assert like.shape == y.shape
    parts = zip(state, state_like, strict=True) if isinstance(layer, nn.LSTM) else [(state, state_like)]
    assert all(a.shape == b.shape for a, b in parts)
