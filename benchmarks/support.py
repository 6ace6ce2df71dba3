"""The support matrix: every family through every stage, each cell a figure that was measured or a stated reason.

    PYTHONPATH=. python benchmarks/support.py docs/support.md [--families cnn rnn]

A small network of each family on its default task, the one that the conformance suite trains for an epoch, goes through
each stage; the figures say that a stage does its work on such a family, not how well a family learns. Families that are
not named keep the rows that the file has. `tests/test_support.py` fails where a family or a version is newer than the
file.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

from searchkit.core.artifact import Artifact
from searchkit.core.errors import GateFailed, Inapplicable, NothingFeasible
from searchkit.core.serialization import thaw
from searchkit.core.space import Budget
from searchkit.core.space_file import load_space
from searchkit.core.training import Teacher
from searchkit.run import Run
from searchkit.search.coordinator import search
from searchkit.search.results import history
from searchkit.search.settings import SearchSettings
from searchkit.stages.export import Export
from searchkit.stages.pipeline import apply
from searchkit.stages.prune import Prune
from searchkit.stages.quantize import METHODS, Quantize
from searchkit.tasks import registry
from searchkit.testing.fixture import Fixture

ROOT = Path(__file__).resolve().parent.parent
SPACES = ROOT / "spaces"
PACKAGES = ("torch", "onnx", "onnxruntime", "torch-pruning")
LEGEND = """\
`search`: validation metric of the better of two trials of one epoch. `prune`: parameters and bytes of the fp32 file
after `Prune(to=0.5)` without a tolerance, relative to before. `distil`: distillation loss of a new student after one
epoch, relative to before. `static int8`, `dynamic int8`, `weight-only`: bytes relative to the fp32 file, and agreement
with fp32 on val. `parity`: largest difference between the exported file and the network on all of val. `verify`: the
bundle's own `verify.py`."""


@dataclass
class Made:
    """What the columns share of one family: its subject, and the candidates of Quantize once they were measured."""

    subject: Fixture
    folder: Path
    quantized: Artifact | None = None


def searched(made: Made) -> str:
    subject = made.subject
    run = Run.create(made.folder, "searched", {})
    ctx = replace(subject.context, run=run)
    search(subject.space, ctx, SearchSettings(budget=Budget(trials=2, epochs=1, rungs=1), precision="fp32"))
    values = [row["value"] for row in history(run) if row["status"] == "trained"]
    goal = subject.task.goal
    return f"{goal.metric} {min(values, key=goal.loss):.3g}"


def pruned(made: Made) -> str:
    before = made.subject.promoted
    after = made.subject.stage(Prune(to=0.5, steps=1, recovery_epochs=1, round_to=1))
    return ", ".join(f"×{after.metrics[c] / before.metrics[c]:.2f}" for c in ("params", "size_bytes"))


def distilled(made: Made) -> str:
    subject = made.subject
    artifact, teacher = subject.trained
    torch.manual_seed(1)
    student = subject.space.build(thaw(subject.space.arch, artifact.arch), subject.task.spec)

    def distance() -> float:
        with torch.no_grad():
            return float(subject.task.distillation_loss(student.eval(), teacher.eval(), subject.batch, temperature=2.0))

    before = distance()
    subject.context.recover(student, artifact, epochs=1, teacher=Teacher(teacher, weight=1.0), lr_scale=1.0)
    return f"×{distance() / before:.2g}"


def in_int8(method: str) -> Callable[[Made], str]:
    def cell(made: Made) -> str:
        if made.quantized is None:
            made.quantized = made.subject.stage(Quantize(max_drop=1.0, max_rise=100.0))
        notes = made.quantized.notes
        row = next(row for row in notes["candidates"] if row["method"] == method)
        return f"×{row['size_bytes'] / notes['fp32']['size_bytes']:.2f}, {row['agreement']:.0%}"

    return cell


def parity(made: Made) -> str:
    _, net = made.subject.trained
    proof = made.subject.context.export(net, made.folder / "parity.onnx")
    return f"{proof['max_abs_diff']:.1e}"


