"""Edits: a cut network equals the masked one, edits survive JSON, and replay needs nothing but the edits."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prunable_nets import NETS, Recurrences, example
from safetensors.torch import load, save
from torch import Tensor, nn

from searchkit.core.errors import BadInput
from searchkit.nn.attention import Attention
from searchkit.nn.convolution import MixedDepthwise
from searchkit.nn.cuttable import channels, parts
from searchkit.nn.embedding import Positions
from searchkit.nn.recurrent import Recurrent
from searchkit.nn.surgery import Group, apply_edits_, drops, mask_edits_, prunable_groups


def _chosen(data: st.DataObject, groups: tuple[Group, ...]) -> list[tuple[Group, list[int]]]:
    """Some units of each group, never all."""
    return [(g, data.draw(st.lists(st.integers(0, len(g) - 1), unique=True, max_size=len(g) - 1))) for g in groups]


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data())
def test_cut_equals_masked(name: str, data: st.DataObject) -> None:
    net, inputs = example(name)
    groups, refused = prunable_groups(net, inputs)
    assert not refused
    edits = drops(_chosen(data, groups))
    cut, masked = copy.deepcopy(net), copy.deepcopy(net)
    apply_edits_(cut, edits)
    mask_edits_(masked, edits)
    with torch.no_grad():
        assert (cut(*inputs) - masked(*inputs)).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", ["simple", "lstm", "gru", "peephole"])
@settings(max_examples=8, deadline=None, derandomize=True)
@given(data=st.data(), both=st.booleans(), layers=st.integers(1, 2), attend=st.booleans())
def test_a_recurrent_network_rebuilt_equals_the_masked_one(
    kind: str, data: st.DataObject, both: bool, layers: int, attend: bool
) -> None:
    torch.manual_seed(0)
    net = Recurrences(kind, both=both, layers=layers, attend=attend, norm=False).eval()
    inputs = (torch.randn(4, 7, 4), torch.tensor([7, 2, 1, 5]))
    groups, refused = prunable_groups(net, inputs)
    assert not refused and len(groups) == layers * (1 + both)
    edits = drops(_chosen(data, groups))
    cut, masked = copy.deepcopy(net), copy.deepcopy(net)
    apply_edits_(cut, edits)
    mask_edits_(masked, edits)
    with torch.no_grad():
        assert (cut(*inputs) - masked(*inputs)).abs().max() <= 1e-6


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(data=st.data())
def test_two_rounds_of_edits_replay_from_json_onto_a_fresh_network(name: str, data: st.DataObject) -> None:
    net, inputs = example(name)
    shape, edits = net(*inputs).shape, []
    for _ in range(2):
        groups, _ = prunable_groups(net, inputs)
        made = drops(_chosen(data, groups))
        apply_edits_(net, made)
        edits += made
    fresh, _ = example(name, seed=1)
    apply_edits_(fresh, json.loads(json.dumps(edits)))
    fresh.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert net(*inputs).shape == shape and torch.equal(net(*inputs), fresh(*inputs))


def test_heads_cut_equal_heads_masked() -> None:
    torch.manual_seed(0)
    cut, x = Attention(12, heads=4).eval(), torch.randn(2, 5, 12)
    masked = copy.deepcopy(cut)
    edits = [{"cut": "", "side": "inner", "drop": [0, 2]}]
    apply_edits_(cut, edits)
    mask_edits_(masked, edits)
    assert cut.n_inner == 2 and cut.q.out_features == 6 and cut.proj.in_features == 6
    assert torch.allclose(cut(x), masked(x), atol=1e-6)


def test_a_kernel_size_that_lost_all_its_channels_computes_nothing_and_is_restored() -> None:
    torch.manual_seed(0)
    cut, x = MixedDepthwise(8, kernels=(3, 5, 7)), torch.randn(2, 8, 6, 6)
    whole = cut(x)
    for edit in ({"cut": "", "side": "out", "drop": [1, 3, 4, 5]}, {"cut": "", "side": "in", "drop": [2]}):
        apply_edits_(cut, [edit])  # the run of 5 first, then one of those of 7
    assert [conv.groups for conv in cut.convs] == [2, 0, 1] and channels(cut, "out") == 3
    assert torch.allclose(cut(x[:, [0, 2, 7]]), whole[:, [0, 2, 7]], atol=1e-6)
    fresh = MixedDepthwise(8, kernels=(3, 5, 7))
    apply_edits_(fresh, [{"cut": "", "side": "out", "drop": [1, 3, 4, 5, 6]}])
    fresh.load_state_dict(load(save(dict(cut.state_dict()))))
    assert torch.equal(fresh(x[:, [0, 2, 7]]), cut(x[:, [0, 2, 7]]))


@pytest.mark.parametrize(
    "module, side, n",
    [
        (nn.Conv1d(4, 6, 3), "in", 4),
        (nn.Conv3d(4, 6, 3), "out", 6),
        (nn.ConvTranspose1d(4, 6, 3), "in", 4),
        (nn.ConvTranspose3d(4, 6, 3), "out", 6),
        (nn.Conv2d(6, 6, 3, groups=6), "out", 6),
        (nn.ConvTranspose2d(6, 6, 3, groups=6), "in", 6),
        (nn.Linear(4, 6), "in", 4),
        (nn.Embedding(9, 6), "out", 6),
        (nn.BatchNorm3d(6), "out", 6),
        (nn.InstanceNorm2d(6, affine=True, track_running_stats=True), "out", 6),
        (nn.LayerNorm(6, elementwise_affine=False), "out", 6),
        (nn.PReLU(6), "out", 6),
        (Positions(6, length=3), "out", 6),
        (Positions(6, length=3, kind="sinusoidal"), "in", 6),
        (Recurrent(4, 6, kind="peephole"), "out", 6),
    ],
)
def test_every_module_counts_its_units_and_loses_them(module: nn.Module, side: str, n: int) -> None:
    assert channels(module, side) == n
    kept = {(p.name, p.axis): p.by_unit(p.tensor().detach())[[0, 2, 3]].clone() for p in parts(module, side)}
    apply_edits_(module, [{"cut": "", "side": side, "drop": [1, *range(4, n)]}])
    assert channels(module, side) == 3
    for part in parts(module, side):
        assert part.units() == 3
        if not isinstance(module, Recurrent):  # there another part of the same side cuts the same tensor
            assert torch.equal(part.by_unit(part.tensor().detach()), kept[part.name, part.axis])


def test_grouped_convolutions_lose_the_same_place_of_every_group() -> None:
    net = nn.Sequential(nn.Conv2d(1, 8, 1), nn.Conv2d(8, 12, 3, padding=1, groups=4), nn.Conv2d(12, 2, 1))
    x = torch.randn(2, 1, 5, 5)
    groups, refused = prunable_groups(net, (x,))
    assert not refused and sorted(len(g) for g in groups) == [2, 3]
    cut, masked = copy.deepcopy(net), copy.deepcopy(net)
    edits = drops((g, [0]) for g in groups)
    apply_edits_(cut, edits)
    mask_edits_(masked, edits)
    assert torch.allclose(cut(x), masked(x), atol=1e-6)


class Scaled(nn.Module):
    """A parameter that stands by itself, on the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.scale, self.last = nn.Linear(3, 6), nn.Parameter(torch.randn(6)), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) * self.scale)


