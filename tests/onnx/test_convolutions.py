"""What the convolutional families promise of themselves, beyond what every family must hold."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.space_file import load_space
from searchkit.nn.convolution import MixedDepthwise
from searchkit.nn.surgery import apply_edits_, drops, prunable_groups
from searchkit.onnx import io as onnx_io
from searchkit.onnx.predictor import Deployed
from searchkit.search.candidates import draw
from searchkit.search.choices import at_random

SPACES = Path(__file__).parents[2] / "spaces"
CNN1D, MIXNET = (load_space(SPACES / f"{name}.py") for name in ("cnn1d", "mixnet"))
RAGGED = DataSpec(
    "series",
    (TensorSpec("series", (2, None)), TensorSpec("lengths", (), "int64")),
    (TensorSpec("logits", (3,)),),
    n_classes=3,
)
ARCHS = {
    "strides": CNN1D.arch(block="residual", depths=(1, 2, 1), widths=(8, 12, 16), hop=2),
    "maxima": CNN1D.arch(block="residual", depths=(1, 1), widths=(8, 8), downsample="max", stem_pool=4, pooling="max"),
    "separable": CNN1D.arch(block="separable", depths=(1, 2), widths=(8, 12), downsample="max", stem_pool=2, hop=3),
    "dilated": CNN1D.arch(block="dilated", depths=(3,), widths=(8,), kernel=3),
    "causal": CNN1D.arch(block="dilated", depths=(3,), widths=(8,), causal=True, frame=1, pooling="last"),
}


def seeded(arch: object, spec: DataSpec) -> nn.Module:
    """In eval mode, with running statistics that are not those of a fresh network: zeros do not stay zeros."""
    torch.manual_seed(0)
    net = CNN1D.build(arch, spec)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
    return net.eval()


@pytest.mark.parametrize("name", ARCHS)
@pytest.mark.parametrize("length", [1, 8, 21])
@torch.no_grad()
def test_the_steps_of_a_row_are_those_that_every_stride_leaves_of_it(name: str, length: int) -> None:
    net = seeded(ARCHS[name], RAGGED)
    x, lengths = torch.randn(3, 2, 30), torch.tensor([length, 30, 12])
    alone = net(x[:1, :, :length], None)
    x[0, :, length:] = 100.0
    torch.testing.assert_close(net(x, lengths)[:1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ARCHS)
def test_every_channel_can_be_cut(name: str) -> None:
    net, inputs = seeded(ARCHS[name], RAGGED), (torch.randn(3, 2, 30), torch.tensor([30, 9, 21]))
    groups, refused = prunable_groups(net, inputs)
    assert not refused
    made = {member.name for group in groups for member in group.members if member.side == "out"}
    convs = {name for name, module in net.named_modules() if isinstance(module, nn.Conv1d)}
    assert convs <= made


@pytest.mark.parametrize("causal, ahead, behind", [(False, 30, 30), (True, 0, 60)])
def test_dilated_blocks_reach_as_far_as_bai_et_al_say(causal: bool, ahead: int, behind: int) -> None:
    """Two convolutions of kernel k at dilations 1, 2, …, 2^(n-1): 2(k - 1)(2^n - 1) steps; here k = 3 and n = 4, causal
    behind, else half of it on either side."""
    arch = CNN1D.arch(block="dilated", depths=(4,), widths=(8,), kernel=3, causal=causal, frame=1, pooling="mean")
    net = seeded(arch, RAGGED)
    net.stem.relu = nn.Identity()  # a ReLU that is off would hide a step that is in reach
    for block in net.body:
        block.relu = nn.Identity()
        for conv in block.convs:
            conv.active = nn.Identity()
    x = torch.randn(1, 2, 151, requires_grad=True)
    _steps(net, x)[0, :, 75].sum().backward()
    seen = x.grad[0].abs().sum(0).nonzero().flatten() - 75
    assert seen.tolist() == list(range(-behind, ahead + 1))


def test_ten_seconds_of_raw_audio_are_affordable() -> None:
    """The stem leaves 257 to 512 steps or half of that, so that what follows costs what a short series costs."""
    steps = 80_000
    spec = DataSpec("series", (TensorSpec("series", (1, steps)),), (TensorSpec("logits", (10,)),), n_classes=10)
    x = torch.zeros(1, 1, steps)
    for seed in range(12):
        arch = draw(CNN1D, spec, at_random(random.Random(seed)), epochs=1, way="test").arch
        assert arch.frame > arch.hop
        net = CNN1D.build(arch, spec).eval()
        with torch.no_grad():
            left = net.stem(x, None)[0].shape[1] / arch.stem_pool
            assert net(x).shape == (1, 10)
        assert 128 < left <= 512


@pytest.mark.parametrize("n_targets", [1, 3])
def test_values_are_answered_as_classes_are(n_targets: int) -> None:
    answer = (TensorSpec("values", (n_targets,)),)
    series = DataSpec("series", (TensorSpec("series", (2, 40)),), answer)
    picture = DataSpec("image", (TensorSpec("image", (1, 8, 8)),), answer)
    for space, spec in ((CNN1D, series), (MIXNET, picture)):
        assert space.accepts(spec) is None
        net = space.build(space.arch(), spec).eval()
        assert net(torch.randn(2, *spec.inputs[0].shape)).shape == (2, n_targets)


def image(size: int) -> DataSpec:
    return DataSpec("image", (TensorSpec("image", (1, size, size)),), (TensorSpec("logits", (10,)),), n_classes=10)


@pytest.mark.parametrize("size, mixed", [(16, [4, 4]), (8, [4, 3]), (3, [2, 1])])
def test_kernels_that_see_only_the_outside_are_left_out(size: int, mixed: list[int]) -> None:
    """3, 5, 7 and 9 on a picture of 16, 7 at most on one of 4, 3 alone on one of 2; every weight meets a pixel."""
    arch = MIXNET.arch(depths=(1, 2), widths=(16, 24))
    net = MIXNET.build(arch, image(size))
    found = [len(module.convs) for module in net.modules() if isinstance(module, MixedDepthwise)]
    assert found == [mixed[0], mixed[0], mixed[1]]


def test_a_picture_too_small_for_the_stages_is_infeasible() -> None:
    from searchkit.core.errors import Infeasible

    with pytest.raises(Infeasible, match="the image is 1 wide before stage 2: too small to halve"):
        MIXNET.build(MIXNET.arch(depths=(1, 1, 1), widths=(8, 8, 8)), image(2))


class AsGiven(nn.Module):
    """The preprocessor of data that need no scaling."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_file_of_a_network_that_lost_a_kernel_size_agrees_and_is_smaller(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, rows = MIXNET.build(MIXNET.arch(), image(8)).eval(), np.random.default_rng(0).normal(size=(5, 1, 8, 8))
    rows = rows.astype(np.float32)
    groups, refused = prunable_groups(net, (torch.from_numpy(rows),))
    assert not refused
    name, mixed = next((name, m) for name, m in net.named_modules() if isinstance(m, MixedDepthwise))
    (group,) = [group for group in groups if name in {member.name for member in group.members}]
    tied = {member.name: member.indices for member in group.members}
    of_three = [unit for unit, indices in enumerate(tied[name]) if indices[0] < mixed.convs[0].groups]
    sizes, convs = [], []
    for path in (tmp_path / "whole.onnx", tmp_path / "cut.onnx"):
        whole = Deployed(AsGiven(), net, nn.Identity()).eval()
        port, answer = TensorSpec("image", (1, 8, 8)), TensorSpec("logits", (10,))
        sizes.append(onnx_io.export(whole, (port,), (answer,), path, example={"image": rows}))
        convs.append(onnx_io.op_counts(path)["Conv"])
        with torch.no_grad():
            expected = net(torch.from_numpy(rows)).numpy()
        assert np.abs(onnx_io.session(path).run(None, {"image": rows})[0] - expected).max() < 1e-4
        if len(sizes) == 1:
            apply_edits_(net, drops([(group, of_three)]))
    assert [conv.groups for conv in mixed.convs] == [0, 12, 12, 12]
    assert convs[1] == convs[0] - 1 and sizes[1] < sizes[0]


def test_the_published_network_is_causal() -> None:
    """A later step changes no earlier one: what Bai et al. 2018 call a temporal convolutional network."""
    net = seeded(replace(CNN1D.points["tcn"], dropout=0.0), RAGGED)
    x = torch.randn(2, 2, 20)
    changed = x.clone()
    changed[:, :, 13:] += 1.0
    with torch.no_grad():
        for until, same in ((13, True), (14, False)):
            lengths = torch.tensor([until, until])
            assert torch.equal(net(x, lengths), net(changed, lengths)) is same
        full, other = (_steps(net, rows) for rows in (x, changed))
    assert torch.equal(full[:, :, :13], other[:, :, :13])
    assert not torch.equal(full[:, :, 13:], other[:, :, 13:])


def _steps(net: nn.Module, x: Tensor) -> Tensor:
    """What the blocks make of each step: (B, D, L)."""
    y = net.stem(x, None)[0].transpose(1, 2)
    for block in net.body:
        y, _ = block(y, None)
    return y
