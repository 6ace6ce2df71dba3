"""Random numbers of a block's own: torch's generator is seeded for the block and put back after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block on the CPU with seeded random numbers; the caller's go on as if none had been drawn in it."""
    import torch

    # devices=[]: the generators of GPUs are not saved, and so must not be seeded either, as torch.manual_seed would.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
