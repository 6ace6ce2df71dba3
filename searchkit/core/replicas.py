"""Several processes that train one network together (distributed data parallel).

Each replica draws the same batches and takes its own rows of each; gradients are averaged over all of them, so a step
is that of the whole batch on one process, and the batch size means the same (Li et al. 2020, arXiv:2006.15704).
Whether a process is one of several is what `torch.distributed` says: without a process group it is alone, and nothing
here does anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from searchkit.core.training import Batch

if TYPE_CHECKING:
    from torch import Tensor, nn

LEAST_ROWS = 2
"""Rows of a shard: batch normalization cannot train on one."""


@dataclass(frozen=True)
class Replicas:
    """Which of how many processes this is.

    Attributes:
        rank: Counted from 0; the first validates, and its state is the training's.
        size: Processes.
    """

    rank: int = 0
    size: int = 1

    def shard(self, batch: Batch) -> tuple[Batch, float]:
        """This replica's rows of a batch.

        Returns:
            The rows, and the weight of their mean loss: the mean over replicas of weight · loss is the mean loss of the
            whole batch. A batch too small for all of them leaves the last replicas out: they repeat its first rows with
            a weight of 0, since each has to take part in the averaging.
        """
        if self.size == 1:
            return batch, 1.0
        n = len(batch.target)
        assert all(len(x) == n for x in batch.inputs), "a batch that is split has a row of each input an example"
        taking_part = max(1, min(self.size, n // LEAST_ROWS))
        if self.rank >= taking_part:
            return _rows(batch, 0, LEAST_ROWS), 0.0
        first, last = (n * part // taking_part for part in (self.rank, self.rank + 1))
        return _rows(batch, first, last), (last - first) * self.size / n

    def together(self, objective: nn.Module) -> nn.Module:
        """A module whose gradients are averaged over all replicas when its output, a loss, is differentiated.

        Weights and statistics start as those of the first replica; at each call it hands its statistics on.
        """
        if self.size == 1:
            return objective
        from torch.nn.parallel import DistributedDataParallel

        # not every family uses every parameter in every step
        return DistributedDataParallel(objective, find_unused_parameters=True)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all replicas."""
        if self.size == 1:
            return value
        import torch.distributed

        total = value.clone()
        torch.distributed.all_reduce(total)
        return total / self.size

    def agreed(self, value: float) -> float:
        """What the first replica says: clocks differ, and all have to stop at the same step."""
        if self.size == 1:
            return value
        import torch
        import torch.distributed

        told = torch.tensor([value], dtype=torch.float64)
        if torch.distributed.get_backend() == "nccl":  # which knows no tensors of the CPU
            told = told.cuda()
        torch.distributed.broadcast(told, src=0)
        return float(told)


def replicas() -> Replicas:
    """Which replica this process is."""
    import torch.distributed

    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return Replicas()
    return Replicas(torch.distributed.get_rank(), torch.distributed.get_world_size())


def _rows(batch: Batch, first: int, last: int) -> Batch:
    return Batch(tuple(x[first:last] for x in batch.inputs), batch.target[first:last])
