"""Networks of one kind share weights, in every family that says how: slices, gradients, and children that inherit."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.errors import Infeasible
from searchkit.core.space import Sharing, Space
from searchkit.core.space_file import load_space
from searchkit.nn.sharing import Shared, copies, identity_, inherit_, is_inside, same_name_and_shape, take_
from searchkit.search.candidates import draw
from searchkit.search.choices import at_random, like

FOLDER = Path(__file__).parents[2] / "spaces"
CLASSES = (TensorSpec("logits", (3,)),)
SPECS = (
    DataSpec("image", (TensorSpec("image", (1, 12, 12)),), CLASSES, 3),
    DataSpec("image", (TensorSpec("image", (2, 28, 26)),), CLASSES, 3),
    DataSpec("series", (TensorSpec("series", (2, 40)),), CLASSES, 3),
    DataSpec("tokens", (TensorSpec("tokens", (24,), "int64"),), CLASSES, 3, 11),
    DataSpec("series", (TensorSpec("series", (3, 48)),), (TensorSpec("forecast", (3, 4)),)),
)
FAMILIES = [space for path in sorted(FOLDER.glob("[!_]*.py")) if (space := load_space(path)).shares is not None]
CASES = [(family, spec) for family in FAMILIES for spec in SPECS if family.accepts(spec) is None]
NAMES = [f"{family.name}-{spec.modality}-{spec.inputs[0].shape}-{spec.forecasts}" for family, spec in CASES]
every_case = pytest.mark.parametrize(("space", "spec"), CASES, ids=NAMES)


def example(spec: DataSpec) -> Tensor:
    shape = (4, *spec.inputs[0].shape)
    return torch.randint(0, 11, shape) if spec.modality == "tokens" else torch.randn(shape)


def pairs(space: Space, spec: DataSpec, n: int) -> Iterator[tuple[nn.Module, nn.Module, Sharing]]:
    """Networks of one kind, with trained-looking statistics; the second differs from the first in some parameters."""
    assert space.shares is not None
    rng = random.Random(0)
    torch.manual_seed(0)
    n_found = 0
    for _ in range(200 * n):
        first = draw(space, spec, at_random(rng), epochs=1, way="")
        kept = {name: value for name, value in first.params.items() if rng.random() < 0.7}
        second = draw(space, spec, like(kept, at_random(rng)), epochs=1, way="")
        if first.arch is None or second.arch is None or first.arch == second.arch:
            continue
        sharing = space.shares(first.arch, second.arch)
        if sharing is None:
            continue
        try:
            nets = [space.build(c.arch, spec) for c in (first, second)]
        except Infeasible:
            continue
        for net in nets:
            settle_(net)
        yield nets[0], nets[1], sharing
        n_found += 1
        if n_found == n:
            return
    raise AssertionError(f"only {n_found} pairs of one kind")


@torch.no_grad()
def settle_(net: nn.Module) -> None:
    """Give each weight and statistic a value of its own, as training does."""
    for tensor in [*net.parameters(), *(b for name, b in net.named_buffers() if "running" in name)]:
        tensor.add_(torch.rand(tensor.shape) * 0.05)
    for module in net.modules():
        if isinstance(module, nn.Dropout | nn.Dropout1d):
            module.p = 0.0
    net.eval()


def test_the_five_families_share() -> None:
    assert [family.name for family in FAMILIES] == ["cnn", "cnn1d", "mixnet", "transformer", "vit"]


@every_case
def test_slices_have_one_shape_and_do_not_overlap(space: Space, spec: DataSpec) -> None:
    for net, other, sharing in pairs(space, spec, 12):
        found, theirs = copies(net, other, sharing), dict(other.named_parameters()) | dict(other.named_buffers())
        assert set(found) >= {name for name, _ in net.named_parameters()}
        n_shared = 0
        for name, tensor in net.named_parameters():
            seen = torch.zeros(tensor.shape)
            for copy in found[name]:
                assert tensor[copy.here].shape == theirs[copy.source][copy.there].shape
                seen[copy.here] += 1
                n_shared += copy.size
            assert seen.max() <= 1, name
        assert n_shared > 0


@every_case
def test_a_network_inside_another_runs_on_its_slices(space: Space, spec: DataSpec) -> None:
    """What it computes is what a copy of the slices computes, and the other's weights get its gradients."""
    n_inside = 0
    for net, other, sharing in pairs(space, spec, 30):
        found = copies(net, other, sharing)
        if not is_inside(net, found):
            continue
        n_inside += 1
        x, own = example(spec), net.state_dict()
        copied = {name: p.clone() for name, p in own.items()}
        net.train()
        torch.manual_seed(1)
        given = Shared(net, other, found)(x)
        given.square().sum().backward()
        net.zero_grad()
        net.load_state_dict(copied)
        take_(net, other, {name: parts for name, parts in found.items() if "running" not in name})
        torch.manual_seed(1)
        wanted = net(x)
        wanted.square().sum().backward()
        torch.testing.assert_close(given, wanted)
        theirs = dict(other.named_parameters())
        for name, parameter in net.named_parameters():
            for copy in found[name]:
                gradient = theirs[copy.source].grad
                assert gradient is not None, name
                assert parameter.grad is not None
                torch.testing.assert_close(gradient[copy.there], parameter.grad[copy.here], msg=lambda m, n=name: n + m)
    assert n_inside >= 2


def norm_widths(net: nn.Module) -> set[tuple[int, ...]]:
    return {m.normalized_shape for m in net.modules() if isinstance(m, nn.LayerNorm)}


