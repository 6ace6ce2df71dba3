"""The errors that searchkit raises, with the exit status of the command line for each."""

from __future__ import annotations

import struct
import zlib
from tokenize import TokenError
from zipfile import BadZipFile

from searchkit.core.data_spec import within_bounds


class SearchkitError(Exception):
    """An error with one sentence for the user.

    The sentence is kept to `MOST_CHARACTERS` here, so that no data and no message of a library makes it longer.

    Attributes:
        exit_status: Exit status of the command line for this error.
    """

    exit_status = 1

    def __init__(self, sentence: str = "") -> None:
        super().__init__(within_bounds(sentence))


class BadInput(SearchkitError):
    """The user's input cannot be used.

    The message says what is wrong, the value, what is allowed and what to do.
    """

    exit_status = 2


class NotInstalled(BadInput):
    """The request needs an optional package that is not installed; the message says how to install it."""


class NothingFeasible(SearchkitError):
    """No candidate meets the limits."""

    exit_status = 3


class GateFailed(SearchkitError):
    """A check failed: an exported file disagrees with its network, or a stage did not do what it promises."""

    exit_status = 4


class Inapplicable(Exception):
    """A stage has nothing to change in this network; the pipeline skips it, and the report says why."""


class Infeasible(Exception):
    """An architecture cannot exist for this data or budget; it ends one trial, never the search."""


DAMAGED_ARRAYS: tuple[type[Exception], ...] = (
    BadZipFile, EOFError, LookupError, MemoryError, NotImplementedError, OSError, OverflowError, RecursionError,
    SyntaxError, TokenError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip

"""What numpy raises on a damaged .npy or .npz: its header is parsed as Python."""
