"""How many threads torch computes with, set for a block and put back after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def torch_threads(n: int) -> Iterator[None]:
    """Run a block with `n` of torch's intra-operator threads; the number from before is put back, errors or not.

    The order of a sum, and so its last bits, depends on the number of threads: what must be the same in two processes
    runs on one.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
