"""The seconds of a run by part: nested parts count once, and workers' seconds belong where they are added."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from searchkit.cli import profile
from searchkit.core import timing
from searchkit.core.timing import Stopwatch


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that only this moves."""
    now = [100.0]
    monkeypatch.setattr(timing.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def test_each_second_belongs_to_the_innermost_part(wait: Callable[[float], None]) -> None:
    watch = Stopwatch()
    wait(50)  # of no part
    with watch.part("search"):
        wait(1)
        with watch.part("training"):
            wait(2)
            with watch.part("validation"):
                wait(4)
            wait(8)
        watch.add({"training": 100.0, "start of workers": 16.0})
        wait(32)
    assert watch.seconds == {
        "search": 33.0, "search/training": 110.0, "search/training/validation": 4.0, "search/start of workers": 16.0,
    }  # fmt: skip


def test_a_part_that_fails_is_closed_and_seconds_are_taken_once(wait: Callable[[float], None]) -> None:
    watch = Stopwatch()
    with pytest.raises(RuntimeError), watch.part("search"):
        wait(1)
        raise RuntimeError
    with watch.part("report"):
        wait(2)
        assert watch.take() == {"search": 1.0, "report": 2.0}
        wait(4)
    assert watch.take() == {"report": 4.0} and watch.take() == {}


def test_only_the_main_thread_is_timed(wait: Callable[[float], None]) -> None:
    def work() -> None:
        with timing.part("aside"):
            wait(5)

    timing.take()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert timing.take() == {}


def test_a_process_knows_since_when_it_runs() -> None:
    before = timing.process_seconds()
    assert 0 <= before < 86_400


def test_the_table_has_shares_of_the_work_without_the_waiting() -> None:
    seconds = {
        "start/import": 1.0, "search": 1.0, "search/training": 4.0, "search/training/validation": 1.0,
        "search/validation": 1.0, "search/waiting for workers": 90.0, "evaluation/report": 2.0,
        "search/proposals": 1e-4,
    }  # fmt: skip
    lines = [line.split() for line in profile.table(seconds, 95.0).splitlines()]
    assert lines == [
        ["part", "seconds", "share"],
        ["start", "1.0", "10.0%"],
        ["import", "1.0", "10.0%"],
        ["search", "7.0", "70.0%"],
        ["training", "4.0", "40.0%"],
        ["validation", "2.0", "20.0%"],
        ["other", "1.0", "10.0%"],
        ["evaluation", "2.0", "20.0%"],
        ["report", "2.0", "20.0%"],
        "10.0 s of work in 95.0 s, of which 90.0 s were spent waiting for workers".split(),
    ]
