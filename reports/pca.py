"""What an autoencoder shipped, beside PCA with a code of the same size: the same test examples, in pairs.

    python reports/pca.py runs/autoencoder-digits-reconstruction-1 [--json]

For tasks that rebuild their input: reconstruction, denoising, anomaly. PCA is the best linear code of the training rows
in squared error (Eckart & Young 1936); it sees what the network sees, and is scored by the task's own lines.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from searchkit import tasks  # noqa: E402  (found by the line above)
from searchkit.evidence import metric_interval, paired_difference  # noqa: E402
from searchkit.run import Context, Run  # noqa: E402
from searchkit.runtime import OnnxPredictor, TorchPredictor, deploy  # noqa: E402
from searchkit.spacefile import load_space  # noqa: E402
from searchkit.types import Space, Task  # noqa: E402

AT_ONCE = 4096


class PCA(nn.Module):
    """(B, …) to its projection on `components` (k, D) around `mean` (D,), the same shape."""

    mean: Tensor
    components: Tensor

    def __init__(self, mean: np.ndarray, components: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("components", torch.tensor(components, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        code = (x.flatten(1) - self.mean) @ self.components.T
        return (code @ self.components + self.mean).view_as(x)


@torch.no_grad()
def fit_pca(task: Task, size: int) -> PCA:
    """Of the training rows after the task's frontend, in float64. size: of the code."""
    frontend, raw = task.frontend(), torch.from_numpy(task.raw("train")[task.inputs[0].name])
    total, outer = 0.0, 0.0
    for part in raw.split(AT_ONCE):
        x = frontend(part).flatten(1).double().numpy()
        total, outer = total + x.sum(0), outer + x.T @ x
    mean = np.asarray(total) / len(raw)
    _, vectors = np.linalg.eigh(np.asarray(outer) / len(raw) - np.outer(mean, mean))  # ascending
    return PCA(mean, vectors[:, ::-1][:, :size].T.copy())


def code_size(net: nn.Module, task: Task) -> int:
    """How many numbers are in the middle of the network as it was shipped, pruned or not."""
    raw = torch.from_numpy(task.raw("val")[task.inputs[0].name][:2])
    with torch.no_grad():
        code: Tensor = net.to_code(net.encoder(task.frontend()(raw)))  # type: ignore[operator]
    return code[0].numel()


def family(run: Run, name: str) -> Space:
    """By its own name, or by the path that the run was asked with."""
    path = ROOT / "spaces" / f"{name}.py"
    return load_space(path if path.is_file() else Path(run.config["question"]["space"]))


def against_pca(path: Path) -> dict[str, Any]:
    """The shipped file of a run and PCA on test: metrics of both, the goal's intervals, and the difference in pairs."""
    run = Run.open(path)
    task = tasks.load(run.config["question"]["source"])
    ctx = Context(run=run, task=task, spaces=lambda name: family(run, name))
    source = ctx.source(run.load(run.read_json("evidence.json")["chosen"]))
    size = code_size(ctx.network(source), task)
    linear = TorchPredictor(deploy(task.frontend(), fit_pca(task, size), task.answer()), task.inputs, task.answers)
    found = {
        "shipped": task.evaluate(OnnxPredictor(run.bundle / "model.onnx"), "test"),
        "pca": task.evaluate(linear, "test"),
    }
    scores = {name: evaluation.scores for name, evaluation in found.items()}
    return {
        "run": run.name,
        "task": task.name,
        "metric": task.goal.metric,
        "code": size,
        "bytes": (run.bundle / "model.onnx").stat().st_size,
        **{name: asdict(metric_interval(task.goal, own)) for name, own in scores.items()},
        "difference": asdict(paired_difference(task.goal, scores["shipped"], scores["pca"])),
        "metrics": {name: evaluation.metrics for name, evaluation in found.items()},
    }


def told(found: dict[str, Any]) -> str:
    def interval(row: dict[str, Any]) -> str:
        return f"{row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"

    verdict = {True: "better than PCA", False: "worse than PCA", None: "not distinguishable from PCA"}
    return (
        f"{found['run']}: {found['metric']} on {found['shipped']['n']:,} test examples: shipped "
        f"({found['bytes']:,} bytes) {interval(found['shipped'])}, PCA of {found['code']} components "
        f"{interval(found['pca'])}; in pairs {interval(found['difference'])}, "
        f"{verdict[found['difference']['better']]}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = against_pca(given.run)
    print(json.dumps(found) if given.json else told(found))


if __name__ == "__main__":
    main()
