"""Ctrl-C in long work: heard once as an exception, and where Python drops exceptions too."""

from __future__ import annotations

import signal
import sys

import pytest
import torch
from interrupt_driver import dropped_ctrl_c
from torch import nn

from searchkit.core.interrupt import Interrupted, interruptible, raise_if_interrupted
from searchkit.core.training import FitPlan, Training, TrainState
from searchkit.tasks import registry
from searchkit.train import fit


def test_the_first_ctrl_c_leaves_the_block_with_its_sentence() -> None:
    handler, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    with pytest.raises(Interrupted, match="goes on"), interruptible("It goes on."):
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not heard")
    assert signal.getsignal(signal.SIGINT) is handler and sys.unraisablehook is hook
    raise_if_interrupted()  # outside there is nothing to hear


def test_one_that_python_drops_is_heard_at_the_next_step_and_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    steps = []
    with pytest.raises(Interrupted, match="goes on"), interruptible("It goes on."):
        for step in range(3):
            raise_if_interrupted()
            steps.append(step)
            if step == 1:
                dropped_ctrl_c()
    assert steps == [0, 1]
    assert capfd.readouterr() == ("", "")


def test_one_that_python_drops_in_the_last_step_is_heard_at_the_end() -> None:
    with pytest.raises(Interrupted, match="goes on"), interruptible("It goes on."):
        dropped_ctrl_c()


def test_one_that_python_drops_in_a_block_around_is_heard_before_the_block_within_begins() -> None:
    steps = []
    with pytest.raises(Interrupted, match="The outer"), interruptible("The outer goes on."):
        dropped_ctrl_c()
        with interruptible("The inner goes on."):
            steps.append("within")
    assert not steps


def test_who_raises_keyboard_interrupt_without_a_ctrl_c_means_something_else() -> None:
    with pytest.raises(KeyboardInterrupt), interruptible("It goes on."):
        raise KeyboardInterrupt


def test_what_else_is_dropped_is_reported_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closes:
        def __del__(self) -> None:
            raise OSError("the disk is gone")

    reported = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: reported.append(str(what.exc_value)))
    with interruptible("It goes on."):
        thing = Closes()
        del thing
    assert reported == ["the disk is gone"]


def test_a_training_ends_with_its_epoch() -> None:
    task = registry.load({"task": "digits"})

    class Counting(nn.Linear):
        steps = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            Counting.steps += self.training
            if Counting.steps == 3:
                dropped_ctrl_c()
            return super().forward(x.flatten(1))

    training = Training(epochs=5, batch_size=128)
    plan = FitPlan(training, seed=0, until=5)
    with pytest.raises(Interrupted), interruptible("It goes on."):
        fit(Counting(64, 10), task, plan, TrainState())
    assert Counting.steps == len(list(task.batches("train", training, seed=0, device="cpu")))
