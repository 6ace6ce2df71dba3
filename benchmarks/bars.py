"""Published numbers as bars: each is one command, its figure and the time that it took.

    python benchmarks/bars.py mnist1d-rnn mnist1d-mlp mnist1d-transformer fashion-mnist [--seed 0]
    python benchmarks/bars.py --table      all that were measured, from their files, into reports/reference/README.md

Data sets are read from $SEARCHKIT_DATASETS (by default ../shared/data beside the project). Each run writes
reports/reference/<bar>-<cores>cores-seed<seed>.md with its conditions; status 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from searchkit.machine import cores  # noqa: E402  (found by the line above)

DATA = Path(os.environ.get("SEARCHKIT_DATASETS", ROOT.parent / "shared" / "data"))


@dataclass(frozen=True)
class Bar:
    """bound: what is shipped has to reach it on test: at least a score, at most an error. A name is that of an answer
    without a network that is measured beside; None is what `ridge` gets.
    at_most_bytes: of the shipped file; 0 asks nothing. further: the same for a further metric of the task, by name.
    judged: the metric that the bound is for, the higher the better; "" is what the search looked for.
    folds: what each fold adds to the arguments; the examples of all folds are counted together."""

    arguments: tuple[str, ...]
    bound: float | str | None
    source: str
    at_most_bytes: int = 0
    further: tuple[str, float] | None = None
    judged: str = ""
    folds: tuple[tuple[str, ...], ...] = ((),)


def on(space: str, folder: str, *more: str) -> tuple[str, ...]:
    return ("--space", space, "--data", str(DATA / folder), *more)


BARS = {
    "mnist1d-rnn": Bar(("--space", "rnn", "--task", "mnist1d"), 0.91, "GRU of the MNIST-1D repository"),
    "mnist1d-mlp": Bar(("--space", "mlp", "--task", "mnist1d"), 0.68, "MLP of the MNIST-1D repository"),
    "mnist1d-transformer": Bar(("--space", "transformer", "--task", "mnist1d"), 0.90, "asked of this project"),
    "mnist1d-cnn1d": Bar(("--space", "cnn1d", "--task", "mnist1d"), 0.94, "CNN of the MNIST-1D repository"),
    "fashion-mnist": Bar(
        on("cnn", "fashion-mnist", "--max-size", "100KB", "--time-budget", "45m", "--workers", "2"),
        0.925,
        "two convolutions, under 100K fp32 parameters, in the repository of Fashion-MNIST",
        100_000,
    ),
    "fashion-mnist-mlp": Bar(
        on("mlp", "fashion-mnist", "--trials", "6", "--epochs", "18"), 0.883, "MLP in the repository of Fashion-MNIST"
    ),
    "fashion-mnist-mixnet": Bar(
        on("mixnet", "fashion-mnist", "--max-params", "100k", "--trials", "1", "--epochs", "20", "--recipe", "int8"),
        0.925,
        "two convolutions in the repository of Fashion-MNIST",
    ),
    "fashion-mnist-vit": Bar(
        on("vit", "fashion-mnist", "--trials", "1", "--epochs", "20", "--recipe", "int8"), 0.90, "asked of this project"
    ),
    "adult": Bar(
        on("mlp", "adult/adult-train.csv", "--test-data", str(DATA / "adult" / "adult-test.csv"), "--target", "c14",
           "--trials", "16", "--epochs", "16"),
        0.855,
        "asked of this project; gradient boosting has about .87",
    ),
    "diabetes": Bar(
        ("--space", "mlp", "--task", "diabetes", "--max-params", "3k", "--epochs", "120"),
        None,
        "ridge regression on the same split",
    ),
    "fsdd-raw": Bar(
        on("cnn1d", "fsdd", "--test-files", "*_[0-4].wav", "--features", "raw", "--steps", "6000", "--trials", "4",
           "--epochs", "24"),
        0.92,
        "log-spectrogram and support vectors",
    ),
    "fsdd-hybrid": Bar(
        on("hybrid", "fsdd", "--test-files", "*_[0-4].wav", "--features", "logmel", "--trials", "6"),
        0.97,
        "asked of this project",
    ),
    "adrenal": Bar(
        on("cnn3d", "adrenal3d/adrenal32_bits.npz", "--modality", "voxels", "--trials", "4"),
        0.779,
        "random forest on the voxels",
        further=("roc_auc", 0.802),
    ),
    "japanese-vowels": Bar(
        on("rnn", "ucr/JapaneseVowels_TRAIN.ts", "--trials", "32"), 0.976, "MLP in Wang, Yan & Oates 2017"
    ),
    "etth1": Bar(
        on("rnn", "ett/ETTh1.csv", "--problem", "forecasting", "--window", "336", "--horizon", "96", "--split",
           "8640,2880,2880", "--trials", "6", "--epochs", "3", "--minimize", "none", "--recipe", "int8"),
        0.375,
        "DLinear, Zeng et al. 2023, on 12/4/4 months; ridge regression has .370",
    ),
    "trec": Bar(
        on("transformer", "trec", "--encoding", "latin-1", "--trials", "3", "--epochs", "12", "--rungs", "1",
           "--minimize", "none"),
        0.882,
        "CNN of Kim 2014 without pre-trained vectors, per the data's README",
    ),
    "sst2": Bar(
        on("transformer", "sst2", "--trials", "16", "--epochs", "5", "--rungs", "1", "--minimize", "none"),
        0.808,
        "tf-idf and logistic regression",
    ),
    "cartpole": Bar(("--space", "dqn", "--task", "CartPole-v1"), 475.0, "gymnasium's mark of a solved environment"),
    "acrobot": Bar(
        ("--space", "dqn", "--task", "gymnasium:Acrobot-v1"), -100.0, "gymnasium's mark of a solved environment"
    ),
    "multi30k": Bar(
        on("seq2seq", "multi30k", "--target", "en", "--trials", "1", "--epochs", "16", "--rungs", "1", "--minimize",
           "none", "--recipe", "int8"),
        25.0,
        "GRU with attention, per the data's README; a Transformer has 28 to 31",
        judged="bleu",
    ),
    "tinyshakespeare": Bar(
        on("gpt", "tinyshakespeare/input.txt", "--trials", "4", "--epochs", "6"),
        1.88,
        "nanoGPT's setting for a CPU",
    ),
    "fashion-mnist-gan": Bar(
        on("gan", "fashion-mnist", "--problem", "generation", "--time-budget", "30m"),
        "a normal distribution",
        "as many principal axes as the noise has numbers; no published figure is in these features",
    ),
    "cora": Bar(on("gnn", "cora/cora.npz", "--recipe", "int8"), 0.815, "GCN, Kipf & Welling 2017, Planetoid split"),
    "mutag": Bar(
        on("gnn", "tudatasets/MUTAG/MUTAG.txt", "--trials", "6", "--epochs", "150", "--recipe", "int8"),
        0.85,
        "asked of this project; GIN-0 has .894 with epochs chosen on test",
        folds=tuple(
            ("--test-data", str(DATA / "tudatasets" / "MUTAG" / "10fold_idx" / f"test_idx-{fold}.txt"))
            for fold in range(1, 11)
        ),
    ),
}  # fmt: skip


def measure(name: str, bar: Bar, seed: int) -> bool:
    work = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    arguments = ["search", *bar.arguments, "--seed", str(seed)]
    folders = ["--runs", str(work / "runs"), "--reports", str(work / "reports"), "--json"]
    started = time.monotonic()
    runs = []
    for fold in bar.folds:
        done = subprocess.run(
            [sys.executable, "cli.py", *arguments, *fold, *folders], cwd=ROOT, stdout=subprocess.PIPE, check=True
        )
        runs.append(Path(json.loads(done.stdout)["path"]))
    minutes = (time.monotonic() - started) / 60
    evidences = [json.loads((run / "evidence.json").read_text()) for run in runs]
    goal, n = evidences[0]["goal"], sum(evidence["n"] for evidence in evidences)
    bound = bound_of(bar, evidences[0])
    shipped = [models_of(evidence)[1] for evidence in evidences]
    metric, is_score = bar.judged or goal["metric"], bool(bar.judged) or goal["direction"] == "maximize"
    shown = " ".join(["python cli.py", *arguments, *bar.folds[0]]).replace(str(DATA), "$SEARCHKIT_DATASETS")
    about = f"`{shown}`" + (f" and the other {len(bar.folds) - 1} folds" if len(bar.folds) > 1 else "")
    lines = [
        f"{about}, {date.today()}, {cores()} core(s), Python {platform.python_version()}, {minutes:.1f} minutes. "
        f"Bar: {metric} {bound:.4g} ({bar.source}). Test: {n} examples, read once for each file.",
        "",
    ]
    if len(runs) == 1:
        value, more = of_one(evidences[0], json.loads((runs[0] / "pace.json").read_text()))
    else:
        value, more = of_folds(evidences)
    if bar.judged:
        value = shipped[0]["metrics"][bar.judged]
    met = value >= bound if is_score else value <= bound
    met = met and (not bar.at_most_bytes or max(row["size_bytes"] for row in shipped) <= bar.at_most_bytes)
    if bar.further is not None:
        other, least = bar.further
        met = met and shipped[0]["metrics"][other] >= least
        more.append(f"{other}: {shipped[0]['metrics'][other]:.4f}; bar {least}.")
    lines = [f"# {name}: {'met' if met else 'MISSED'}", "", *lines, *more]
    out = ROOT / "reports" / "reference" / f"{name}-{cores()}cores-seed{seed}.md"
    out.parent.mkdir(exist_ok=True)
    out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines), flush=True)
    return met


Row = dict[str, Any]


def bound_of(bar: Bar, evidence: Row) -> float:
    if isinstance(bar.bound, str):
        return float(next(row["metric"]["value"] for row in evidence["rivals"] if row["name"] == bar.bound))
    return ridge(bar) if bar.bound is None else bar.bound


def models_of(evidence: Row) -> tuple[Row, Row]:
    """The winner in fp32, and what is shipped."""
    models = {row["id"]: row for row in evidence["models"]}
    return models[evidence["reference"]], models[evidence["chosen"]]


def of_one(evidence: Row, pace: Row) -> tuple[float, list[str]]:
    fp32, shipped = models_of(evidence)
    further = {name: value for name, value in shipped["metrics"].items() if name != evidence["goal"]["metric"]}
    more = [f"Shipped, further: {', '.join(f'{name} {value:.4g}' for name, value in further.items())}."]
    return shipped["metric"]["value"], [
        "| | metric on test [95 %] | bytes | parameters | latency p50 |",
        "|---|---|---|---|---|",
        *(row_of(word, row) for word, row in (("winner, fp32", fp32), ("shipped", shipped))),
        "",
        f"Difference in pairs: {shipped['difference']['value']:+.4f} "
        f"[{shipped['difference']['low']:+.4f}, {shipped['difference']['high']:+.4f}]. "
        f"Latency ratio {shipped['latency']['ratio']:.2f} "
        f"[{shipped['latency']['low']:.2f}, {shipped['latency']['high']:.2f}]. Setting: {json.dumps(pace)}.",
        *(["", *more] if further else []),
    ]


def of_folds(evidences: list[Row]) -> tuple[float, list[str]]:
    """A share over the examples of all folds, and its Wilson interval."""
    counts = [evidence["n"] for evidence in evidences]
    shares = [models_of(evidence)[1]["metric"]["value"] for evidence in evidences]
    n = sum(counts)
    p = sum(share * count for share, count in zip(shares, counts, strict=True)) / n
    z = 1.96
    middle, half = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    low, high = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    sizes = sorted(models_of(evidence)[1]["size_bytes"] for evidence in evidences)
    return p, [
        f"Shipped, all folds together: {p:.4f} [{low:.4f}, {high:.4f}] (Wilson, 95 %); by fold "
        f"{', '.join(f'{share:.3f}' for share in shares)}; {sizes[0]:,} to {sizes[-1]:,} bytes."
    ]


def ridge(bar: Bar) -> float:
    """RMSE on test of scikit-learn's Ridge, fitted to train, its penalty chosen on val: what the search sees, too."""
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from searchkit.tasks.registry import load

    task = load({"task": bar.arguments[bar.arguments.index("--task") + 1]})
    x = {name: next(iter(task.raw(name).values())) for name in ("train", "val", "test")}
    y = {name: task.data.target_of(name).ravel() for name in x}

    def rmse(penalty: float, split: str) -> float:
        model = make_pipeline(StandardScaler(), Ridge(penalty)).fit(x["train"], y["train"])
        return float(np.sqrt(np.mean((model.predict(x[split]) - y[split]) ** 2)))

    return rmse(min(np.logspace(-3, 4, 50), key=lambda penalty: rmse(penalty, "val")), "test")


