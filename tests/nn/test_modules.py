"""The modules of `searchkit.layers` compute what they say, whatever else is in the batch, in torch and in ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from prunable_nets import Recurrences
from torch import Tensor, nn

from searchkit.core.data_spec import TensorSpec
from searchkit.nn.attention import DISTANCES, REACH, Attention
from searchkit.nn.convolution import MixedDepthwise
from searchkit.nn.embedding import Positions
from searchkit.nn.parts import surrogates
from searchkit.nn.recurrent import Recurrent
from searchkit.nn.sequence import AttentionPool, pool, reverse, trim, valid_steps
from searchkit.nn.surgery import apply_edits_, drops, mask_edits_, prunable_groups
from searchkit.onnx import int8
from searchkit.onnx import io as onnx_io
from searchkit.onnx.predictor import Deployed
from searchkit.onnx.weight_only import weight_only

KINDS = ("simple", "lstm", "gru", "peephole")
OPERATORS = {"simple": "RNN", "lstm": "LSTM", "gru": "GRU", "peephole": "LSTM"}
ORDER = {"simple": [0], "gru": [1, 0, 2], "lstm": [0, 2, 3, 1]}


@pytest.mark.parametrize("kind, theirs", [("simple", nn.RNN), ("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_a_recurrent_layer_is_torchs_own_with_the_gates_in_onnx_order(kind: str, theirs: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    ours, reference, x = Recurrent(5, 7, kind=kind), theirs(5, 7, batch_first=True), torch.randn(3, 6, 5)
    nn.init.normal_(ours.bias_ih)
    nn.init.normal_(ours.bias_hh)
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            blocks = getattr(ours, name).squeeze(0).chunk(len(ORDER[kind]))
            getattr(reference, f"{name}_l0").copy_(torch.cat([blocks[g] for g in ORDER[kind]]))
    assert torch.allclose(ours(x), reference(x)[0], atol=1e-6)
    ours(x).square().sum().backward()
    reference(x)[0].square().sum().backward()
    theirs_first = reference.weight_hh_l0.grad.chunk(len(ORDER[kind]))[ORDER[kind].index(0)]
    assert torch.allclose(ours.weight_hh.grad[0].chunk(len(ORDER[kind]))[0], theirs_first, atol=1e-5)


def test_a_peephole_lstm_without_peepholes_is_an_lstm_and_with_them_is_not() -> None:
    torch.manual_seed(0)
    peephole, lstm, x = Recurrent(5, 7, kind="peephole"), Recurrent(5, 7, kind="lstm"), torch.randn(3, 6, 5)
    lstm.load_state_dict({k: v for k, v in peephole.state_dict().items() if k != "peephole"})
    assert (peephole(x) - lstm(x)).abs().max() > 1e-3
    nn.init.zeros_(peephole.peephole)
    assert torch.allclose(peephole(x), lstm(x), atol=1e-6)


def test_a_peephole_lstm_of_one_unit_by_hand() -> None:
    """Gers and Schmidhuber, 2000: input and forget gate see the cell before, the output gate sees the new one."""
    layer = Recurrent(1, 1, kind="peephole")
    with torch.no_grad():
        layer.weight_ih.copy_(torch.tensor([[[0.5], [-0.4], [0.3], [0.8]]]))  # i o f c
        layer.weight_hh.copy_(torch.tensor([[[0.1], [0.2], [-0.3], [0.4]]]))
        layer.bias_ih.copy_(torch.tensor([0.1, 0.0, 0.2, -0.1]))
        layer.peephole.copy_(torch.tensor([0.7, -0.6, 0.5]))  # i o f
    h = c = 0.0
    expected = []
    for x in (1.0, -2.0, 0.5):
        i = _sigmoid(0.5 * x + 0.1 * h + 0.1 + 0.7 * c)
        f = _sigmoid(0.3 * x - 0.3 * h + 0.2 + 0.5 * c)
        c = f * c + i * np.tanh(0.8 * x + 0.4 * h - 0.1)
        o = _sigmoid(-0.4 * x + 0.2 * h - 0.6 * c)
        h = o * np.tanh(c)
        expected.append(h)
    found = layer(torch.tensor([[[1.0], [-2.0], [0.5]]])).flatten().tolist()
    assert found == pytest.approx(expected, abs=1e-6)


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


def test_trim_leaves_no_step_that_no_row_has() -> None:
    x = torch.arange(24).view(2, 3, 4)
    assert torch.equal(trim(x, torch.tensor([1, 3])), x[..., :3])
    assert torch.equal(trim(x[:, 0], torch.tensor([2, 1])), x[:, 0, :2])
    assert trim(x, None) is x


class Ragged(nn.Module):
    """The network under test as the engine deploys it: the preprocessor gives series and lengths."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return x, lengths


