"""What an autoencoder shipped, beside PCA with a code of the same size: the same test examples, in pairs.

    python benchmarks/pca.py runs/autoencoder-digits-reconstruction-1 [--json]

For tasks that rebuild their input: reconstruction, denoising, anomaly. PCA is the best linear code of the training rows
in squared error (Eckart & Young 1936); it sees what the network sees, and is scored by the task's own lines. A VAE is
compared in nats too, with probabilistic PCA.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from searchkit.context import Context  # noqa: E402
from searchkit.core.data_spec import Split  # noqa: E402
from searchkit.core.goal import Goal  # noqa: E402
from searchkit.core.network import Variational  # noqa: E402
from searchkit.core.space import Space  # noqa: E402
from searchkit.core.space_file import load_space  # noqa: E402
from searchkit.core.task import Task  # noqa: E402
from searchkit.evaluation.statistics import metric_interval, paired_difference  # noqa: E402
from searchkit.lifecycle import config_of  # noqa: E402
from searchkit.onnx.predictor import OnnxPredictor, TorchPredictor, deploy  # noqa: E402
from searchkit.run import Run  # noqa: E402
from searchkit.tasks import registry  # noqa: E402  (found by the line above)
from searchkit.tasks.problems.reconstruction import elbo  # noqa: E402

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


@dataclass(frozen=True)
class Spectrum:
    """Of the covariance of the training rows after the task's preprocessor. mean: (D,). values: (D,), the largest
    first. vectors: (D, D), one a row."""

    mean: np.ndarray
    values: np.ndarray
    vectors: np.ndarray

    def pca(self, size: int) -> PCA:
        return PCA(self.mean, self.vectors[:size])

    def log_density(self, x: np.ndarray, size: int) -> np.ndarray:
        """(n,) nats of probabilistic PCA with a code of `size` and noise of one variance, at its maximum likelihood
        (Tipping & Bishop 1999): what the best linear VAE's bound is, exactly. x: (n, D), float64."""
        inside, noise = self.values[:size], self.values[size:].mean()
        centered = x - self.mean
        code = centered @ self.vectors[:size].T
        left = (centered**2).sum(1) - (code**2).sum(1)
        logs = np.log(2 * np.pi * inside).sum() + (len(self.mean) - size) * np.log(2 * np.pi * noise)
        return -0.5 * (logs + (code**2 / inside).sum(1) + left / noise)


def spectrum(task: Task) -> Spectrum:
    total, outer, n = 0.0, 0.0, 0
    for x in scaled(task, "train"):
        flat = x.flatten(1).double().numpy()
        total, outer, n = total + flat.sum(0), outer + flat.T @ flat, n + len(flat)
    mean = np.asarray(total) / n
    values, vectors = np.linalg.eigh(np.asarray(outer) / n - np.outer(mean, mean))  # ascending
    return Spectrum(mean, np.maximum(values[::-1], 0.0), vectors[:, ::-1].T.copy())


@torch.no_grad()
def scaled(task: Task, split: Split) -> Iterator[Tensor]:
    """A split as the network sees it, a part at a time."""
    preprocessor, raw = task.preprocessor(), torch.from_numpy(task.raw(split)[task.inputs[0].name])
    for part in raw.split(AT_ONCE):
        yield preprocessor(part)


def code_size(net: nn.Module, task: Task) -> int:
    """How many numbers are in the middle of the network as it was shipped, pruned or not."""
    raw = torch.from_numpy(task.raw("val")[task.inputs[0].name][:2])
    with torch.no_grad():
        code: Tensor = net.to_code(net.encoder(task.preprocessor()(raw)))  # type: ignore[operator]
    return code[0].numel()


def family(run: Run, name: str) -> Space:
    """By its own name, or by the path that the run was asked with."""
    path = ROOT / "spaces" / f"{name}.py"
    return load_space(path if path.is_file() else Path(str(config_of(run).search.space)))


