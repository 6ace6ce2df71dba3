"""What a draw gives: the fields of a training, and a value for all that a space may ask."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from golden_space import SPACE, SPEC
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from searchkit.core.data_spec import DataSpec
from searchkit.core.training import Categorical, LogUniform, Training, TrainingSpace, Uniform
from searchkit.search.candidates import Draft, draw
from searchkit.search.choices import at, at_random, grid_values, holds, like

# ── training fields ──────────────────────────────────────────────────────────────────────────────────────────────────


def drawn_training(ranges: dict[str, Any], spec: DataSpec, share: float, default: Training) -> Training:
    space = replace(SPACE, training=TrainingSpace(default, ranges))
    return draw(space, spec, at(share), epochs=7, way="test").training


def test_the_ranges_of_a_training_are_drawn_and_the_rest_is_the_default() -> None:
    ranges = {
        "lr": LogUniform(1e-4, 1e-2),
        "mixup": Uniform(0.0, 0.4),
        "optimizer": Categorical(("sgd", "adamw")),
        "augment": Categorical(((), ("crop",), ("crop", "flip"))),
        "batch_size": Categorical((16, 32, 64)),
    }
    default = Training(momentum=0.7, epochs=99, augment=("flip",))
    spec = replace(SPEC, augmentations=("crop", "flip"))
    low, middle, high = (drawn_training(ranges, spec, share, default) for share in (0.0, 0.5, 1.0))
    assert (low.lr, low.mixup, low.optimizer, low.augment, low.batch_size) == (1e-4, 0.0, "sgd", (), 16)
    assert (middle.lr, middle.mixup) == pytest.approx((1e-3, 0.2))
    assert (middle.augment, middle.batch_size) == (("crop",), 32)
    assert (high.lr, high.mixup, high.optimizer, high.batch_size) == (1e-2, 0.4, "adamw", 64)
    assert high.augment == ("crop", "flip")
    assert {low.momentum, middle.momentum, high.momentum} == {0.7}
    assert {low.epochs, middle.epochs, high.epochs} == {7}


def test_augmentations_and_pre_training_that_the_data_lack_are_left_out() -> None:
    default = Training(augment=("crop", "jitter"), pretrain_epochs=4)
    spec = replace(SPEC, augmentations=("jitter",))
    found = drawn_training({"pretrain_epochs": Categorical((2, 6))}, spec, 1.0, default)
    assert found.augment == ("jitter",) and found.pretrain_epochs == 0
    tokens = replace(spec, modality="tokens")
    assert drawn_training({"pretrain_epochs": Categorical((2, 6))}, tokens, 1.0, default).pretrain_epochs == 6
    assert drawn_training({}, tokens, 1.0, default).pretrain_epochs == 4


# ── what a space may ask ─────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_asked_for_is_kept_with_its_range_and_answered_alike_twice() -> None:
    draft = Draft(at(1.0))
    assert draft.suggest_int("a", 2, 10, step=4) == 10 == draft.suggest_int("a", 2, 10, step=4)
    assert draft.suggest_int("b", 1, 9, log=True) == 9
    assert draft.suggest_float("c", 0.0, 1.0, step=0.5) == 1.0
    assert draft.suggest_float("d", 0.1, 0.9, log=True) == 0.9
    assert draft.suggest_categorical("e", ["x", "y"]) == "y"
    assert draft.distributions == {
        "a": IntDistribution(2, 10, step=4),
        "b": IntDistribution(1, 9, log=True),
        "c": FloatDistribution(0.0, 1.0, step=0.5),
        "d": FloatDistribution(0.1, 0.9, log=True),
        "e": CategoricalDistribution(("x", "y")),
    }


@pytest.mark.parametrize(
    ("distribution", "inside", "outside"),
    [
        (IntDistribution(2, 10, step=4), (2, 6, 10), (1, 4, 14, 6.0, "6", -2)),
        (FloatDistribution(0.5, 2.0), (0.5, 1, 2.0), (0.4, 2.1, "1", None)),
        (CategoricalDistribution(("a", 1)), ("a", 1), ("b", 2, None)),
    ],
    ids=str,
)
def test_a_value_is_held_by_what_may_have_it(distribution: Any, inside: Any, outside: Any) -> None:
    assert all(holds(distribution, value) for value in inside)
    assert not any(holds(distribution, value) for value in outside)
    for value in outside:
        assert like({"x": value}, lambda name, d: "otherwise")("x", distribution) == "otherwise"


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (IntDistribution(1, 5), [1, 2, 3, 4, 5]),
        (IntDistribution(1, 6), [1, 2, 3, 5, 6]),
        (IntDistribution(1, 16, log=True), [1, 2, 4, 8, 16]),
        (IntDistribution(0, 12, step=3), [0, 3, 6, 9, 12]),
        (IntDistribution(0, 20, step=2), [0, 4, 10, 16, 20]),
        (FloatDistribution(0.0, 2.0), [0.0, 0.5, 1.0, 1.5, 2.0]),
        (FloatDistribution(1e-4, 1.0, log=True), [1e-4, 1e-3, 1e-2, 1e-1, 1.0]),
        (FloatDistribution(0.0, 0.3, step=0.1), [0.0, 0.1, 0.2, 0.3]),
        (FloatDistribution(0.0, 0.8, step=0.1), [0.0, 0.2, 0.4, 0.6, 0.8]),
        (CategoricalDistribution(("b", "a")), ["b", "a"]),
    ],
    ids=str,
)
def test_the_grid_of_a_parameter(distribution: Any, expected: list[Any]) -> None:
    found = grid_values(distribution)
    assert found == (pytest.approx(expected) if isinstance(expected[0], (int, float)) else expected)
    assert [at(share)("x", distribution) for share in (0.0, 1.0)] == [found[0], found[-1]]


def test_random_values_fill_their_range_evenly_on_their_own_scale() -> None:
    choose = at_random(random.Random(0))

    def drawn(distribution: Any) -> list[Any]:
        return [choose("x", distribution) for _ in range(3000)]

    logs = [math.log10(v) for v in drawn(FloatDistribution(1e-4, 1.0, log=True))]
    assert sum(logs) / 3000 == pytest.approx(-2.0, abs=0.1) and min(logs) < -3.9 and max(logs) > -0.1
    plain = drawn(FloatDistribution(2.0, 4.0))
    assert sum(plain) / 3000 == pytest.approx(3.0, abs=0.05) and min(plain) < 2.05 and max(plain) > 3.95
    for distribution in (IntDistribution(3, 11, step=4), FloatDistribution(0.0, 1.0, step=0.5)):
        counts = Counter(drawn(distribution))
        assert len(counts) == 3 and min(counts.values()) > 900
    ones = Counter(drawn(IntDistribution(1, 4, log=True)))  # each from half a step below to half a step above
    shares = [math.log((n + 0.5) / (n - 0.5)) / math.log(4.5 / 0.5) for n in (1, 2, 3, 4)]
    assert [ones[n] / 3000 for n in (1, 2, 3, 4)] == pytest.approx(shares, abs=0.03)
