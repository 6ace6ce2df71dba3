"""Ctrl-C, twice: the first leaves a run that resumes, the second ends the process at once."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

AGAIN_SECONDS = 0.05


@contextmanager
def one_clean_interrupt() -> Iterator[threading.Event]:
    """Inside, the first Ctrl-C sets the event and raises KeyboardInterrupt. Outside the main thread nothing changes.

    Where Python is in a finalizer or a weak reference's callback when the signal comes, it drops the exception, and
    says so to `sys.unraisablehook`: it is raised again a moment later. A block that ends within that moment ends with
    the event set and without an exception."""
    interrupted, dropped = threading.Event(), threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        if interrupted.is_set() and not dropped.is_set():
            os._exit(130)
        interrupted.set()
        dropped.clear()
        raise KeyboardInterrupt

    timers: list[threading.Timer] = []

    def on_unraisable(what: Any) -> None:
        if issubclass(what.exc_type, KeyboardInterrupt):
            dropped.set()
            timers.append(threading.Timer(AGAIN_SECONDS, _thread.interrupt_main))
            timers[-1].start()
        else:
            unraisable_before(what)

    unraisable_before = sys.unraisablehook
    before = signal.signal(signal.SIGINT, on_interrupt)
    sys.unraisablehook = on_unraisable
    try:
        yield interrupted
    finally:
        for timer in timers:
            timer.cancel()
        sys.unraisablehook = unraisable_before
        signal.signal(signal.SIGINT, before)
