"""Small networks for graphs and the tasks that they answer: what the tests of graphs share."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from searchkit.core.space_file import load_space
from searchkit.core.training import Training
from searchkit.tasks import registry
from searchkit.tasks.arrays import ArrayTask

SPACE = load_space(Path(__file__).parents[1] / "spaces" / "gnn.py")
ARCHS = {
    "gcn": SPACE.arch(conv="gcn", width=16, residual=True),
    "gcn-conv": SPACE.arch(conv="gcn", width=16, depth=1, head="conv", batch_norm=True),
    "sage-mean": SPACE.arch(conv="sage", width=16, batch_norm=True, pooling="max"),
    "sage-max": SPACE.arch(conv="sage", width=16, aggregate="max", jump=True, pooling="sum"),
    "gat": SPACE.arch(conv="gat", width=24, heads=4, residual=True),
    "gat-conv": SPACE.arch(conv="gat", width=24, heads=4, head="conv", answer_heads=3),
    "gin": SPACE.arch(conv="gin", width=16, depth=3, jump=True, pooling="sum", batch_norm=True),
}
TASKS = {name: registry.load({"task": name}) for name in ("graph-shapes", "sbm")}


def network(arch: str, task: str, seed: int = 0) -> nn.Module:
    """Of weights that are not those of a fresh network: biases and running statistics too."""
    torch.manual_seed(seed)
    net = SPACE.build(ARCHS[arch], TASKS[task].spec)
    with torch.no_grad():
        for tensor in [*net.parameters(), *net.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(0.1 * torch.rand_like(tensor))
    return net.eval()


def model_inputs(task: ArrayTask, n: int) -> tuple[Tensor, ...]:
    batch = next(task.batches("val", Training(batch_size=n), seed=0, device="cpu"))
    return batch.inputs
