"""The rules of a search, each by itself: when a rung is retried, a trial goes on, and a search stops."""

from __future__ import annotations

import math

import pytest

from searchkit.search import policy
from searchkit.search.policy import Halving, Next


def test_a_rung_is_retried_until_its_third_worker_dies() -> None:
    assert [policy.is_retried(n) for n in (1, 2, 3)] == [True, True, False]


def test_a_search_stops_after_five_equal_crashes_in_a_row_and_not_before() -> None:
    crash, other, diverged = ("crashed", "a"), ("crashed", "b"), ("diverged", "a")
    assert not policy.keeps_crashing([crash] * 4)
    assert policy.keeps_crashing([crash] * 5)
    assert policy.keeps_crashing([other, *[crash] * 5])
    assert not policy.keeps_crashing([crash, crash, other, crash, crash])
    assert not policy.keeps_crashing([diverged] * 5), "a learning rate that diverges says nothing of the next one"


def test_a_search_is_hopeless_after_twenty_refusals_a_trial() -> None:
    assert not policy.is_hopeless(59, 3) and policy.is_hopeless(60, 3)


def test_a_goal_that_is_no_number_loses_every_comparison() -> None:
    cost = {"params": 10.0}
    assert policy.losses(math.nan, cost, None) == (math.inf,)
    assert policy.losses(0.5, cost, "params") == (0.5, 10.0)
    assert policy.losses(math.nan, cost, "params") == (math.inf, 10.0)


@pytest.mark.parametrize(
    ("left", "seconds", "enough"),
    [(10.0, [], True), (0.0, [], False), (10.0, [9.0], True), (10.0, [10.0], False), (5.0, [1.0, 4.0, 99.0], True),
     (math.inf, [1e9], True)],
)  # fmt: skip
def test_a_first_rung_begins_if_the_median_of_those_seen_fits(left: float, seconds: list[float], enough: bool) -> None:
    assert policy.has_time_for_a_rung(left, seconds) is enough


def test_a_rung_may_take_five_times_what_the_trial_leads_one_to_expect() -> None:
    assert policy.most_seconds(60.0, spent=0.0, done=0, until=4) == 60.0
    assert policy.most_seconds(60.0, spent=100.0, done=2, until=6) == 5.0 * 50.0 * 4
    assert policy.most_seconds(3600.0, spent=100.0, done=2, until=6) == 3600.0
    assert policy.grace_seconds([]) == 20.0 and policy.grace_seconds([30.0]) == 60.0


def halving(*at_rung_0: float) -> Halving:
    made = Halving((1, 3, 9), eta=3)
    for number, loss in enumerate(at_rung_0):
        made.record(number, 0, (loss,))
    return made


def test_the_best_third_goes_on_and_the_rest_is_finished() -> None:
    made = halving(0.1, 0.2, 0.3, 0.4)
    decisions = [made.decide(number, 0, stopped_by=None, epoch=1) for number in range(4)]
    assert decisions == [Next.GO_ON, Next.GO_ON, Next.FINISH, Next.FINISH]


def test_what_ended_its_training_does_not_go_on() -> None:
    made = halving(0.1)
    assert made.decide(0, 0, stopped_by="patience", epoch=1) is Next.FINISH
    assert made.decide(0, 0, stopped_by="time", epoch=2) is Next.FINISH
    assert made.decide(0, 0, stopped_by="time", epoch=1) is Next.CUT_OFF
    made.record(0, 2, (0.1,))
    assert made.decide(0, 2, stopped_by=None, epoch=9) is Next.FINISH


def test_what_a_run_on_disk_has_is_recalled_rung_by_rung() -> None:
    made = halving()
    made.recall(7, [[0.3, 5.0], [0.2, 5.0]])
    assert made.seen == [{7: (0.3, 5.0)}, {7: (0.2, 5.0)}, {}]
