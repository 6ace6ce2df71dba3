"""The errors that searchkit raises, with the exit status of the command line for each."""

from __future__ import annotations


class SearchkitError(Exception):
    """An error with one sentence for the user.

    Attributes:
        exit_status: Exit status of the command line for this error.
    """

    exit_status = 1


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
