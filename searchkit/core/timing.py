"""Where the seconds of a run go: named parts of the work are timed, and each second belongs to the innermost part.

    with part("search"), part("training"):
        ...

gives "search/training" its seconds. The cost is two readings of the clock a part, so it is always on; `search
--profile` shows the result. A worker process hands its seconds over with each job (`take`), and the process of the run
adds them to its own, under the parts that are open there (`add`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class Stopwatch:
    """Seconds by part, of one process.

    Attributes:
        seconds: By the path of the part, such as "search/training", without the parts within it.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    def _settle(self) -> None:
        """Add the time since the last change to the innermost open part."""
        now = time.monotonic()
        if self._open:
            self._count("/".join(self._open), now - self._since)
        self._since = now

    def _count(self, path: str, seconds: float) -> None:
        self.seconds[path] = self.seconds.get(path, 0.0) + seconds

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part; the part around it is stopped meanwhile."""
        self._settle()
        self._open.append(name)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def add(self, more: Mapping[str, float]) -> None:
        """Add the seconds of another process to the parts within the open one."""
        for path, seconds in more.items():
            self._count("/".join([*self._open, path]), seconds)

    def take(self) -> dict[str, float]:
        """The seconds so far; counting begins anew."""
        self._settle()
        found, self.seconds = self.seconds, {}
        return found


_watch = Stopwatch()
"""Of this process; only the main thread's work is timed."""


@contextmanager
def part(name: str) -> Iterator[None]:
    """Time a part of this process's work. In another thread than the main one it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _watch.part(name):
        yield


def add(more: Mapping[str, float]) -> None:
    """Add the seconds of a worker process."""
    _watch.add(more)


def so_far() -> dict[str, float]:
    """The seconds by part; counting goes on."""
    return dict(_watch.seconds)


def take() -> dict[str, float]:
    """The seconds by part since the last call."""
    return _watch.take()


def process_seconds() -> float:
    """Seconds since this process was started; where the system does not tell, 0."""
    try:
        ticks = float(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        booted = float(Path("/proc/uptime").read_text(encoding="utf-8").split()[0])
    except (OSError, IndexError, ValueError):  # macOS has no /proc
        return 0.0
    return max(0.0, booted - ticks / os.sysconf("SC_CLK_TCK"))
