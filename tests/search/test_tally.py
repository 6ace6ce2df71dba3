"""Counting the trials of a study: right after each change, and no finished trial is looked at twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from golden_space import proposals, proposer
from optuna.trial import FrozenTrial, TrialState

from searchkit.search.study import TrialStore
from searchkit.search.tally import CUT_OFF, FAILED, REJECTED, TRAINED, UNTOLD, Tally


def test_a_tally_counts_what_became_of_each_trial(tmp_path: Path) -> None:
    store, other = (
        TrialStore(f"sqlite:///{tmp_path / 's.db'}", "s", ("maximize",), owner=owner) for owner in ("one", "other")
    )
    found, _ = proposals(proposer("random"), 5)
    running = [store.start(c, {"key": c.key}) for c in found[:4]]
    assert store.tally().count(UNTOLD) == 4 and list(store.tally().first) == [c.key for c in found[:4]]
    store.finish(running[2], [0.5], {"seconds": 3.0})
    store.fail(running[0], "crashed", "why not")
    other.finish(running[1], [0.25], {"seconds": 1.0})
    store.abandon(running[3], "late")
    other.reject(found[4], {"key": found[4].key}, {"params": 0.5})
    again = store.start(found[0], {"key": found[0].key})
    tally = store.tally()
    assert [tally.count(s) for s in (TRAINED, FAILED, CUT_OFF, REJECTED, UNTOLD)] == [2, 1, 1, 1, 1]
    assert tally.count(TRAINED, UNTOLD) == 3
    assert tally.seconds == [1.0, 3.0] and tally.values == (0.25, 0.5)
    assert tally.first[found[4].key] == 4 and tally.first[found[0].key] == 0 < again.number == 5
    assert (other.tally().first, other.tally().seconds, other.tally().values) == (
        tally.first,
        tally.seconds,
        tally.values,
    )


def test_a_finished_trial_is_looked_at_once() -> None:
    looks: Counter[int] = Counter()

    class Watched(list[FrozenTrial]):
        def __getitem__(self, index: Any) -> Any:
            found = super().__getitem__(index)
            looks.update(t.number for t in (found if isinstance(index, slice) else [found]))
            return found

        def __iter__(self) -> Iterator[FrozenTrial]:
            raise AssertionError("all of them are walked")

    _, trials = proposals(proposer("random"), 9)
    for trial in trials:
        trial.user_attrs = {"status": TRAINED, "seconds": 1.0, "key": str(trial.number)}
    trials[3].state, trials[3].user_attrs["status"] = TrialState.RUNNING, UNTOLD
    tally = Tally()
    for n in range(4, 9):
        tally.update_(Watched(trials[:n]))
    assert looks == Counter({0: 1, 1: 1, 2: 1, 3: 5, 4: 1, 5: 1, 6: 1, 7: 1})
    assert tally.count(TRAINED) == 7 and tally.count(UNTOLD) == 1
