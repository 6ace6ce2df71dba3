"""ViT: published sizes, how a picture becomes patches, and that heads, feed-forward nets and the width are cut."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.errors import Infeasible
from searchkit.core.space_file import load_space
from searchkit.nn.surgery import apply_edits_, drops, mask_edits_, prunable_groups

VIT = load_space(Path(__file__).parents[2] / "spaces" / "vit.py")


def picture(channels: int, height: int, width: int, n_classes: int = 10) -> DataSpec:
    image = TensorSpec("image", (channels, height, width))
    return DataSpec("image", (image,), (TensorSpec("logits", (n_classes,)),), n_classes)


def test_points_have_their_published_sizes() -> None:
    """Touvron et al. 2021 (arXiv:2012.12877), table 1: 5M and 22M; exactly 5,717,416 and 22,050,664 with a learned
    class token, which is here zeros: its position is learned."""
    for name, published, width in (("ti-16", 5_717_416, 192), ("s-16", 22_050_664, 384)):
        with torch.device("meta"):
            net = VIT.build(VIT.points[name], picture(3, 224, 224, 1000))
        assert sum(p.numel() for p in net.parameters()) == published - width


@pytest.mark.parametrize("pooling", ["mean", "token"])
@pytest.mark.parametrize("stem", ["patches", "convolutions"])
@pytest.mark.parametrize(("size", "patch", "patches"), [((8, 8), 2, 16), ((9, 7), 4, 6), ((28, 28), 8, 16)])
def test_a_picture_becomes_its_patches(
    stem: str, pooling: str, size: tuple[int, int], patch: int, patches: int
) -> None:
    net = VIT.build(VIT.arch(patch=patch, stem=stem, pooling=pooling), picture(2, *size))
    assert net.positions.table.shape[0] == patches + (pooling == "token")
    seen: list[torch.Size] = []
    net.blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    assert net(torch.randn(3, 2, *size)).shape == (3, 10)
    assert seen == [(3, patches + (pooling == "token"), 64)]


@pytest.mark.parametrize("stem", ["patches", "convolutions"])
def test_heads_and_feed_forward_are_cut_as_masked_and_the_width_is_cut(stem: str) -> None:
    torch.manual_seed(0)
    net, x = VIT.build(VIT.arch(stem=stem, pooling="token"), picture(1, 8, 8)).eval(), torch.randn(3, 1, 8, 8)
    groups, refused = prunable_groups(net, (x,))
    assert refused == ()
    [width] = [g for g in groups if any(m.name == "positions" for m in g.members)]
    assert {"head", "norm", "blocks.0.attention", "blocks.1.attention"} <= {m.name for m in width.members}
    heads = [g for g in groups if g.members[0].side == "inner"]
    assert [len(g) for g in heads] == [4, 4]
    others = [(g, [1, 2]) for g in groups if g is not width]
    with torch.no_grad():
        before = net(x)
        mask_edits_(net, drops(others))
        masked = net(x)
        apply_edits_(net, drops(others))
        torch.testing.assert_close(net(x), masked, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(before, masked)
        assert net.blocks[0].attention.n_inner == 2
        apply_edits_(net, drops([(width, [0, 7, 63])]))
        assert net(x).shape == (3, 10)
        assert net.head.in_features == 61


def test_the_search_asks_for_patches_that_suit_the_picture() -> None:
    asked: dict[str, list[int]] = {}

    class Draft:
        def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
            return low

        def suggest_float(self, *given: object, **named: object) -> float:
            raise AssertionError("vit asks for no float")

        def suggest_categorical(self, name: str, choices: list[int]) -> int:
            asked[name] = list(choices)
            return choices[0]

    for side, expected in ((8, [2, 4]), (28, [4, 8]), (32, [4, 8]), (96, [16, 32]), (224, [32, 64])):
        VIT.sample(Draft(), picture(1, side, side))
        assert asked["patch"] == expected


def test_what_cannot_be_built_is_infeasible() -> None:
    with pytest.raises(Infeasible, match="4 heads"):
        VIT.build(VIT.arch(width=34), picture(1, 8, 8))
    with pytest.raises(Infeasible, match="power of 2"):
        VIT.build(VIT.arch(patch=3), picture(1, 9, 9))
    assert isinstance(VIT.build(VIT.arch(patch=3, stem="patches"), picture(1, 9, 9)), nn.Module)
    assert "one size" in str(
        VIT.accepts(DataSpec("image", (TensorSpec("i", (1, None, 8)),), (TensorSpec("logits", (3,)),), 3))
    )
