"""What a trial may still come to: the bound's coverage, and the trials that it stops."""

from __future__ import annotations

import numpy as np
import pytest

from searchkit.search.extrapolation import COVERAGE, has_a_chance, lower_bound
from searchkit.search.policy import Halving, Next


def test_the_bound_by_hand() -> None:
    gains = [0.1, 0.5, 0.2, 0.3]
    assert lower_bound(1.0, gains, 0.8) == pytest.approx(0.5), "of four, the largest gain covers 4 of 5"
    assert lower_bound(1.0, gains, 0.6) == pytest.approx(0.7), "the second largest covers 3 of 5"
    assert lower_bound(1.0, gains[:3], 0.8) is None, "three cover 3 of 4 at most"
    assert lower_bound(1.0, [], 0.8) is None


@pytest.mark.parametrize("n", [4, 9, 19])
@pytest.mark.parametrize("coverage", [0.8, 0.5])
def test_the_bound_covers_what_it_states(n: int, coverage: float) -> None:
    """For gains of any distribution; here a skewed one."""
    rng = np.random.default_rng(0)
    draws = rng.lognormal(size=(4000, n + 1))
    covered = [gains[0] <= -(lower_bound(0.0, list(gains[1:]), coverage) or 0.0) for gains in draws]
    assert coverage - 0.02 <= np.mean(covered) <= coverage + 1 / (n + 1) + 0.02


FINISHED = {n: (0.10 + 0.01 * n,) for n in range(4)}
AT_RUNG = {n: (0.30 + 0.01 * n,) for n in range(4)}  # each gained .2


def test_a_trial_goes_on_if_the_bound_is_not_behind_the_best() -> None:
    assert has_a_chance(9, 0, [{**AT_RUNG, 9: (0.29,)}, FINISHED])
    assert not has_a_chance(9, 0, [{**AT_RUNG, 9: (0.301,)}, FINISHED])
    few = {n: row for n, row in FINISHED.items() if n < 3}
    assert has_a_chance(9, 0, [{**AT_RUNG, 9: (0.9,)}, few]), "three gains are too few"


def test_with_a_cost_a_trial_goes_on_while_it_may_come_to_the_front() -> None:
    seen = [{n: (*row, 50.0) for n, row in AT_RUNG.items()}, {n: (*row, 50.0) for n, row in FINISHED.items()}]
    assert has_a_chance(9, 0, [{**seen[0], 9: (0.9, 49.0)}, seen[1]]), "cheaper than all"
    assert not has_a_chance(9, 0, [{**seen[0], 9: (0.9, 50.0)}, seen[1]])


def test_halving_stops_what_has_no_chance() -> None:
    halving = Halving((1, 3), eta=2)
    for number, losses in AT_RUNG.items():
        halving.record(number, 0, losses)
        halving.record(number, 1, FINISHED[number])
    for number, loss, expected in ((10, 0.29, Next.GO_ON), (11, 0.3005, Next.FINISH)):
        halving.record(number, 0, (loss,))
        assert halving.decide(number, 0, stopped_by=None, epoch=1) is expected
    assert 0.5 < COVERAGE < 1.0


def test_losses_that_are_no_numbers_are_no_gains() -> None:
    endless = {n: (float("inf"),) for n in range(20, 30)}
    assert has_a_chance(9, 0, [{**AT_RUNG, **endless, 9: (0.29,)}, {**FINISHED, **endless}])
