"""One thread a process: the suite runs on two cores beside itself, and a number must not depend on the other tests.

SEARCHKIT_DATASETS is the folder of data sets that are too large to be embedded; what reads them is skipped without it.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from slow_list import SLOW, is_slow

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

DATA = Path(os.environ.get("SEARCHKIT_DATASETS", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def stored_data() -> Callable[[str], Path]:
    """The folder of a data set by its name; the test is skipped where it is not there."""

    def find(name: str) -> Path:
        if not (DATA / name).is_dir():
            pytest.skip(f"no {name} in {DATA}; SEARCHKIT_DATASETS names the folder that has it")
        return DATA / name

    return find


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`-m "not slow"` leaves them out (see `make fast`)."""
    listed = frozenset(SLOW.read_text(encoding="utf-8").splitlines())
    for item in items:
        if is_slow(item.name, listed):
            item.add_marker(pytest.mark.slow)
