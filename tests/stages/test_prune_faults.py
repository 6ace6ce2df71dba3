"""Structures that pruning once got wrong: each is cut exactly now, or left whole with its layers named."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from searchkit.context import Context
from searchkit.core.artifact import Artifact
from searchkit.core.data_spec import TensorSpec
from searchkit.core.errors import BadInput
from searchkit.core.serialization import freeze
from searchkit.core.space import Budget, Space
from searchkit.core.training import Training, TrainingSpace
from searchkit.nn.surgery import EXACT, apply_edits_, drops, gap, mask_edits_, prunable_groups
from searchkit.onnx import io as onnx_io
from searchkit.onnx.measure import params
from searchkit.run import Run
from searchkit.stages.importance import Ranking, Uncuttable, cuts, listed, prune_
from searchkit.stages.prune import Prune
from searchkit.tasks import registry
from searchkit.testing.fixture import Fixture
from searchkit.testing.suite import run_check


def outputs_of(net: nn.Module) -> dict[str, int]:
    """The groups of a network by the layers whose outputs they cut, with their number of units."""
    groups, _ = prunable_groups(net, net.example())
    return {" ".join(m.name for m in g.members if m.side == "out"): len(g) for g in groups}


def half_of(net: nn.Module) -> nn.Module:
    """The network at no more than half of its parameters, which answers as the masked one does."""
    cut, masked, example = copy.deepcopy(net), copy.deepcopy(net), net.example()
    edits = prune_(cut, example, cost=params, target=params(net) / 2, ranking=Ranking(round_to=1))
    mask_edits_(masked, edits)
    assert params(cut) <= params(net) / 2
    with torch.no_grad():
        torch.testing.assert_close(cut(*example), masked(*example), atol=1e-5, rtol=1e-5)
    return cut


# ── torch's own recurrent layers ─────────────────────────────────────────────────────────────────────────────────────


class Torchs(nn.Module):
    def __init__(self, kind: str, *, both: bool = False, layers: int = 1, read: str = "steps", **more: int) -> None:
        super().__init__()
        self.first = nn.Linear(4, 20)
        self.rnn = getattr(nn, kind)(20, 16, layers, batch_first=True, bidirectional=both, **more)
        self.middle = nn.Linear((self.rnn.proj_size or 16) * (1 + both), 24)
        self.head = nn.Linear(24, 3)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        y, state = self.rnn(torch.relu(self.first(x)))
        state = state[0] if isinstance(state, tuple) else state
        last = torch.cat([state[-2], state[-1]], 1) if self.rnn.bidirectional else state[-1]
        return self.head(torch.relu(self.middle(y.mean(1) if self.read == "steps" else last)))

    def example(self) -> tuple[Tensor, ...]:
        return (torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0)),)


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("read", ["steps", "state"])
def test_torchs_recurrent_layers_are_cut_in_all_layers_directions_and_gates(
    kind: str, both: bool, layers: int, read: str
) -> None:
    torch.manual_seed(0)
    net = Torchs(kind, both=both, layers=layers, read=read).eval()
    assert outputs_of(net) == {"first": 20, "rnn": 16, "middle": 24}
    cut = half_of(net)
    assert cut.rnn.hidden_size < 16 and cut.rnn.input_size < 20
    assert cut.rnn.weight_hh_l0.shape[1] == cut.rnn.hidden_size
    cut.train()(*cut.example()).sum().backward()
    assert all(p.grad is not None for p in cut.parameters())


def test_what_stands_around_a_recurrent_layer_that_cannot_be_cut_is() -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LSTM with projections")
        net = Torchs("LSTM", proj_size=8).eval()
        groups, whole = prunable_groups(net, net.example())
        assert whole == ("first", "rnn") and [g.members[0].name for g in groups] == ["middle"]
        with pytest.raises(Uncuttable, match=r"gives is [\d,]+, with first, rnn left whole because pruning"):
            prune_(net, net.example(), cost=params, target=5, ranking=Ranking(round_to=1))


@pytest.mark.parametrize("kind", ["GRU", "LSTM", "RNN"])
def test_the_exporters_warnings_are_captured(kind: str, tmp_path: Path) -> None:
    """pytest makes a warning an error."""
    net, x = Exported(kind), np.zeros((2, 7, 4), np.float32)
    path = tmp_path / "m.onnx"
    onnx_io.export(net, (TensorSpec("x", (7, 4)),), (TensorSpec("y", (3,)),), path, example={"x": x})
    (answer,) = onnx_io.session(path).run(None, {"x": x})
    np.testing.assert_allclose(answer, net(torch.from_numpy(x)).detach(), atol=1e-5)


class Exported(Torchs):
    def forward(self, *raw: Tensor) -> Tensor:
        return super().forward(raw[0])


# ── Reshapes, flips and shuffles of the channels ─────────────────────────────────────────────────────────────────────

MIXES: dict[str, Callable[[Tensor], Tensor]] = {
    "channels first": lambda x: x.flatten(1),
    "channels last": lambda x: x.permute(0, 2, 3, 1).flatten(1),
    "channels between": lambda x: x.permute(0, 2, 1, 3).reshape(len(x), -1),
    "flip": lambda x: x.flip(1).flatten(1),
    "roll": lambda x: x.roll(1, 1).flatten(1),
    "channel shuffle": lambda x: x.unflatten(1, (3, 4)).transpose(1, 2).flatten(1),
    "pixel shuffle": lambda x: nn.functional.pixel_shuffle(x, 2).flatten(1),
    "every other channel": lambda x: torch.cat([x[:, ::2], x[:, 1::2]], 1).flatten(1),
}


class Mixes(nn.Module):
    """Two convolutions, what mixes their channels, a Linear; the second convolution feeds it and nothing else."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)
        self.how, self.hidden, self.head = how, nn.Linear(12 * 16, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(torch.relu(self.hidden(MIXES[self.how](x))))

    def example(self) -> tuple[Tensor, ...]:
        return (torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)),)