def grown(space: Space, spec: DataSpec) -> Iterator[tuple[Any, Any]]:
    """Architectures and a larger one of the same kind, which differ in one number."""
    assert space.shares is not None
    rng = random.Random(1)
    for _ in range(80):
        small = draw(space, spec, at_random(rng), epochs=1, way="")
        name = rng.choice(sorted(n for n in small.params if not n.startswith("train.")))
        large = draw(space, spec, like({**small.params, name: None}, at_random(rng)), epochs=1, way="")
        if small.arch is not None and large.arch is not None and small.arch != large.arch:
            yield small.arch, large.arch


@every_case
def test_a_larger_child_computes_what_its_parent_does(space: Space, spec: DataSpec) -> None:
    """Wider, deeper, larger kernels: to 1e-5, wherever no layer norm sees more channels."""
    assert space.shares is not None
    torch.manual_seed(0)
    n_grown = 0
    for small, large in grown(space, spec):
        back, sharing = space.shares(small, large), space.shares(large, small)
        if back is None or sharing is None:
            continue
        parent, child = space.build(small, spec), space.build(large, spec)
        settle_(parent)
        settle_(child)
        inside = is_inside(parent, copies(parent, child, back))
        if not inside or norm_widths(parent) != norm_widths(child):
            continue
        share = inherit_(child, parent, sharing)
        assert 0 < share <= 1
        x = example(spec)
        wanted, given = parent(x), child(x)
        torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-5 * max(1.0, float(wanted.detach().abs().max())))
        n_grown += 1
    assert n_grown >= 2


@every_case
def test_a_child_of_any_shape_takes_what_fits(space: Space, spec: DataSpec) -> None:
    """Also where one is wider and the other deeper; the child can be trained."""
    for child, parent, sharing in pairs(space, spec, 8):
        before = {name: p.clone() for name, p in child.state_dict().items()}
        assert 0 < inherit_(child, parent, sharing) <= 1
        assert any(not torch.equal(before[name], p) for name, p in child.state_dict().items())
        child.train()
        child(example(spec)).square().sum().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in child.parameters())


def test_networks_of_different_kinds_match_by_name_and_shape() -> None:
    cnn = next(family for family in FAMILIES if family.name == "cnn")
    assert cnn.shares is not None
    plain, squeezed = (cnn.arch(depths=(1, 1), widths=(8, 16), squeeze_excite=on) for on in (False, True))
    assert cnn.shares(plain, squeezed) is None
    one, other = (cnn.build(arch, SPECS[0]) for arch in (plain, squeezed))
    settle_(other)
    found = same_name_and_shape(one, other)
    take_(one, other, found)
    assert torch.equal(one.get_parameter("0.weight"), other.get_parameter("0.weight"))
    assert all(sum(c.size for c in parts) in (0, one.state_dict()[name].numel()) for name, parts in found.items())


def named(name: str) -> Space:
    return next(family for family in FAMILIES if family.name == name)


def between(space: Space, spec: DataSpec, small: Any, large: Any) -> tuple[nn.Module, Any]:
    """The small network and its copies in the large one."""
    assert space.shares is not None
    sharing = space.shares(small, large)
    assert sharing is not None
    net = space.build(small, spec)
    return net, copies(net, space.build(large, spec), sharing)


def test_a_new_block_without_a_shortcut_passes_its_input_on() -> None:
    cnn = named("cnn")
    net = cnn.build(cnn.arch(depths=(2,), widths=(8,), block="plain", squeeze_excite=True, stem_width=8), SPECS[0])
    settle_(net)
    block = net.get_submodule("4")
    identity_(block)
    x = torch.rand(2, 8, 5, 5)
    torch.testing.assert_close(block(x), x)


def test_a_channel_of_mixnet_has_at_least_as_large_a_kernel_in_the_larger_network() -> None:
    mixnet = named("mixnet")
    large = mixnet.arch(depths=(1, 3), widths=(40, 80), stem_width=40, expansion=5, head_width=128)
    for kernels, expansion, width in (((3,), 2, 8), ((3, 5), 5, 40), ((3, 5, 7), 3, 24), ((3, 5, 7, 9), 4, 16)):
        small = mixnet.arch(
            (1, 2), (width, width), kernels=kernels, expansion=expansion, stem_width=width, head_width=64
        )
        net, found = between(mixnet, SPECS[1], small, large)
        assert is_inside(net, found), (kernels, expansion, width)


def test_a_head_of_attention_is_the_first_channels_of_the_same_head() -> None:
    vit = named("vit")
    _, found = between(vit, SPECS[0], vit.arch(width=16, heads=2), vit.arch(width=32, heads=2))
    rows = [(c.here[0], c.there[0]) for c in found["blocks.0.attention.q.weight"]]
    columns = [(c.here[1], c.there[1]) for c in found["blocks.0.attention.proj.weight"]]
    assert rows == columns == [(slice(0, 8), slice(0, 8)), (slice(8, 16), slice(16, 24))]


def test_a_head_that_reads_mean_and_maximum_shares_the_first_channels_of_both() -> None:
    transformer = named("transformer")
    small, large = (transformer.arch(width=width, frame=3, embedded=32, pooling="both") for width in (16, 48))
    _, found = between(transformer, SPECS[3], small, large)
    columns = [(c.here[1], c.there[1]) for c in found["head.weight"]]
    assert columns == [(slice(0, 16), slice(0, 16)), (slice(16, 32), slice(48, 64))]
