"""Hybrids: cuts go across the seam from convolutions to recurrence, padding stays out, a frame is seen by itself."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.errors import Infeasible
from searchkit.core.space_file import load_space
from searchkit.nn.surgery import Group, apply_edits_, drops, mask_edits_, prunable_groups
from searchkit.onnx import io as onnx_io
from searchkit.onnx.measure import params
from searchkit.onnx.predictor import Deployed
from searchkit.stages.importance import Ranking, prune_

HYBRID = load_space(Path(__file__).parents[2] / "spaces" / "hybrid.py")
LENGTHS = TensorSpec("lengths", (), "int64")
LOGITS = (TensorSpec("logits", (5,)),)

SPECS = {
    "image": DataSpec("image", (TensorSpec("image", (2, 9, 7)),), LOGITS, 5),
    "series": DataSpec("series", (TensorSpec("series", (3, 22)),), LOGITS, 5),
    "ragged": DataSpec("series", (TensorSpec("series", (3, None)), LENGTHS), LOGITS, 5),
    "tokens": DataSpec("tokens", (TensorSpec("tokens", (None,), "int64"), LENGTHS), LOGITS, 5, vocabulary=11),
    "clip": DataSpec("clip", (TensorSpec("clip", (1, 5, 6, 8)),), LOGITS, 5),
}
KINDS = {
    "steps": {"kind": "steps", "depth": 2},
    "halving": {"kind": "steps", "halves_steps": True, "sequence": "lstm", "pooling": "last"},
    "frames": {"kind": "frames", "frame": 5, "pooling": "attention"},
    "branches": {"kind": "branches", "pooling": "last", "halves_steps": True},
    "steps-transformer": {"kind": "steps", "sequence": "transformer", "layers": 2},
    "frames-transformer": {"kind": "frames", "frame": 4, "sequence": "transformer"},
    "branches-transformer": {"kind": "branches", "sequence": "transformer"},
}
FITTING = [(data, kind) for data in SPECS for kind in KINDS if data != "clip" or KINDS[kind]["kind"] == "frames"]


def inputs(data: str) -> tuple[Tensor, ...]:
    lengths = torch.tensor([22, 9, 1])
    if data == "tokens":
        return torch.randint(11, (3, 22)), lengths
    if data == "ragged":
        return torch.randn(3, 3, 22), lengths
    return (torch.randn(3, *(size for size in SPECS[data].inputs[0].shape if size is not None)),)


def network(data: str, kind: str, **more: object) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """In evaluation mode, with BatchNorm statistics unlike a fresh one's; and inputs for it."""
    torch.manual_seed(0)
    net = HYBRID.build(HYBRID.arch(**{**KINDS[kind], **more}), SPECS[data])
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return net.eval(), inputs(data)


def has(group: Group, name: str, side: str) -> bool:
    return any(name in m.name and m.side == side for m in group.members)