@pytest.mark.parametrize("how", MIXES)
def test_a_cut_that_is_not_what_the_mask_gives_is_left_out_and_its_layer_named(how: str) -> None:
    torch.manual_seed(0)
    net = Mixes(how).eval()
    groups, whole = prunable_groups(net, net.example())
    right = how == "channels first"
    assert whole == (() if right else ("second",))
    assert {g.members[0].name for g in groups} == {"first", "hidden", *(["second"] if right else [])}
    half_of(net)


def test_a_disagreement_behind_a_weight_of_zero_is_seen() -> None:
    torch.manual_seed(0)
    net = Mixes("flip").eval()
    nn.init.zeros_(net.head.weight)
    assert prunable_groups(net, net.example())[1] == ("second",)


class Widths(nn.Module):
    """What it computes depends on a width that pruning changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.head(x * (2.0 if x.shape[1] < 6 else 1.0))

    def example(self) -> tuple[Tensor, ...]:
        return (torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),)


def test_the_stage_proves_the_cut_that_it_makes() -> None:
    torch.manual_seed(0)
    net, before = Widths().eval(), params(Widths())
    prune_(net, net.example(), cost=params, target=before / 2, ranking=Ranking(round_to=1))
    with pytest.raises(Uncuttable, match="does not answer as the one with the same units set to zero"):
        prune_(net, net.example(), cost=params, target=before / 8, ranking=Ranking(round_to=1))


def test_the_mask_of_a_norm_takes_its_mean_over_what_stays() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 12), nn.LayerNorm(12), nn.GroupNorm(3, 12), nn.Linear(12, 2))
    edits = [{"cut": name, "side": side, "drop": [1, 3, 5, 7, 9, 11]}
             for name, side in (("0", "out"), ("1", "out"), ("2", "out"), ("3", "in"))]  # fmt: skip
    assert gap(net, (torch.randn(3, 4),), edits) <= 1e-6


# ── Tied weights ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Tied(nn.Module):
    """Two layers with one weight. skips: around each of them, which makes both sides of the weight one group."""

    def __init__(self, *, skips: bool) -> None:
        super().__init__()
        self.first, self.one, self.two = nn.Linear(10, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.two.weight = self.one.weight
        self.wide, self.head, self.skips = nn.Linear(16, 40), nn.Linear(40, 3), skips

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        for layer in (self.one, self.two):
            x = torch.relu(layer(x)) + (x if self.skips else 0.0)
        return self.head(torch.relu(self.wide(x)))

    def example(self) -> tuple[Tensor, ...]:
        return (torch.randn(3, 10, generator=torch.Generator().manual_seed(0)),)


class TiedEmbedding(nn.Module):
    """The embedding of the tokens is the weight of the last layer too."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.up = nn.Embedding(11, 16), nn.LayerNorm(16), nn.Linear(16, 32)
        self.down, self.out = nn.Linear(32, 16), nn.Linear(16, 11, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.out(x + self.down(torch.relu(self.up(self.norm(x)))))

    def example(self) -> tuple[Tensor, ...]:
        return (torch.arange(18).remainder(11).reshape(3, 6),)


def test_tied_weights_that_are_cut_alike_stay_tied() -> None:
    torch.manual_seed(0)
    for net, pair in ((Tied(skips=True), ("one", "two")), (TiedEmbedding(), ("embed", "out"))):
        net.eval()
        wide = params(net)
        cut = copy.deepcopy(net)
        edits = drops((g, [0, 2, 5]) for g in prunable_groups(net, net.example())[0])
        assert gap(net, net.example(), edits) <= EXACT
        apply_edits_(cut, edits)
        one, two = (cut.get_submodule(name).weight for name in pair)
        assert one is two and one.shape != net.get_submodule(pair[0]).weight.shape
        assert params(cut) == sum(p.numel() for p in set(cut.parameters())) < wide
        half = half_of(net)
        assert half.get_submodule(pair[0]).weight is half.get_submodule(pair[1]).weight


def test_tied_weights_that_cannot_be_cut_alike_are_left_whole_and_named() -> None:
    torch.manual_seed(0)
    net = Tied(skips=False).eval()
    groups, whole = prunable_groups(net, net.example())
    assert whole == ("first", "one", "two") and [g.members[0].name for g in groups] == ["wide"]
    cut = half_of(net)
    assert cut.one.weight is cut.two.weight


def test_an_edit_that_would_untie_is_refused() -> None:
    with pytest.raises(BadInput, match="'weight' that 2 modules share"):
        apply_edits_(Tied(skips=False), [{"cut": "one", "side": "out", "drop": [0]}])


# ── Attention that is written out ────────────────────────────────────────────────────────────────────────────────────


class Einsum(nn.Module):
    """reads: whether the width of a head is read off the steps, so that the steps' width cannot change either."""

    def __init__(self, *, reads: bool) -> None:
        super().__init__()
        width, self.reads = 32, reads
        self.embed, self.norm = nn.Linear(4, width), nn.LayerNorm(width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down, self.head = nn.Linear(width, 64), nn.Linear(64, width), nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        heads = (4, y.shape[2] // 4) if self.reads else (4, 8)
        q, k, v = (layer(y).unflatten(2, heads) for layer in (self.q, self.k, self.v))
        scores = torch.einsum("blhd,bmhd->bhlm", q, k).softmax(-1)
        x = x + self.o(torch.einsum("bhlm,bmhd->blhd", scores, v).flatten(2))
        return self.head((x + self.down(torch.relu(self.up(x)))).mean(1))

    def example(self) -> tuple[Tensor, ...]:
        return (torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0)),)


@pytest.mark.parametrize(("reads", "whole"), [(False, ("q", "k", "v")), (True, ("embed", "q", "k", "v", "o", "down"))])
def test_the_sentence_names_the_layers_that_were_not_followed(reads: bool, whole: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    net = Einsum(reads=reads).eval()
    found = cuts(net, net.example(), Ranking())
    assert found.whole == whole and outputs_of(net)["up"] == 64
    with pytest.raises(Uncuttable) as caught:
        prune_(net, net.example(), cost=params, target=5, ranking=Ranking(round_to=1))
    said = str(caught.value)
    assert f", with {', '.join(whole)} left whole because pruning cannot follow them" in said and len(said) <= 250, said


def test_a_long_list_of_names_is_shortened() -> None:
    assert listed("abcdef") == "a, b, c, d, e, f" and listed("abcdefgh") == "a, b, c, d, e, f and 2 more"


# ── The stage and the check ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Arch:
    hidden: int
    kind: str


class Family(nn.Module):
    """A GRU, or a convolution ("conv"), flattened with its channels last, and tied layers at the end."""

    def __init__(self, arch: Arch, classes: int) -> None:
        super().__init__()
        self.conv, self.gru = nn.Conv1d(1, 8, 5, stride=4, padding=2), arch.kind == "GRU"
        self.mix = nn.GRU(8, arch.hidden, batch_first=True) if self.gru else nn.Conv1d(8, arch.hidden, 1)
        self.flat = nn.Linear(10 * arch.hidden, 32)
        self.one, self.two, self.head = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, classes)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        x = torch.relu(self.conv(x))
        steps = self.mix(x.transpose(1, 2))[0] if self.gru else torch.relu(self.mix(x)).transpose(1, 2)
        x = torch.relu(self.flat(steps.flatten(1)))
        return self.head(torch.relu(self.two(torch.relu(self.one(x)))))


def space() -> Space:
    return Space(
        name="faults",
        arch=Arch,
        accepts=lambda spec: None,
        sample=lambda trial, spec: Arch(8 * trial.suggest_int("hidden", 1, 3), "GRU"),
        build=lambda arch, spec: Family(arch, spec.n_classes),
        training=TrainingSpace(Training(lr=5e-3)),
        task="mnist1d",
        budget=Budget(),
        paper="none",
    )


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Fixture:
    return Fixture(space(), registry.load({"task": "mnist1d"}), tmp_path_factory.mktemp("faults"))


def test_the_check_passes_a_family_with_all_of_them_and_names_what_stays_whole(subject: Fixture) -> None:
    result = run_check("cut_equals_masked", subject)
    assert result.outcome == "passed", result.detail
    assert result.detail == "pruning cannot follow mix, flat, one, two through the network, and leaves them whole"


def test_the_stage_says_and_stores_what_stays_whole(subject: Fixture, tmp_path: Path) -> None:
    said = list[str]()
    ctx = Context(run=Run.create(tmp_path, "r", {"seed": 0}), task=subject.task, spaces=lambda name: subject.space,
                  echo=said.append)  # fmt: skip
    torch.manual_seed(0)
    arch, training = Arch(8, "conv"), replace(subject.space.training.default, epochs=1)
    net = subject.space.build(arch, subject.task.spec).eval()
    draft = Artifact("a" * 12, "faults", freeze(arch), freeze(training), (), {"stage": "Trial", "number": 0}, None)
    parent = ctx.save(draft, net)
    child = Prune(to=0.99, steps=1, recovery_epochs=0, round_to=1)(parent, ctx)
    assert child.notes["whole"] == ["mix", "flat", "one", "two"]
    assert said[0] == "Prune: cannot follow mix, flat, one, two through the network, and leaves them whole"
    assert child.metrics["params"] < parent.metrics["params"]
    pruned = ctx.network(ctx.run.load(child.id))
    assert pruned.one.weight is pruned.two.weight and params(pruned) == child.metrics["params"]
