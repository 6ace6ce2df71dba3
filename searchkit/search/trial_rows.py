"""A trial's rows in Optuna's tables, written at once: for a study on SQLite, which one coordinator writes.

Optuna's own storage looks up the trial before each parameter and each attribute, and commits each attribute of a
finished trial by itself: 40 ms to add a trial of 15 parameters and seven waits for the disk to close it, where a
cluster finishes 16 trials a second. Here each is one transaction of a few statements. What is stored is the same, row
by row (`tests/search/test_trial_rows.py`), by Optuna's own table definitions, for which pyproject.toml has a cap.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

TRIALS, PARAMS, VALUES = (
    model.__table__ for model in (models.TrialModel, models.TrialParamModel, models.TrialValueModel)
)
USER_ATTRS, SYSTEM_ATTRS = (
    model.__table__ for model in (models.TrialUserAttributeModel, models.TrialSystemAttributeModel)
)


def suits(storage: RDBStorage) -> bool:
    """Whether trials may be written here: the statements are SQLite's, and so is the lock of a whole transaction."""
    return storage.engine.name == "sqlite"


class TrialRows:
    """Writes the trials of one study.

    Attributes:
        storage: The database.
        study_id: The study's key in it.
        known: The distributions that parameters have been stored with, by name.
    """

    def __init__(self, storage: RDBStorage, study_id: int) -> None:
        self.storage, self.study_id = storage, study_id
        self.known: dict[str, BaseDistribution] = {}

    def add(self, trial: FrozenTrial) -> FrozenTrial:
        """Store a new trial.

        Args:
            trial: Without a number.

        Returns:
            The trial with its number and its key, as it would be read back.

        Raises:
            ValueError: A parameter has another distribution than in earlier trials, which Optuna's samplers cannot use.
        """
        with self.storage.engine.begin() as connection:
            # first, since it takes the lock: nobody can count the trials in between
            times = {"datetime_start": _utc(trial.datetime_start), "datetime_complete": _utc(trial.datetime_complete)}
            added = connection.execute(insert(TRIALS).values(study_id=self.study_id, state=trial.state, **times))
            assert added.inserted_primary_key is not None
            key: int = added.inserted_primary_key[0]
            earlier = select(func.count()).where(TRIALS.c.study_id == self.study_id, TRIALS.c.trial_id < key)
            number = int(connection.execute(earlier).scalar_one())
            connection.execute(update(TRIALS).where(TRIALS.c.trial_id == key).values(number=number))
            self._write_params(connection, key, trial)
            self._write_values(connection, key, trial.values or ())
            _write_attrs(connection, USER_ATTRS, key, trial.user_attrs)
            _write_attrs(connection, SYSTEM_ATTRS, key, trial.system_attrs)
        stored = copy.deepcopy(trial)
        stored.number, stored._trial_id = number, key
        for name, value in trial.user_attrs.items():
            stored.set_user_attr(name, json.loads(json.dumps(value)))
        return stored

    def close(
        self,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
        *,
        facts: Mapping[str, Any],
        system: Mapping[str, Any],
    ) -> None:
        """Give a running trial its last state, with values and attributes, all or nothing.

        Raises:
            UpdateFinishedTrialError: It is not running.
        """
        key = trial._trial_id
        with self.storage.engine.begin() as connection:
            running = update(TRIALS).where(TRIALS.c.trial_id == key, TRIALS.c.state == TrialState.RUNNING)
            found = connection.execute(running.values(state=state, datetime_complete=_utc(datetime.now())))
            if found.rowcount != 1:
                raise UpdateFinishedTrialError(f"Trial {trial.number} is not running, and cannot be changed.")
            self._write_values(connection, key, values or ())
            _write_attrs(connection, USER_ATTRS, key, facts)
            _write_attrs(connection, SYSTEM_ATTRS, key, system)

    def _write_params(self, connection: Connection, key: int, trial: FrozenTrial) -> None:
        rows = []
        for name, value in trial.params.items():
            distribution = trial.distributions[name]
            if (before := self._before(connection, name)) is not None:
                check_distribution_compatibility(before, distribution)
            self.known[name] = before or distribution
            rows.append(
                {
                    "trial_id": key,
                    "param_name": name,
                    "param_value": distribution.to_internal_repr(value),
                    "distribution_json": distribution_to_json(distribution),
                }
            )
        if rows:
            connection.execute(insert(PARAMS), rows)

    def _before(self, connection: Connection, name: str) -> BaseDistribution | None:
        """What the study's first trial with this parameter drew it from."""
        if name in self.known:
            return self.known[name]
        first = (
            select(PARAMS.c.distribution_json)
            .join(TRIALS, TRIALS.c.trial_id == PARAMS.c.trial_id)
            .where(TRIALS.c.study_id == self.study_id, PARAMS.c.param_name == name)
            .limit(1)
        )
        found = connection.execute(first).scalar_one_or_none()
        return None if found is None else json_to_distribution(found)

    def _write_values(self, connection: Connection, key: int, values: Sequence[float]) -> None:
        rows = []
        for objective, value in enumerate(values):
            stored, kind = models.TrialValueModel.value_to_stored_repr(value)
            rows.append({"trial_id": key, "objective": objective, "value": stored, "value_type": kind})
        if rows:
            connection.execute(insert(VALUES), rows)


def _utc(local: datetime | None) -> datetime | None:
    """As Optuna stores times: of UTC, without saying so."""
    return None if local is None else local.astimezone(UTC).replace(tzinfo=None)


def _write_attrs(connection: Connection, table: Any, key: int, attrs: Mapping[str, Any]) -> None:
    if not attrs:
        return
    rows = [{"trial_id": key, "key": name, "value_json": json.dumps(value)} for name, value in attrs.items()]
    statement = upsert(table)
    changed = {"value_json": statement.excluded.value_json}
    connection.execute(statement.on_conflict_do_update(index_elements=["trial_id", "key"], set_=changed), rows)
