"""Ctrl-C: the first leaves a run that can be resumed, the second ends the process at once.

Python drops exceptions that are raised in a finalizer or in a weak reference's callback, including KeyboardInterrupt,
and a database session runs many of these. So the first Ctrl-C is also remembered, and long work checks for it between
rungs, stages and epochs.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from searchkit.core.errors import SearchkitError


class Interrupted(SearchkitError):
    """The user pressed Ctrl-C; the run can be resumed."""

    exit_status = 130


_heard: threading.Event | None = None
"""Set by the first Ctrl-C; belongs to the innermost `interruptible` block."""


@contextmanager
def interruptible(sentence: str) -> Iterator[None]:
    """Turn Ctrl-C inside the block into `Interrupted`.

    If Python drops the KeyboardInterrupt, it is raised again at the next `raise_if_interrupted`, or at the end of the
    block. Outside the main thread the block does nothing, since only the main thread receives signals.

    Args:
        sentence: Message of the exception.

    Raises:
        Interrupted: If Ctrl-C was pressed inside the block.
    """
    global _heard
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    raise_if_interrupted()  # of the block around this one, which is not asked again before this one ends
    heard = threading.Event()

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if heard.is_set():
            os._exit(130)  # not sys.exit, whose exception could be dropped as well
        # Before the exception, which Python may drop: from here on the Ctrl-C is known.
        heard.set()
        raise KeyboardInterrupt

    def on_dropped(what: Any) -> None:
        # Without this, Python would print the traceback of a Ctrl-C that is raised again later anyway.
        if not (heard.is_set() and issubclass(what.exc_type, KeyboardInterrupt)):
            report_before(what)

    heard_before, report_before = _heard, sys.unraisablehook
    handler_before = signal.signal(signal.SIGINT, on_interrupt)
    _heard, sys.unraisablehook = heard, on_dropped
    try:
        yield
        raise_if_interrupted()
    except KeyboardInterrupt as error:
        # The block itself raised it, without a signal: it is not ours to translate.
        if not heard.is_set():
            raise
        raise Interrupted(sentence) from error
    finally:
        _heard, sys.unraisablehook = heard_before, report_before
        signal.signal(signal.SIGINT, handler_before)


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed inside an `interruptible` block.

    Long work calls this between its steps.
    """
    if _heard is not None and _heard.is_set():
        raise KeyboardInterrupt