@dataclass(frozen=True)
class Shipped:
    """What a run shipped. net: the float network behind it, pruned where it was. code: numbers in its middle."""

    run: Run
    task: Task
    net: nn.Module
    code: int

    @classmethod
    def of(cls, path: Path) -> Shipped:
        run = Run.open(path)
        task = registry.load(config_of(run).data.plain())
        ctx = Context(run=run, task=task, spaces=lambda name: family(run, name))
        net = ctx.network(ctx.source(run.load(run.read_json("evidence.json")["chosen"])))
        return cls(run, task, net, code_size(net, task))


def against_pca(shipped: Shipped) -> dict[str, Any]:
    """The shipped file of a run and PCA on test: metrics of both, the goal's intervals, and the difference in pairs."""
    task, model = shipped.task, shipped.run.bundle / "model.onnx"
    linear = deploy(task.preprocessor(), spectrum(task).pca(shipped.code), task.postprocessor())
    found = {
        "shipped": task.evaluate(OnnxPredictor(model), "test"),
        "pca": task.evaluate(TorchPredictor(linear, task.inputs, task.answers), "test"),
    }
    return {
        **compared(task.goal, found["shipped"].scores, found["pca"].scores),
        "run": shipped.run.name,
        "code": shipped.code,
        "bytes": model.stat().st_size,
        "metrics": {name: evaluation.metrics for name, evaluation in found.items()},
    }


def bound_against_pca(shipped: Shipped) -> dict[str, Any] | None:
    """The ELBO of the float network and the log density of probabilistic PCA with a code of the same size: nats of the
    raw values, on the same test examples. None where the network draws nothing."""
    task, x = shipped.task, torch.cat(list(scaled(shipped.task, "test")))
    restore = task.postprocessor()
    train = next(scaled(task, "train"))
    own = elbo(shipped.net, train, x, restore) if isinstance(shipped.net, Variational) else None
    if own is None:
        return None
    unit = restore(torch.ones_like(x[:1])) - restore(torch.zeros_like(x[:1]))
    flat = x.flatten(1).double().numpy()
    linear = spectrum(task).log_density(flat, shipped.code) - float(unit.log().sum())
    return {**compared(Goal("elbo", "maximize"), own, linear), "bits": -own.mean() / flat.shape[1] / np.log(2)}


def compared(goal: Goal, shipped: np.ndarray, pca: np.ndarray) -> dict[str, Any]:
    return {
        "metric": goal.metric,
        "shipped": asdict(metric_interval(goal, shipped)),
        "pca": asdict(metric_interval(goal, pca)),
        "difference": asdict(paired_difference(goal, shipped, pca)),
    }


def interval(row: dict[str, Any]) -> str:
    return f"{row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"


VERDICTS = {True: "better than PCA", False: "worse than PCA", None: "not distinguishable from PCA"}


def told(found: dict[str, Any]) -> str:
    return (
        f"{found['run']}: {found['metric']} on {found['shipped']['n']:,} test examples: shipped "
        f"({found['bytes']:,} bytes) {interval(found['shipped'])}, PCA of {found['code']} components "
        f"{interval(found['pca'])}; in pairs {interval(found['difference'])}, "
        f"{VERDICTS[found['difference']['better']]}."
    )


def told_bound(found: dict[str, Any]) -> str:
    return (
        f"ELBO of the float network behind it, Gaussian likelihood of one variance, on the scale of the raw values: "
        f"{interval(found['shipped'])} nats an example, {found['bits']:.4f} bits a value; log density of probabilistic "
        f"PCA {interval(found['pca'])} nats; in pairs {interval(found['difference'])}, "
        f"{VERDICTS[found['difference']['better']]}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished run")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    shipped = Shipped.of(given.run)
    found, bound = against_pca(shipped), bound_against_pca(shipped)
    if given.json:
        print(json.dumps({**found, "elbo": bound}))
    else:
        print("\n".join([told(found), *([told_bound(bound)] if bound else [])]))


if __name__ == "__main__":
    main()
