"""The verb bench: the latency of ONNX files side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from searchkit.cli.opening import number
from searchkit.cli.options import AsJson, shared
from searchkit.cli.output import emit, plain_of

EXAMPLES = (
    "searchkit bench a.onnx b.onnx",
    "searchkit bench runs/x/bundle/model_fp32.onnx runs/x/bundle/model.onnx",
    "searchkit bench a.onnx b.onnx --processes 9 --json",
)

Models = Annotated[
    list[Path],
    typer.Argument(
        metavar="A.onnx B.onnx",
        help="Paths of ONNX files; the others are compared with the first.",
        show_default=False,
    ),
]
Processes = Annotated[
    str | None,
    shared("--processes", metavar="N", help="Number of fresh processes to time in. Default: 5. Example: 9."),
]


def bench(models: Models, processes: Processes = None, as_json: AsJson = False) -> None:
    """Compare the latency of ONNX files.

    They are timed in turn, at batch 1 on one thread, in fresh processes; ratios are to the first file.
    """
    from searchkit.onnx import measure

    found = measure.bench(models, processes=number("processes", processes, 5, low=1, example="9") or 5)
    rows = [f"{'file':<40} {'p50 ms':>9} {'p95 ms':>9}   ratio to the first"]
    for path, row in found.items():
        ratio = f"{row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}] {row.verdict}"
        rows.append(f"{path[-40:]:<40} {row.p50_ms:>9.4f} {row.p95_ms:>9.4f}   {ratio}")
    plain = [{"file": path, **plain_of(row)} for path, row in found.items()]
    emit(as_json, "bench", {"models": plain}, "\n".join(rows))
