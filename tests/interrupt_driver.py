"""Ctrl-C where Python cannot raise anything."""

from __future__ import annotations

import signal
import weakref


def dropped_ctrl_c() -> None:
    """SIGINT while a weak reference's callback runs: the handler is called there, and what it raises is dropped."""

    class Thing:
        pass

    def callback(_: object) -> None:
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the handler has raised")

    thing = Thing()
    reference = weakref.ref(thing, callback)
    del thing
    assert reference() is None
