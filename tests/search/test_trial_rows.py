"""A trial that is written at once is, row by row, what Optuna's own storage writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from searchkit.core.errors import BadInput
from searchkit.core.training import Training
from searchkit.search.candidates import Candidate
from searchkit.search.study import TrialStore

TABLES = ("trials", "trial_params", "trial_values", "trial_user_attributes", "trial_system_attributes")
TIMES = ("datetime_start", "datetime_complete")


def candidate(width: int, high: int = 64) -> Candidate:
    params = {"width": width, "lr": 1e-3 * width, "kind": "relu", "deep": True}
    kinds = {
        "width": IntDistribution(1, high, step=1),
        "lr": FloatDistribution(1e-5, 1.0, log=True),
        "kind": CategoricalDistribution(("relu", "tanh")),
        "deep": CategoricalDistribution((True, False)),
    }
    return Candidate(params, kinds, None, Training(), "random", system_attrs={"nsga2:generation": 3})


def store_at(path: Path, *, plain: bool = False, owner: str = "") -> TrialStore:
    store = TrialStore(f"sqlite:///{path}", "s", ("maximize", "minimize"), facts="f", owner=owner)
    assert store.rows is not None
    if plain:
        store.rows = None
    return store


def go_through(store: TrialStore) -> None:
    """Every way in which a trial is written."""
    facts = {"arch": {"widths": [3, (4, 5)]}, "cost": {"params": 12.0}, "minimized": "params", "seed": 2**60}
    one, two, three, four = (store.start(candidate(width), facts) for width in (3, 5, 7, 9))
    store.reject(candidate(11), {**facts, "reason": "'é' is \x7f"}, {"size_bytes": 0.5})
    store.finish(one, [0.5, float("inf")], {"rung": 0, "losses": [[0.5, 12.0]], "seconds": 0.1, "artifact": "a"})
    store.fail(two, "crashed", "it broke")
    store.abandon(three, "the time ended")
    assert four.user_attrs["arch"] == {"widths": [3, [4, 5]]}, "as it is read back"


def dump(path: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    with sqlite3.connect(path) as connection:
        connection.row_factory = sqlite3.Row
        for table in TABLES:
            rows = [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]
            for row in rows:
                row.update({name: row[name] is not None for name in TIMES if name in row})
                for key in [key for key in row if key.endswith("_id") and key != "trial_id"]:
                    del row[key]  # the order of writing is nobody's business
            found[table] = sorted(rows, key=str)
    return found


def test_every_row_is_what_optuna_writes(tmp_path: Path) -> None:
    go_through(store_at(tmp_path / "ours.db"))
    go_through(store_at(tmp_path / "theirs.db", plain=True))
    ours, theirs = dump(tmp_path / "ours.db"), dump(tmp_path / "theirs.db")
    for table in TABLES:
        assert ours[table] == theirs[table], table
    assert len(ours["trials"]) == 5 and len(ours["trial_params"]) == 20


def test_what_is_returned_is_what_is_read_back(tmp_path: Path) -> None:
    store = store_at(tmp_path / "study.db")
    given = store.start(candidate(3), {"arch": {"widths": (3, 4)}})
    (read,) = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / 'study.db'}").trials
    assert given == read and given._trial_id == read._trial_id
    begun = [trial.datetime_start for trial in (given, read)]
    assert begun[0] == begun[1] is not None


def test_numbers_go_on_where_another_process_left_off(tmp_path: Path) -> None:
    one, two = (store_at(tmp_path / "study.db", owner=owner) for owner in ("one", "two"))
    numbers = [store.start(candidate(width), {}).number for width, store in enumerate((one, two, two, one), 1)]
    assert numbers == [0, 1, 2, 3] == [trial.number for trial in one.trials()]


@pytest.mark.parametrize("again", [False, True], ids=["the same process", "another"])
def test_a_parameter_with_two_sets_of_choices_is_refused(tmp_path: Path, again: bool) -> None:
    store = store_at(tmp_path / "study.db")
    store.start(candidate(3), {})
    if again:
        store = store_at(tmp_path / "study.db")
    other = candidate(4)
    other.distributions["kind"] = CategoricalDistribution(("relu", "gelu"))
    with pytest.raises(BadInput, match="do not fit together"):
        store.start(other, {})
    assert len(store.trials()) == 1, "half a trial is stored"


@pytest.mark.parametrize("close", [lambda s, t: s.finish(t, [1.0, 2.0], {}), lambda s, t: s.abandon(t, "late")])
def test_a_finished_trial_is_not_changed(tmp_path: Path, close: Callable[[TrialStore, Any], None]) -> None:
    store = store_at(tmp_path / "study.db")
    trial = store.start(candidate(3), {})
    store.finish(trial, [0.5, 3.0], {})
    with pytest.raises(UpdateFinishedTrialError):
        close(store, trial)
    (kept,) = store.trials()
    assert kept.values == [0.5, 3.0] and kept.state == TrialState.COMPLETE and "reason" not in kept.user_attrs