def row_of(word: str, row: Row) -> str:
    metric = f"{row['metric']['value']:.4f} [{row['metric']['low']:.4f}, {row['metric']['high']:.4f}]"
    return f"| {word} | {metric} | {row['size_bytes']:,} | {row['params']:,.0f} | {row['latency']['p50_ms']:.3f} ms |"


TOLD = {
    "verdict": r"^# (?P<name>[^:]+): (?P<verdict>.+)$",
    "minutes": r"(?P<cores>\d+) (?:cores|core\(s\)), Python \S+?, (?P<minutes>[\d.]+) minutes",
    "bar": r"Bar: (?:(?P<metric>\w+) )?(?P<bound>[-\d.]+) \(",
    "pca": r"(?P<metric>\w+) on [\d,]+ test examples: shipped \((?P<bytes>[\d,]+) bytes\) (?P<value>\S+ \[.*?\]), "
    r"PCA of \d+ components (?P<bound>\S+)",
    "winner": r"^\| winner, fp32 \| .*? \| (?P<fp32>[\d,]+) \|",
    "shipped": r"^\| shipped.*? \| (?P<value>[^|]*\]) \| (?P<bytes>[\d,]+) \|",
    "folds": r"^Shipped, all folds together: (?P<value>\S+ \[.*?\]).*; (?P<bytes>[\d,]+ to [\d,]+) bytes",
    "further": r"^Shipped, further: (?P<further>.*)\.$",
}
"""How a file in reports/reference/ tells what was measured."""