@pytest.mark.parametrize(("data", "kind"), FITTING)
def test_pruning_goes_across_the_seam(data: str, kind: str) -> None:
    """The convolutions' last channels and what reads them are one group, and cutting them is what masking them is."""
    net, example = network(data, kind)
    groups, refused = prunable_groups(net, example)
    assert refused == ()
    maker = "beside.conv" if KINDS[kind]["kind"] == "branches" else "convolutions.fold"
    reader = "attention" if "transformer" in kind else "forwards"
    [seam] = [g for g in groups if has(g, maker, "out")]
    assert has(seam, reader, "in")
    if "transformer" in kind:  # masked columns would still count in a LayerNorm's mean, so the seam is only cut
        apply_edits_(net, drops([(seam, [0, 5])]))
        assert net(*example).shape == (3, 5)
        groups = [g for g in prunable_groups(net, example)[0] if not has(g, "norm", "out")]
    edits = drops((group, [0, len(group) // 2]) for group in groups if len(group) > 2)
    with torch.no_grad():
        mask_edits_(net, edits)
        masked = net(*example)
        apply_edits_(net, edits)
        assert masked.abs().max() > 1e-3
        torch.testing.assert_close(net(*example), masked, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("data", "kind"), [pair for pair in FITTING if pair[0] in ("image", "ragged")])
def test_a_third_of_the_parameters_still_trains(data: str, kind: str) -> None:
    net, example = network(data, kind)
    before = params(net)
    prune_(net, example, cost=params, target=before / 3, ranking=Ranking(round_to=1))
    assert 0.2 * before < params(net) <= before / 3
    net.train()(*example).square().mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in net.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("planar", [False, True])
def test_padding_does_not_reach_the_answer_of_deep_convolutions(kind: str, planar: bool) -> None:
    net, _ = network("ragged", kind, widths=(8, 8, 16), depth=2, kernel=5, planar=planar)
    row, longer = torch.randn(1, 3, 9), torch.randn(1, 3, 22)
    padded = torch.cat([row, 100 * torch.randn(1, 3, 13)], 2)
    with torch.no_grad():
        alone = net(row, torch.tensor([9]))
        beside = net(torch.cat([padded, longer]), torch.tensor([9, 22]))[:1]
    torch.testing.assert_close(alone, beside, rtol=1e-4, atol=1e-5)


def test_each_frame_of_a_clip_is_seen_by_itself() -> None:
    net, (clip,) = network("clip", "frames")
    changed = clip.clone()
    changed[:, :, 3] += 1.0
    with torch.no_grad():
        (before, _), (after, _) = net.convolutions(clip, None), net.convolutions(changed, None)
    assert before.shape == (3, 5, 32)
    differs = [not torch.equal(before[:, t], after[:, t]) for t in range(5)]
    assert differs == [False, False, False, True, False]


def test_windows_are_centred_and_overlap_by_half() -> None:
    net, _ = network("series", "frames", frame=4)
    x = torch.arange(1.0, 23.0).view(1, 1, 22)
    windows = net.convolutions.windows(x)
    assert windows.shape == (1, 1, 11, 4)
    assert windows[0, 0, 0].tolist() == [0, 1, 2, 3]
    assert windows[0, 0, 1].tolist() == [2, 3, 4, 5]
    assert windows[0, 0, 10].tolist() == [20, 21, 22, 0]


def test_the_rows_of_a_picture_are_its_steps() -> None:
    net, (image,) = network("image", "steps", widths=(8,), depth=1, kernel=1)
    changed = image.clone()
    changed[:, :, 4] += 1.0
    with torch.no_grad():
        (before, _), (after, _) = net.convolutions(image, None), net.convolutions(changed, None)
    assert before.shape == (3, 9, 32)
    assert [t for t in range(9) if not torch.equal(before[:, t], after[:, t])] == [4]


@pytest.mark.parametrize(("data", "kind"), [(d, k) for d, k in FITTING if d in ("ragged", "clip") and "-" not in k])
def test_the_file_takes_any_number_of_rows_and_steps(data: str, kind: str, tmp_path: Path) -> None:
    """Export sees two rows of one length; the file answers as the network does to others."""
    net, example = network(data, kind)
    spec = SPECS[data]
    ports, path = spec.inputs, tmp_path / "model.onnx"
    rows = {port.name: x.numpy()[:2] for port, x in zip(ports, example, strict=True)}
    onnx_io.export(Deployed(AsGiven(), net, nn.Identity()).eval(), ports, LOGITS, path, example=rows)
    session = onnxruntime.InferenceSession(path)
    others = [tuple(x[:1] for x in example), example]
    if data == "ragged":
        others += [(torch.randn(2, 3, steps), torch.tensor([steps, steps // 2])) for steps in (9, 30)]
    for given in others:
        with torch.no_grad():
            expected = net(*given)
        [found] = session.run(None, {port.name: x.numpy() for port, x in zip(ports, given, strict=True)})
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


class AsGiven(nn.Module):
    """The preprocessor of data that need no scaling."""

    def forward(self, *raw: Tensor) -> Tensor | tuple[Tensor, ...]:
        return raw if len(raw) > 1 else raw[0]


def test_what_is_not_for_it_is_said() -> None:
    table = DataSpec("tabular", (TensorSpec("table", (7,)),), LOGITS, 5)
    assert "rows of images" in str(HYBRID.accepts(table))
    assert all(HYBRID.accepts(spec) is None for spec in SPECS.values())
    with pytest.raises(Infeasible, match="a clip has frames"):
        HYBRID.build(HYBRID.arch(kind="branches"), SPECS["clip"])
    with pytest.raises(Infeasible, match="planar is for the channels of a series"):
        HYBRID.build(HYBRID.arch(planar=True), SPECS["image"])