class Fixed(nn.Module):
    """A size written down beside the modules: this cannot be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.free, self.last = nn.Linear(3, 6), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.free(self.first(x).view(-1, 6)))


def test_a_parameter_by_itself_is_cut_along() -> None:
    net, x = Scaled(), torch.randn(2, 3)
    groups, _ = prunable_groups(net, (x,))
    masked = copy.deepcopy(net)
    edits = drops((g, [1, 4]) for g in groups)
    apply_edits_(net, edits)
    mask_edits_(masked, edits)
    assert net.scale.shape == (4,) and torch.allclose(net(x), masked(x), atol=1e-6)


def test_what_would_break_is_left_alone_and_named() -> None:
    net, x = Fixed(), torch.randn(2, 3)
    groups, refused = prunable_groups(net, (x,))
    assert [len(g) for g in groups] == [8] and refused == ("first",)


def test_outputs_and_protected_modules_are_never_cut() -> None:
    net, inputs = example("plain")
    groups, _ = prunable_groups(net, inputs, protected=["4"])
    outs = {m.name for g in groups for m in g.members if m.side == "out"}
    assert "11" not in outs and "4" not in outs and "0" in outs


def test_finding_groups_leaves_the_network_and_the_random_state_alone() -> None:
    net, inputs = example("vae")
    before, random = copy.deepcopy(net.state_dict()), torch.random.get_rng_state()
    prunable_groups(net, inputs)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()) and not net.training
    assert torch.equal(random, torch.random.get_rng_state())


@pytest.mark.parametrize(
    "edit, words",
    [
        ({"cut": "no", "side": "out", "drop": [0]}, "cuts 'no', which this network does not have"),
        ({"cut": "first", "side": "out", "drop": [6]}, "which has 6 and must keep one"),
        ({"cut": "first", "side": "out", "drop": [0, 1, 2, 3, 4, 5]}, "which has 6 and must keep one"),
        ({"cut": "first", "drop": [0]}, "has 'cut', 'side' and 'drop'"),
        ("first", "has 'cut', 'side' and 'drop'"),
        ({"cut": "", "side": "out", "drop": [0]}, "A Scaled cannot be cut"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(edit: object, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        apply_edits_(Scaled(), [edit])