def verified(made: Made) -> str:
    subject = made.subject
    apply((Quantize(max_drop=1.0, max_rise=100.0), Export()), subject.promoted, subject.context)
    script = subject.context.run.bundle / "verify.py"
    done = subprocess.run([sys.executable, "-I", str(script)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise GateFailed(f"verify.py ends with status {done.returncode}: {done.stdout.strip()[-200:]}")
    return "passes"


COLUMNS: dict[str, tuple[str, Callable[[Made], str]]] = {
    "search": ("search", searched),
    "prune": ("prune_shrinks", pruned),
    "distil": ("distill_matches", distilled),
    "static int8": ("quantize_shrinks", in_int8(METHODS[0])),
    "dynamic int8": ("quantize_shrinks", in_int8(METHODS[1])),
    "weight-only": ("quantize_shrinks", in_int8(METHODS[2])),
    "parity": ("export_agrees", parity),
    "verify": ("export_agrees", verified),
}
"""Column to the check whose name a family gives in `skips` where the column does not apply to it, and what fills it."""


def row_of(name: str, folder: Path) -> list[str]:
    space = load_space(SPACES / f"{name}.py")
    subject = Fixture(space, registry.load({"task": space.task}), folder)
    made = Made(subject, folder)
    cells = []
    for check, fill in COLUMNS.values():
        if check in space.skips:
            cells.append(f"no: {space.skips[check]}")
            continue
        try:
            cells.append(fill(made))
        except (Inapplicable, NothingFeasible, GateFailed) as reason:
            cells.append(f"no: {reason}")
    return [name, space.task, *(cell.replace("|", "/") for cell in cells), source_digest(name)]


def source_digest(name: str) -> str:
    """Of the family's file: a row is of the family as it stood."""
    return hashlib.sha256((SPACES / f"{name}.py").read_bytes()).hexdigest()[:8]


def families() -> list[str]:
    return sorted(path.stem for path in SPACES.glob("*.py") if not path.stem.startswith("_"))


def head() -> list[str]:
    return ["family", "task", *COLUMNS, "source"]


def rows_in(text: str) -> dict[str, list[str]]:
    """The rows of a table that was written before, by family."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:2] == "| "]
    return {row[0]: row for row in rows if len(row) == len(head()) and re.fullmatch(r"[0-9a-f]{8}", row[-1])}


def holds(n_cells: int, n_reasons: int) -> str:
    """How many cells hold a measurement."""
    if not n_reasons:
        return f"All {n_cells} cells hold a measurement."
    return f"{n_cells - n_reasons} of {n_cells} cells hold a measurement; the others say why they hold none."


def outdated(path: Path) -> list[str]:
    """What a release has to measure again: families whose file changed since their row, and other package versions."""
    text = path.read_text(encoding="utf-8")
    known = {name: row[-1] for name, row in rows_in(text).items()}
    found = [name for name in families() if known.get(name) != source_digest(name)]
    return found + [f"{name} {version(name)}" for name in PACKAGES if f"{name} {version(name)}" not in text]


def page(rows: Sequence[Sequence[str]]) -> str:
    cells = [cell for row in rows for cell in row[2:-1]]
    reasons = sum(1 for cell in cells if cell.startswith("no: "))
    lines = [
        "# What works with what",
        "",
        f"Every family through every stage, by `PYTHONPATH=. python benchmarks/support.py docs/support.md` with "
        f"{', '.join(f'{name} {version(name)}' for name in PACKAGES)}. {holds(len(cells), reasons)}",
        "",
        LEGEND,
        "`source`: a digest of the family's file; `--check` names rows that are older than their family.",
        "",
        "| " + " | ".join(head()) + " |",
        "|" + "---|" * len(head()),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--families", nargs="*", choices=families(), default=families())
    parser.add_argument("--check", action="store_true", help="measure nothing; exit with status 1 if rows are outdated")
    given = parser.parse_args()
    if given.check:
        stale = outdated(given.out)
        sys.exit(f"Measure again before a release: {', '.join(stale)}." if stale else 0)
    rows = rows_in(given.out.read_text(encoding="utf-8")) if given.out.exists() else {}
    for name in given.families:
        with tempfile.TemporaryDirectory() as folder:
            rows[name] = row_of(name, Path(folder))
        print("| " + " | ".join(rows[name]) + " |", flush=True)
    given.out.write_text(page([rows[name] for name in families() if name in rows]), encoding="utf-8")


if __name__ == "__main__":
    main()
