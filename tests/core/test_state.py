"""What a training leaves is copied whole, stored in one format, and put back as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from searchkit.core.errors import BadInput
from searchkit.core.state import capture, decode_state, encode_state, restore_, snapshot, with_prefix
from searchkit.core.threads import torch_threads
from searchkit.core.training import TrainState
from searchkit.run import Run


def test_a_snapshot_is_a_copy_of_its_own_contiguous_and_without_gradient() -> None:
    whole = torch.arange(12.0).reshape(3, 4).requires_grad_()
    found = snapshot({"turned": whole.T, "part": whole[1]}, "best.")
    assert list(found) == ["best.turned", "best.part"]
    assert all(value.is_contiguous() and not value.requires_grad for value in found.values())
    with torch.no_grad():
        whole.zero_()
    same = torch.arange(12.0).reshape(3, 4)
    assert torch.equal(found["best.turned"], same.T), "the copy shares the original's memory"
    assert torch.equal(found["best.part"], same[1]), "the copy shares the original's memory"
    assert list(with_prefix(found, "best.")) == ["turned", "part"]


def trained(
    optimizer: type[torch.optim.Optimizer], *, channels_last: bool = False
) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    if channels_last:
        for parameter in net.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    options = {"fused": True} if optimizer is torch.optim.AdamW else {"momentum": 0.9}
    made = optimizer(net.parameters(), lr=0.1, **options)
    for _ in range(3):
        step_(net, made)
    return net, made


def step_(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    net(torch.linspace(-1, 1, 2 * 3 * 16).reshape(2, 3, 4, 4)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("prefix", ["", "critic."])
@pytest.mark.parametrize("channels_last", [False, True], ids=["channels first", "channels last"])
def test_a_training_goes_on_from_its_captured_state_bit_for_bit(
    optimizer: type[torch.optim.Optimizer], prefix: str, channels_last: bool
) -> None:
    net, own = trained(optimizer, channels_last=channels_last)
    kept = TrainState(1, {**capture(net, own, prefix), "other.weights.x": torch.ones(2)})
    step_(net, own)
    other, resumed = trained(optimizer, channels_last=channels_last)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(9.0)
    restore_(other, resumed, decode_state(encode_state(kept)).tensors, prefix)
    step_(other, resumed)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


def test_the_runs_file_of_a_state_is_the_workers_buffer(tmp_path: Path) -> None:
    """One codec: a worker may be handed what is on disk, and the other way round. (The header's order is not fixed.)"""
    run = Run.create(tmp_path, "run", {})
    state = TrainState(
        3, {"weights.a": torch.randn(3, 2).T}, {"curve": [{"epoch": 1, "loss": 0.1 + 0.2}], "word": "größer"}
    )
    run.save_state("tiny-1", state)
    on_disk = (run.path / "rungs" / "tiny-1.safetensors").read_bytes()
    for back in (run.load_state("tiny-1"), decode_state(on_disk), decode_state(encode_state(state))):
        assert back is not None and (back.epoch, back.numbers) == (state.epoch, state.numbers)
        assert torch.equal(back.tensors["weights.a"], state.tensors["weights.a"])
    run.drop_state("tiny-1")
    assert run.load_state("tiny-1") is None


@pytest.mark.parametrize("left", [0, 7, 40, -1])
def test_a_torn_state_is_one_sentence(tmp_path: Path, left: int) -> None:
    run = Run.create(tmp_path, "run", {})
    run.save_state("tiny-1", TrainState(1, {"weights.a": torch.ones(8)}))
    file = run.path / "rungs" / "tiny-1.safetensors"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(BadInput, match="its trial starts again"):
        run.load_state("tiny-1")


def test_the_threads_are_put_back_after_an_error_too() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == before