def table() -> str:
    """One row a bar that has a file."""
    rows = ["| bar | | asked | shipped on test [95 %] | bytes | of fp32 | minutes |", "|---|---|---|---|---|---|---|"]
    for file in sorted((ROOT / "reports" / "reference").glob("*cores-seed*.md")):
        text = file.read_text(encoding="utf-8")
        found = {k: v for one in TOLD.values() for m in re.finditer(one, text, re.M) for k, v in m.groupdict().items()}
        if not {"verdict", "minutes", "bound", "value"} <= found.keys():
            continue
        value, metric = found["value"], found["metric"] or "accuracy"  # the first files do not name theirs
        in_further = re.search(rf"\b{metric} (\S+?)(?:,|$)", found.get("further", ""))
        value = in_further[1] if in_further else value
        share = ""
        if "fp32" in found:
            share = f"{int(found['bytes'].replace(',', '')) / int(found['fp32'].replace(',', '')):.0%}"
        rows.append(
            f"| [{found['name']}]({file.name}) | {found['verdict']} | {metric} {found['bound']} | {value} | "
            f"{found['bytes']} | {share} | {found['minutes']} on {found['cores']} core(s) |"
        )
    return "\n".join(rows)


def write_table() -> None:
    command = "python benchmarks/bars.py --table"
    text = f"# Published numbers as bars\n\nBy `{command}`, from the files beside it.\n\n{table()}\n"
    (ROOT / "reports" / "reference" / "README.md").write_text(text, encoding="utf-8")
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("bars", nargs="*", metavar="BAR", help=f"any of {', '.join(sorted(BARS))}")
    parser.add_argument("--table", action="store_true", help="of all that were measured")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.table == bool(given.bars):
        parser.error("name bars to measure, or ask for --table")
    if unknown := sorted(set(given.bars) - BARS.keys()):
        parser.error(f"no bar is named '{unknown[0]}'; there are {', '.join(sorted(BARS))}")
    if given.table:
        return write_table()
    met = [measure(name, BARS[name], given.seed) for name in given.bars]
    sys.exit(0 if all(met) else 1)


if __name__ == "__main__":
    main()
