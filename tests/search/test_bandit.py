"""Which family gets the next trial: a pure function of the trials so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from searchkit.search.bandit import Pull, Rule, choose, first_trials

RULE = Rule(first=2, eta=3, timed=False, seed=0)


def pulls(family: str, *losses: float | None, seconds: float | None = 1.0) -> list[Pull]:
    return [Pull(family, None if loss is None else (loss,), True, seconds) for loss in losses]


def shares(families: Sequence[str], seen: Sequence[Pull], rule: Rule = RULE, n: int = 400) -> Counter[str]:
    return Counter(choose(families, seen, rule, call=call) for call in range(n))


def test_each_family_gets_its_first_trials_in_the_order_of_the_user() -> None:
    seen: list[Pull] = []
    for _ in range(6):
        seen.append(Pull(choose(("b", "a", "c"), seen, RULE, call=len(seen)), None, ended=False))
    assert [pull.family for pull in seen] == ["b", "a", "c", "b", "a", "c"], "what runs counts as begun"


def test_the_family_whose_trials_are_among_the_best_gets_most_and_no_family_none() -> None:
    seen = pulls("good", 0.1, 0.2, 0.15) + pulls("poor", 0.5, 0.6, 0.7) + pulls("middling", 0.3, 0.4, 0.45)
    found = shares(("poor", "middling", "good"), seen)
    assert found["good"] > 0.75 * 400
    assert found["poor"] > 0 and found["middling"] > 0


def test_hits_are_of_the_front_first() -> None:
    """With a cost beside the goal: b's trial is worse in the goal and cheaper, and no trial of a but one beats it."""
    front = [Pull("a", (0.1, 50.0), True), Pull("b", (0.4, 1.0), True)]
    behind = [Pull("a", (0.2, 60.0), True)] * 2 + [Pull("b", (0.5, 70.0), True)] * 2
    found = shares(("a", "b"), front + behind)
    assert abs(found["a"] - found["b"]) < 0.15 * 400, "one hit in three trials each"


def test_a_trial_that_could_not_be_trained_counts_against_its_family_and_a_running_one_does_not() -> None:
    seen = pulls("a", 0.1, 0.5) + pulls("b", 0.2, 0.6)
    failing, running = seen + pulls("a", None, None, None), [*seen, *[Pull("a", None, ended=False)] * 3]
    assert shares(("a", "b"), failing)["a"] < shares(("a", "b"), seen)["a"] - 50
    assert shares(("a", "b"), running) == shares(("a", "b"), seen)


def test_with_a_time_limit_a_trial_costs_its_time() -> None:
    seen = pulls("slow", 0.1, 0.9, 0.9, seconds=10.0) + pulls("quick", 0.11, 0.9, 0.9, seconds=1.0)
    free, timed = shares(("slow", "quick"), seen), shares(("slow", "quick"), seen, Rule(2, 3, True, 0))
    assert abs(free["slow"] - free["quick"]) < 0.15 * 400
    assert timed["quick"] > 0.8 * 400 and timed["slow"] > 0


def test_a_family_without_a_known_time_costs_as_much_as_the_others() -> None:
    seen = pulls("a", 0.1, 0.2, seconds=100.0) + pulls("b", None, None, seconds=None)
    assert shares(("a", "b"), seen, Rule(2, 3, True, 0))["a"] > 0.8 * 400


def test_the_same_trials_give_the_same_choice_and_other_seeds_another() -> None:
    seen = pulls("a", 0.1, 0.4) + pulls("b", 0.2, 0.3)
    once = [choose(("a", "b"), seen, RULE, call=call) for call in range(50)]
    assert once == [choose(("a", "b"), seen, RULE, call=call) for call in range(50)]
    assert once != [choose(("a", "b"), seen, Rule(2, 3, False, seed=1), call=call) for call in range(50)]


def test_a_family_that_has_nothing_left_is_passed_over_and_its_trials_still_count() -> None:
    seen = pulls("gone", 0.1, 0.1, 0.1, 0.1) + pulls("a", 0.2, 0.9) + pulls("b", 0.3, 0.8)
    found = shares(("a", "b"), seen)
    assert set(found) == {"a", "b"}
    assert abs(found["a"] - found["b"]) < 0.2 * 400, "the best third are the four that are gone's, so neither has a hit"


@pytest.mark.parametrize(("trials", "families", "first"), [(12, 2, 2), (13, 3, 2), (12, 3, 1), (3, 6, 1)])
def test_few_trials_are_not_used_up_before_results_count(trials: int, families: int, first: int) -> None:
    assert first_trials(trials, families) == first
