"""The database of a study, opened by its URL; the password in that URL is written nowhere.

A run and its report hold the URL without the password. At use it comes from the environment: SEARCHKIT_STORAGE is the
whole URL, and PostgreSQL's own library reads PGPASSWORD.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import time
from typing import Any

import optuna
from optuna.storages import RDBStorage
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from searchkit.core.errors import BadInput

VARIABLE = "SEARCHKIT_STORAGE"

OPENINGS = 5


class _SQLite(sqlite3.Connection):
    """A connection whose commits empty the journal instead of deleting it.

    That is as safe, and the folder has not to be written: 15.8 ms became .7 ms (ext4, the same minute).
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.execute("PRAGMA journal_mode = TRUNCATE")


def without_password(text: str) -> str:
    """A URL, or a word of a command that holds one, without the password: before the host, or among the parameters."""
    text = re.sub(r"([\w+.-]+://[^:/@]*):(?!\d+(?:[/?]|$)).*@", r"\1@", text)
    return re.sub(r"(?<=[?&])password=[^&]*&?", "", text).rstrip("?&") if "://" in text else text


def whole_url(url: str) -> str:
    """The URL with its password, as SEARCHKIT_STORAGE has it, if that is the same database; else as it is."""
    known = os.environ.get(VARIABLE, "")
    return known if known and without_password(known) == without_password(url) else url


def open_storage(url: str) -> RDBStorage:
    """Open the database of a study. Raises BadInput if it cannot be opened."""
    optuna.logging.set_verbosity(logging.WARNING)
    # Python's sqlite3 waits 5 s for another writer, then fails with "database is locked". A server may close idle
    # connections, so each is tested before it is used.
    patient = (
        {"connect_args": {"timeout": 60, "factory": _SQLite}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    )
    whole = whole_url(url)
    for attempt in range(OPENINGS):
        try:
            return RDBStorage(whole, engine_kwargs=patient)
        except (SQLAlchemyError, optuna.exceptions.OptunaError, ImportError, ValueError) as error:
            # coordinators that start together create the same tables: all but one fail, and find them the next time
            races = (IntegrityError, ProgrammingError)
            lost_a_race = isinstance(error, races) or isinstance(error.__cause__, races)
            if attempt == OPENINGS - 1 or not lost_a_race:
                # Neither the driver's message nor the chained exception may show the password.
                told = (str(error).splitlines() or [""])[0].replace(whole, without_password(url))
                hint = "" if url.startswith("sqlite") else f" A password is read from {VARIABLE}, the whole URL."
                raise BadInput(
                    f"The study at {without_password(url)} cannot be opened ({type(error).__name__}: {told}).{hint}"
                ) from None if whole != without_password(url) else error
            time.sleep(0.5)
    raise AssertionError("the last attempt returns or raises")
