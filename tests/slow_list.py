"""The list of slow tests, which `make fast` leaves out."""

from pathlib import Path

SLOW = Path(__file__).with_name("slow.txt")
"""The tests that took long when they were last timed, one name a line: `benchmarks/slow_tests.py` writes
it. Without its parameters a name stands for all tests of the function, with "[*-last]" for all with this last one."""


def is_slow(name: str, listed: frozenset[str]) -> bool:
    function, _, parameters = name.partition("[")
    return bool({name, function, f"{function}[*-{parameters.rpartition('-')[2]}"} & listed)
