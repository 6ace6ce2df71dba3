"""Pre-training on hidden tokens: what is hidden, that the network learns by it, and that the seed decides it."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from interrupt_driver import dropped_ctrl_c
from torch import Tensor, nn

from searchkit.core.interrupt import Interrupted, interruptible
from searchkit.core.network import HasMaskedHead
from searchkit.core.space_file import load_space
from searchkit.core.task import SelfSupervised
from searchkit.core.training import Batch, FitPlan, Training, TrainState
from searchkit.search.candidates import draw
from searchkit.search.choices import at_random
from searchkit.tasks import registry
from searchkit.tasks.text.masked import MaskedTask
from searchkit.train import fit

SPACE = load_space(Path(__file__).parents[2] / "spaces" / "transformer.py")
ORDER = "zero one two three four five six seven eight nine".split()


@pytest.fixture(scope="module")
def counting(tmp_path_factory: pytest.TempPathFactory) -> MaskedTask:
    """Rows that count upwards from anywhere: a hidden number follows from those beside it."""
    path = tmp_path_factory.mktemp("counting") / "lines.txt"
    rows = [[ORDER[(start + k) % 10] for k in range(4 + start % 5)] for start in range(300)]
    path.write_text("\n".join(f"{'even odd'.split()[len(row) % 2]} {' '.join(row)}" for row in rows))
    task = registry.load({"data": str(path)})
    assert isinstance(task, MaskedTask) and isinstance(task, SelfSupervised)
    return task


def network(task: MaskedTask, seed: int = 0, **arch: Any) -> nn.Module:
    torch.manual_seed(seed)
    chosen = SPACE.arch(**{"width": 32, "heads": 2, "depth": 1, "frame": 3, "hop": 1, "embedded": 16, **arch})
    return SPACE.build(chosen, task.spec)


def plan(**training: Any) -> FitPlan:
    given = Training(**{"lr": 5e-3, "epochs": 3, "batch_size": 32, "pretrain_epochs": 4, **training})
    return FitPlan(given, seed=3, until=given.epochs)


class Watching(nn.Module):
    """Keeps what it is asked, and answers with equal odds."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary

    def forward(self, told_BL: Tensor, tokens_BL: Tensor, lengths_B: Tensor) -> Tensor:
        self.told, self.seen = told_BL, tokens_BL
        return torch.zeros(int(told_BL.sum()), self.vocabulary)


@pytest.mark.parametrize("padding", [0, 3])
def test_of_fifteen_tokens_in_a_hundred_eight_in_ten_are_hidden(counting: MaskedTask, padding: int) -> None:
    """Whatever a row is padded with, its padding is not to be told."""
    torch.manual_seed(0)
    watching, size = Watching(counting.spec.vocabulary), counting.spec.vocabulary
    tokens = torch.randint(1, size, (400, 50))
    tokens[:, 40:] = padding
    loss = counting.pretext(watching, Batch((tokens, torch.full((400,), 40)), torch.zeros(400)))
    assert float(loss) == pytest.approx(torch.tensor(float(size)).log().item(), abs=1e-5)
    told, seen = watching.told, watching.seen
    assert not told[:, 40:].any() and told[:, :40].float().mean() == pytest.approx(0.15, abs=0.01)
    assert torch.equal(seen[~told], tokens[~told])
    hidden, same = (seen[told] == 0).float().mean(), (seen[told] == tokens[told]).float().mean()
    assert hidden == pytest.approx(0.8 + 0.1 / size, abs=0.03) and same == pytest.approx(0.1 + 0.1 / size, abs=0.03)


def test_a_batch_with_nothing_to_tell_costs_nothing(counting: MaskedTask) -> None:
    unknown = Batch((torch.zeros(3, 5, dtype=torch.int64), torch.full((3,), 5)), torch.zeros(3))
    restorer = network(counting).restorer()
    loss = counting.pretext(restorer, unknown)
    loss.backward()
    assert float(loss.detach()) == 0.0


@pytest.mark.parametrize(
    "arch", [{}, {"pooling": "token", "positions": "disentangled"}, {"positions": "sinusoidal"}], ids=str
)
def test_the_network_learns_what_comes_beside_what(counting: MaskedTask, arch: dict[str, Any]) -> None:
    net = network(counting, **arch)
    names = set(net.state_dict())
    state = fit(net, counting, plan(pretrain_epochs=15, epochs=1), TrainState())
    losses = [row["loss"] for row in state.numbers["pretraining"]]
    assert len(losses) == 15 and losses[-1] < 0.6 * losses[0]
    assert {name for name in state.tensors if name.startswith("weights.")} == {f"weights.{name}" for name in names}
    assert state.epoch == 1 and len(state.numbers["curve"]) == 1


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}], ids=str)
def test_a_pretrained_training_that_stopped_goes_on_bit_for_bit(counting: MaskedTask, changes: dict[str, Any]) -> None:
    whole = plan(**changes)
    expected = fit(network(counting, dropout=0.1), counting, whole, TrainState())
    state = TrainState()
    for until in (1, 3):
        net = network(counting, seed=state.epoch, dropout=0.1)  # later from another network: the state holds everything
        state = fit(net, counting, replace(whole, until=until), state)
    assert state.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(value, state.tensors[name]) for name, value in expected.tensors.items())
    assert [row["loss"] for row in state.numbers["pretraining"]] == [
        row["loss"] for row in expected.numbers["pretraining"]
    ]
    plain = fit(network(counting, dropout=0.1), counting, plan(**changes, pretrain_epochs=0), TrainState())
    assert "pretraining" not in plain.numbers
    assert not torch.equal(plain.tensors["weights.head.weight"], expected.tensors["weights.head.weight"])


def test_time_that_is_up_ends_pretraining_too(counting: MaskedTask) -> None:
    state = fit(network(counting), counting, replace(plan(), seconds=0.0), TrainState())
    assert len(state.numbers["pretraining"]) == 1 and state.epoch == 1 and state.numbers["stopped_by"] == "time"


def test_a_ctrl_c_that_python_dropped_ends_pretraining_with_its_epoch(counting: MaskedTask) -> None:
    net, steps = network(counting), []

    def step(*_: object) -> None:
        steps.append(len(steps))
        if len(steps) == 3:
            dropped_ctrl_c()

    net.stem.register_forward_pre_hook(step)  # type: ignore[union-attr]
    with pytest.raises(Interrupted), interruptible("It goes on."):
        fit(net, counting, plan(), TrainState())
    assert len(steps) == len(list(counting.batches("train", plan().training, seed=0, device="cpu")))


def test_it_is_asked_for_where_there_are_tokens_to_hide(counting: MaskedTask) -> None:
    series = registry.load({"task": "mnist1d"}).spec
    drawn = [draw(SPACE, counting.spec, at_random(random.Random(k)), epochs=2, way="") for k in range(20)]
    assert {c.training.pretrain_epochs for c in drawn} == {c.params["train.pretrain_epochs"] for c in drawn} == {0, 10}
    for seed in range(5):
        candidate = draw(SPACE, series, at_random(random.Random(seed)), epochs=2, way="")
        assert candidate.training.pretrain_epochs == 0 and "train.pretrain_epochs" not in candidate.params


def test_a_network_that_cannot_restore_is_trained_all_the_same(counting: MaskedTask) -> None:
    space = load_space(Path(__file__).parents[2] / "spaces" / "rnn.py")
    net = space.build(space.arch(), counting.spec)
    assert not isinstance(net, HasMaskedHead)
    assert "pretraining" not in fit(net, counting, plan(epochs=1), TrainState()).numbers
