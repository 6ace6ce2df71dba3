"""Several processes that train one network come to what one process comes to."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import search_driver
import torch
import torch.distributed
import torch.multiprocessing
from torch import Tensor, nn

from searchkit.core.errors import BadInput
from searchkit.core.replicas import Replicas, replicas
from searchkit.core.space_file import load_space
from searchkit.core.state import decode_state, encode_state, snapshot, with_prefix
from searchkit.core.training import Batch, FitPlan, Training, TrainState
from searchkit.search.ray_replicas import require_replicas
from searchkit.tasks import registry

TINY = load_space(search_driver.TINY)


def batch_of(n: int) -> Batch:
    return Batch((torch.arange(2.0 * n).reshape(n, 2),), torch.arange(float(n)))


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 13, 64])
def test_shards_are_the_whole_batch_each_row_once(n: int, size: int) -> None:
    whole = batch_of(n)
    shards = [Replicas(rank, size).shard(whole) for rank in range(size)]
    counted = [shard for shard, weight in shards if weight > 0]
    assert torch.cat([shard.target for shard in counted]).tolist() == whole.target.tolist()
    assert torch.cat([shard.inputs[0] for shard in counted]).tolist() == whole.inputs[0].tolist()
    assert all(len(shard.target) >= min(n, 2) for shard, _ in shards), "batch normalization cannot train on one row"
    mean = sum(weight * float(shard.target.mean()) for shard, weight in shards) / size
    assert mean == pytest.approx(float(whole.target.mean()))


def test_a_process_without_a_group_is_alone() -> None:
    batch = batch_of(3)
    assert replicas() == Replicas(0, 1)
    assert Replicas().shard(batch) == (batch, 1.0)
    net = nn.Linear(1, 1)
    assert Replicas().together(net) is net and Replicas().agreed(3.0) == 3.0


def trained(training: Training, until: int, state: TrainState) -> tuple[nn.Module, TrainState]:
    task = registry.load({"task": "breast-cancer", "split_seed": 0})
    torch.manual_seed(5)
    net = TINY.build(TINY.arch((8, 4), "tanh"), task.spec)
    return net, task.fit(net, FitPlan(training, seed=3, until=until, validate=True), state)


def one_of(rank: int, size: int, port: int, training: Training, folder: str) -> None:
    """A replica: two epochs in two calls, as two rungs are."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=size, rank=rank)
    try:
        _, first = trained(training, 1, TrainState())
        net, state = trained(training, 2, first)
        state.tensors |= snapshot(net.state_dict(), "net.")
        (Path(folder) / str(rank)).write_bytes(encode_state(state))
    finally:
        torch.distributed.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_two_replicas_train_as_one_process_does(tmp_path: Path) -> None:
    training = Training(lr=1e-2, batch_size=50, epochs=2, l1=1e-4, ema=0.9, optimizer="momentum")
    torch.multiprocessing.spawn(one_of, (2, free_port(), training, str(tmp_path)), nprocs=2)
    one, two = (decode_state((tmp_path / str(rank)).read_bytes()) for rank in (0, 1))
    assert_equal(one.tensors, two.tensors)
    _, first = trained(training, 1, TrainState())
    net, alone = trained(training, 2, first)
    assert_close(with_prefix(one.tensors, "net."), net.state_dict())
    assert_close(with_prefix(one.tensors, "optimizer."), with_prefix(alone.tensors, "optimizer."))
    for ours, theirs in zip(one.numbers["curve"], alone.numbers["curve"], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["val"] == pytest.approx(theirs["val"], abs=1e-6) and ours["steps"] == theirs["steps"]
    assert [row["val"] for row in one.numbers["curve"]] == [row["val"] for row in two.numbers["curve"]]


def assert_equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def assert_close(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ({"task": "digits-generation"}, "trained against a critic"),
        ({"task": "CartPole-v1"}, "a loop of its own"),
        ({"task": "karate"}, "not rows of equal shape"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(source: dict[str, Any], reason: str) -> None:
    pytest.importorskip("networkx" if source["task"] == "karate" else "gymnasium")
    task = registry.load(source)
    require_replicas(task, 1)
    with pytest.raises(BadInput, match=rf"--workers-per-trial 2 cannot share out .*{reason}.*; leave it out"):
        require_replicas(task, 2)
