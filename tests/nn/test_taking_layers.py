"""A network takes over layers by name and shape, whole layers alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from searchkit.nn.transfer import frozen, matching, n_taken, take_over_


def network(wide: int = 8, answers: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, wide), nn.Linear(wide, answers)
    )


def test_layers_of_the_same_name_and_shape_are_taken_and_no_others() -> None:
    torch.manual_seed(0)
    source, net = network(answers=5), network()
    untouched = net[4].weight.detach().clone()
    weights = source.state_dict()
    assert set(matching(net, weights)) == {name for name in weights if not name.startswith("4.")}
    take_over_(net, weights)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, weights[name]) is not name.startswith("4.")
    assert torch.equal(net[4].weight, untouched)


def test_a_layer_is_taken_whole_or_not_at_all() -> None:
    net, weights = network(), network(answers=5).state_dict()
    del weights["1.running_var"]
    weights["3.bias"] = torch.zeros(9)
    assert set(matching(net, weights)) == {"0.weight", "0.bias"}
    assert n_taken(net, weights) == (4 * 9 + 4, sum(p.numel() for p in net.parameters()))
    assert matching(net, {}) == {} and n_taken(net, {})[0] == 0


def test_what_a_state_dict_leaves_out_need_not_be_there() -> None:
    net = nn.Module()
    net.register_parameter("a", nn.Parameter(torch.zeros(2)))
    net.register_buffer("mask", torch.ones(2), persistent=False)
    assert set(matching(net, {"a": torch.ones(2)})) == {"a"}


def test_what_is_taken_is_not_trained_inside_and_is_afterwards() -> None:
    net, weights = network(), network(answers=5).state_dict()
    with frozen(net, weights):
        assert [name for name, p in net.named_parameters() if p.requires_grad] == ["4.weight", "4.bias"]
    assert all(p.requires_grad for p in net.parameters())
    with pytest.raises(RuntimeError, match="planted"), frozen(net, weights):
        raise RuntimeError("planted")
    assert all(p.requires_grad for p in net.parameters())


def test_if_every_layer_is_taken_the_last_is_trained_by_itself() -> None:
    net = network()
    with frozen(net, network().state_dict()):
        assert [name for name, p in net.named_parameters() if p.requires_grad] == ["4.weight", "4.bias"]


def test_a_parameter_that_was_fixed_before_stays_so() -> None:
    net = network()
    net[0].weight.requires_grad_(False)
    with frozen(net, network(answers=5).state_dict()):
        pass
    assert not net[0].weight.requires_grad and net[0].bias.requires_grad
