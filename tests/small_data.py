"""Small files of data and a small network: what the tests of tasks share."""

from pathlib import Path

import numpy as np
from torch import nn

from searchkit.tasks.arrays import ArrayTask


def write_npz(path: Path, **arrays: np.ndarray) -> str:
    np.savez(path, **arrays)
    return str(path)


def make_csv(path: Path, n: int = 120, *, header: bool = True) -> str:
    """Two numbers (one with gaps), a category and a class that depends on them."""
    rows = [] if not header else ["age,pay,job,good"]
    for k in range(n):
        job = ("cook", "smith", "clerk")[k % 3]
        pay = "" if k % 10 == 0 else f"{k % 7}.5"
        rows.append(f"{20 + k % 40},{pay},{job},{'yes' if (k % 3 == 0) else 'no'}")
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return str(path)


def small_net(task: ArrayTask, width: int = 64) -> nn.Sequential:
    def size(shape: tuple[int | None, ...]) -> int:
        return int(np.prod([n or 1 for n in shape]))

    taken, given_ = task.spec.inputs[0].shape, task.spec.outputs[0].shape
    return nn.Sequential(
        nn.Flatten(), nn.Linear(size(taken), width), nn.ReLU(), nn.Linear(width, size(given_)), nn.Unflatten(1, given_)
    )