@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_file_agrees_at_any_batch_and_length(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Recurrences(kind).eval()
    ports = (TensorSpec("x", (None, 4)), TensorSpec("lengths", (), "int64"))
    example = {"x": np.zeros((2, 9, 4), np.float32), "lengths": np.array([9, 4])}
    deployed = Deployed(Ragged(), net, nn.Identity()).eval()
    onnx_io.export(deployed, ports, (TensorSpec("y", (5,)),), tmp_path / "m.onnx", example=example)
    session = onnx_io.session(tmp_path / "m.onnx")
    for batch, length in ((1, 9), (3, 4), (7, 13)):
        x, lengths = torch.randn(batch, length, 4), torch.randint(1, length + 1, (batch,))
        with torch.no_grad():
            expected = net(x, lengths).numpy()
        found = session.run(None, {"x": x.numpy(), "lengths": lengths.numpy()})[0]
        assert np.abs(found - expected).max() <= 1e-5

    graph = onnx.load(tmp_path / "m.onnx").graph
    weights = {tensor.name for tensor in graph.initializer}
    layers = [node for node in graph.node if node.op_type == OPERATORS[kind]]
    assert len(layers) == 4  # two layers in two directions
    for node in layers:  # int8 works on initializers: nothing may stand between them and the operator
        assert weights.issuperset(name for name in node.input[1:4] if name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_gives_the_same_answer_whatever_stands_beside_and_behind_it(kind: str) -> None:
    torch.manual_seed(0)
    net, x, lengths = Recurrences(kind).eval(), torch.randn(4, 12, 4), torch.tensor([12, 5, 1, 8])
    together = net(x, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = net(x[row : row + 1, :length], lengths[row : row + 1])
        without = net(x[row : row + 1, :length], None)
        assert torch.allclose(together[row], alone[0], atol=1e-6)
        assert torch.allclose(together[row], without[0], atol=1e-6)
    x[1, 5:] = 1e3
    assert torch.allclose(net(x, lengths)[1], together[1], atol=1e-6)


def test_reverse_turns_the_valid_steps_and_is_its_own_inverse() -> None:
    x, lengths = torch.arange(12.0).view(2, 6, 1), torch.tensor([6, 3])
    turned = reverse(x, lengths)
    assert turned.flatten().tolist() == [5, 4, 3, 2, 1, 0, 8, 7, 6, 9, 10, 11]
    assert torch.equal(reverse(turned, lengths), x)
    assert torch.equal(reverse(x, None), x.flip(1))


def test_pool_by_hand() -> None:
    x, lengths = torch.tensor([[[1.0], [5.0], [100.0]], [[-2.0], [-4.0], [-3.0]]]), torch.tensor([2, 3])
    assert pool(x, lengths, "first").flatten().tolist() == [1, -2]
    assert pool(x, lengths, "last").flatten().tolist() == [5, -3]
    assert pool(x, lengths, "mean").flatten().tolist() == [3, -3]
    assert pool(x, lengths, "max").flatten().tolist() == [5, -2]
    for how in ("first", "last", "mean", "max"):
        assert torch.equal(pool(x, None, how), pool(x, torch.tensor([3, 3]), how))
    attend = AttentionPool(1)
    weights = (x[0, :2, 0] * attend.query).softmax(0)
    assert attend(x, lengths)[0].item() == pytest.approx((weights * x[0, :2, 0]).sum().item(), abs=1e-6)


def test_attention_is_the_formula_and_does_not_look_at_what_is_masked() -> None:
    torch.manual_seed(0)
    attention, x = Attention(8, heads=2).eval(), torch.randn(1, 5, 8)
    keep = valid_steps(x, torch.tensor([3]))
    q, k, v = (linear(x)[0].view(5, 2, 4).transpose(0, 1) for linear in (attention.q, attention.k, attention.v))
    scores = (q @ k.transpose(1, 2) / 2).masked_fill(~keep[:, None, :], float("-inf"))
    expected = attention.proj((scores.softmax(2) @ v).transpose(0, 1).reshape(5, 8))
    assert torch.allclose(attention(x, keep)[0], expected, atol=1e-6)
    assert torch.allclose(attention(x, keep)[0, :3], attention(x[:, :3])[0], atol=1e-6)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", DISTANCES)
def test_distances_are_the_formula_and_what_is_masked_is_not_seen(kind: str, causal: bool) -> None:
    """Step by step, from the papers' equations, for rows longer than what distances are told apart at."""
    torch.manual_seed(0)
    attention = Attention(8, heads=2, distances=kind, causal=causal).eval()
    told, x = attention.distances, torch.randn(1, 20, 8)
    for parameter in told.parameters():
        nn.init.normal_(parameter)
    keep = valid_steps(x, torch.tensor([18]))
    q, k, v = (linear(x)[0].view(20, 2, 4).transpose(0, 1) for linear in (attention.q, attention.k, attention.v))
    scores = torch.full((2, 20, 20), float("-inf"))
    for n, i, j in np.ndindex(2, 20, 18):
        if causal and j > i:
            continue
        apart, back = (min(max(d, -REACH), REACH) + REACH for d in (i - j, j - i))
        content = q[n, i] @ k[n, j]
        if kind == "bias":
            scores[n, i, j] = content / 2 + told.bias[n, apart]
        elif kind == "relative":
            scores[n, i, j] = q[n, i] @ (k[n, j] + told.keys[:, apart]) / 2
        else:
            by_position = q[n, i] @ told.keys[n, :, apart] + k[n, j] @ told.queries[n, :, back]
            scores[n, i, j] = (content + by_position) / np.sqrt(12)
    expected = attention.proj((scores.softmax(2) @ v).transpose(0, 1).reshape(20, 8))
    assert torch.allclose(attention(x, keep)[0], expected, atol=1e-5)
    if causal:
        first, memory = attention.resume(x[:, :12], x.new_zeros(1, 0, attention.memory))
        second, _ = attention.resume(x[:, 12:], memory)
        torch.testing.assert_close(torch.cat([first, second], 1), attention(x))


class Attending(nn.Module):
    """Attention away from its start, where every score is nearly the same."""

    def __init__(self, distances: str, heads: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = Attention(16, heads=heads, distances=distances)
        self.head = nn.Linear(16, 5)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.head(pool(self.attention(x, valid_steps(x, lengths)), lengths, "mean"))


def attending_file(net: nn.Module, path: Path) -> Path:
    ports = (TensorSpec("x", (None, 16)), TensorSpec("lengths", (), "int64"))
    example = {"x": np.zeros((2, 9, 16), np.float32), "lengths": np.array([9, 4])}
    onnx_io.export(
        Deployed(Ragged(), net, nn.Identity()).eval(), ports, (TensorSpec("y", (5,)),), path, example=example
    )
    return path


@pytest.mark.parametrize("kind", ["", *DISTANCES])
def test_distances_are_exported_at_any_length_and_their_int8_files_still_mask(kind: str, tmp_path: Path) -> None:
    net = Attending(kind).eval()
    path = attending_file(net, tmp_path / "m.onnx")
    session = onnx_io.session(path)
    for batch, length in ((1, 9), (3, 40), (7, 1)):
        x, lengths = torch.randn(batch, length, 16), torch.randint(1, length + 1, (batch,))
        with torch.no_grad():
            expected = net(x, lengths).numpy()
        assert np.abs(session.run(None, {"x": x.numpy(), "lengths": lengths.numpy()})[0] - expected).max() <= 1e-4
    rng = np.random.default_rng(0)
    rows = [
        {"x": rng.standard_normal((16, 20, 16)).astype(np.float32), "lengths": rng.integers(1, 21, 16)}
        for _ in range(8)
    ]
    expected = session.run(None, rows[0])[0]
    makers = {
        "static": lambda target: int8.static(path, target, iter(rows)),
        "dynamic": lambda target: int8.dynamic(path, target),
        "weight-only": lambda target: weight_only(path, target),
    }
    for method, make in makers.items():
        assert make(tmp_path / "q.onnx") > 0
        found = onnx_io.session(tmp_path / "q.onnx").run(None, rows[0])[0]
        assert np.abs(found - expected).mean() <= 0.05 * np.abs(expected).mean(), method


@pytest.mark.parametrize("kind", DISTANCES)
def test_heads_are_cut_with_their_distances_and_answer_as_the_masked_ones(kind: str) -> None:
    net, x, lengths = Attending(kind).eval(), torch.randn(3, 9, 16), torch.tensor([9, 5, 1])
    [heads] = [g for g in prunable_groups(net, (x, lengths))[0] if g.members[0].side == "inner"]
    edits, masked = drops([(heads, [0, 2])]), Attending(kind).eval()
    mask_edits_(masked, edits)
    apply_edits_(net, edits)
    with torch.no_grad():
        torch.testing.assert_close(net(x, lengths), masked(x, lengths))
        assert (net(x, lengths) - Attending(kind).eval()(x, lengths)).abs().max() > 1e-2
    for name, parameter in net.attention.distances.named_parameters():
        assert parameter.shape[0] == (
            4 if (kind, name) == ("relative", "keys") else 2
        )  # shared by all heads, or theirs
    rebuilt = Attending(kind)
    apply_edits_(rebuilt, edits)
    rebuilt.load_state_dict(net.state_dict())


def test_positions() -> None:
    x = torch.zeros(2, 5, 6)
    table = Positions(6, length=9, kind="sinusoidal")(x)
    assert table[0, 3, 0].item() == pytest.approx(np.sin(3), abs=1e-6)
    assert table[1, 2, 3].item() == pytest.approx(np.cos(2 / 10_000 ** (2 / 6)), abs=1e-6)
    assert Positions(7, length=4, kind="sinusoidal").table.shape == (4, 7)
    learned = Positions(6, length=9)
    learned(x).sum().backward()
    assert (learned.table.grad[:5] == 2).all() and (learned.table.grad[5:] == 0).all()


@pytest.mark.parametrize("stride", [1, 2])
def test_a_mixed_depthwise_convolution_is_one_of_the_largest_kernel_with_rims_of_zeros(stride: int) -> None:
    torch.manual_seed(0)
    mixed, x = MixedDepthwise(8, kernels=(3, 5, 7), stride=stride), torch.randn(2, 8, 9, 6)
    assert [conv.groups for conv in mixed.convs] == [3, 3, 2]
    rims = [nn.functional.pad(conv.weight, [3 - conv.padding[0]] * 4) for conv in mixed.convs]
    expected = nn.functional.conv2d(x, torch.cat(rims), stride=stride, padding=3, groups=8)
    assert torch.allclose(mixed(x), expected, atol=1e-6)


def test_a_surrogate_has_the_shapes_of_its_module_and_ends_with_its_context() -> None:
    x = torch.randn(2, 5, 8)
    modules = (Recurrent(8, 3, kind="gru"), Attention(8, heads=2), Positions(8, length=5), AttentionPool(8))
    for module in modules:
        real = module(x)
        with surrogates():
            assert module(x).shape == real.shape and (module(x) == 0).all() and module(x).grad_fn is not None
        assert torch.equal(module(x), real)
    picture, strided = torch.randn(2, 4, 7, 6), MixedDepthwise(4, kernels=(3, 5), stride=2)
    with surrogates():
        assert strided(picture).shape == (2, 4, 4, 3)
    assert strided(picture).shape == (2, 4, 4, 3)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Recurrent(2, 3, kind="mlp"), "No recurrent kind 'mlp'; the kinds are simple, gru, lstm, peephole."),
        (lambda: Attention(10, heads=3), "A width of 10 cannot be split into 3 heads."),
        (
            lambda: Attention(8, heads=2, distances="x"),
            "No relative-position term named 'x'; they are bias, relat",
        ),
        (lambda: MixedDepthwise(2, kernels=(3, 5, 7)), "2 channels cannot be divided among 3 kernel sizes"),
        (lambda: MixedDepthwise(8, kernels=(3, 4)), "The kernel sizes .3, 4. cannot be mixed; give"),
        (lambda: Positions(4, length=3, kind="x"), "No positions of kind 'x'; the kinds are learned, sinusoidal."),
    ],
)
def test_what_cannot_be_is_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
