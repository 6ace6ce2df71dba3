"""The encoder over text: every way to tell positions, frames of tokens, and that all of it is cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.space_file import load_space
from searchkit.nn.attention import DISTANCES
from searchkit.nn.surgery import apply_edits_, drops, prunable_groups

SPACE = load_space(Path(__file__).parents[2] / "spaces" / "transformer.py")
TEXT = DataSpec(
    "tokens",
    (TensorSpec("tokens", (24,), "int64"), TensorSpec("lengths", (), "int64")),
    (TensorSpec("logits", (3,)),),
    3,
    vocabulary=30,
)
POSITIONS = ("learned", "sinusoidal", *DISTANCES)
POOLINGS = ("mean", "both", "token")


def network(**arch: object) -> nn.Module:
    torch.manual_seed(0)
    return SPACE.build(SPACE.arch(**{"width": 32, "hop": 1, "frame": 3, "embedded": 48, **arch}), TEXT)


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(30, (3, 24), generator=generator), torch.tensor([20, 7, 1])


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_a_row_answers_the_same_alone_and_in_training_as_in_use(positions: str, pooling: str) -> None:
    """In training the steps that no row has are left out, and without dropout nothing else differs."""
    net, (tokens, lengths) = network(positions=positions, pooling=pooling), rows()
    together = net.eval()(tokens, lengths)
    torch.testing.assert_close(net.train()(tokens, lengths), together, rtol=1e-4, atol=1e-5)
    for row, length in enumerate(lengths.tolist()):
        alone = net.eval()(tokens[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", POSITIONS)
def test_the_order_of_words_counts(positions: str) -> None:
    net, (tokens, lengths) = network(positions=positions, frame=1).eval(), rows()
    for parameter in net.parameters():  # away from the start, where distances say next to nothing
        nn.init.normal_(parameter, std=0.3)
    turned = tokens.clone()
    turned[0, :20] = tokens[0, :20].flip(0)
    assert (net(turned, lengths)[0] - net(tokens, lengths)[0]).abs().max() > 1e-3


def test_text_loses_heads_feed_forward_units_width_and_embedding() -> None:
    net, inputs = network(positions="disentangled", pooling="both", depth=2).eval(), rows()
    groups, refused = prunable_groups(net, inputs)
    assert refused == ()
    named = {frozenset(member.name for member in group.members): group for group in groups}
    assert len(named[frozenset({"stem.embedding", "stem.conv"})]) == 48
    [width] = [group for names, group in named.items() if "head" in names]
    assert len(width) == 32 and sum(group.members[0].side == "inner" for group in groups) == 2
    edits = drops([(group, [0]) for group in groups])
    apply_edits_(net, edits)
    assert net(*inputs).shape == (3, 3) and net.head.in_features == 2 * 31
    assert net.blocks[0].attention.distances.keys.shape[0] == 3
    again = network(positions="disentangled", pooling="both", depth=2).eval()
    apply_edits_(again, json.loads(json.dumps(edits)))
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(*inputs), net(*inputs))
