"""Every failure that searchkit raises, with the exit status of the command line."""

from __future__ import annotations

import struct
import zlib
from tokenize import TokenError
from typing import TYPE_CHECKING
from zipfile import BadZipFile

from searchkit.core.data_spec import within_bounds

if TYPE_CHECKING:
    pass


class SearchkitError(Exception):
    """A failure with one clear sentence for the user; `exit_status` is what the command line ends with.

    The sentence is kept to `MOST_CHARACTERS` here, so that no data and no message of a library makes it longer.
    """

    exit_status = 1

    def __init__(self, sentence: str = "") -> None:
        super().__init__(within_bounds(sentence))


class BadInput(SearchkitError):
    """What the user gave cannot be used: the sentence says what, its value, what is allowed and what to do."""

    exit_status = 2


class NotInstalled(BadInput):
    """What was asked for needs a package that is not here; the sentence says which, and how to install it."""


class NothingFeasible(SearchkitError):
    """No candidate meets the limits."""

    exit_status = 3


class GateFailed(SearchkitError):
    """A proof failed: the export disagrees with the model, or a stage did not do what it promises."""

    exit_status = 4


class Inapplicable(Exception):
    """A stage has nothing to act on in this network. The line goes on without it, and the report says why."""


class Infeasible(Exception):
    """This architecture cannot exist for this data or budget. It ends one trial, never the search."""


DAMAGED_ARRAYS: tuple[type[Exception], ...] = (
    BadZipFile, EOFError, LookupError, MemoryError, NotImplementedError, OSError, OverflowError, RecursionError,
    SyntaxError, TokenError, TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip

"""What numpy raises on a damaged .npy or .npz: its header is parsed as Python."""
