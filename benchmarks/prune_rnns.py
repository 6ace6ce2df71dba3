"""Recurrent networks pruned to half their parameters: the file shrinks, and the rebuilt network is the masked one.

    python benchmarks/prune_rnns.py [--hidden 64]

Two layers over rows of different lengths, random weights: what is proved is the cut, not what a trained network loses
by it. Writes reports/reference/prune-rnns.md; status 1 where a file does not shrink or a difference exceeds 1e-6.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from searchkit.core.data_spec import TensorSpec  # noqa: E402
from searchkit.machine import cpu_model  # noqa: E402
from searchkit.nn.recurrent import Recurrent  # noqa: E402
from searchkit.nn.sequence import AttentionPool, reverse  # noqa: E402
from searchkit.nn.surgery import mask_edits_  # noqa: E402
from searchkit.onnx import io as onnx_io  # noqa: E402  (found by the line above)
from searchkit.onnx.measure import params  # noqa: E402
from searchkit.onnx.predictor import Deployed  # noqa: E402
from searchkit.stages.importance import Ranking, prune_  # noqa: E402

NETS = {"LSTM": ("lstm", False), "GRU": ("gru", False), "GRU, both directions": ("gru", True),
        "LSTM with peepholes": ("peephole", False)}  # fmt: skip
STEPS, CHANNELS, CLASSES = 40, 4, 5


class Net(nn.Module):
    """Two recurrent layers, attention pooling, a linear head. x: (B, L, C)."""

    def __init__(self, kind: str, both: bool, hidden: int) -> None:
        super().__init__()
        widths = (CHANNELS, hidden * (1 + both))
        self.forwards = nn.ModuleList(Recurrent(width, hidden, kind=kind) for width in widths)
        self.backwards = nn.ModuleList(Recurrent(width, hidden, kind=kind) for width in widths if both)
        self.pool, self.head = AttentionPool(widths[1]), nn.Linear(widths[1], CLASSES)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        for index, layer in enumerate(self.forwards):
            ways = [layer(x)]
            if len(self.backwards):
                ways.append(reverse(self.backwards[index](reverse(x, lengths)), lengths))
            x = torch.cat(ways, dim=2)
        out: Tensor = self.head(self.pool(x, lengths))
        return out


class AsGiven(nn.Module):
    def forward(self, *raw: Tensor) -> tuple[Tensor, ...]:
        return raw


def file_bytes(net: nn.Module) -> int:
    inputs = (TensorSpec("x", (STEPS, CHANNELS)), TensorSpec("lengths", (), "int64"))
    rows = {"x": np.zeros((2, STEPS, CHANNELS), np.float32), "lengths": np.array([STEPS, 3])}
    with tempfile.TemporaryDirectory() as folder:
        whole, path = Deployed(AsGiven(), net, nn.Identity()).eval(), Path(folder) / "model.onnx"
        return onnx_io.export(whole, inputs, (TensorSpec("logits", (CLASSES,)),), path, example=rows)


def row(kind: str, both: bool, hidden: int) -> tuple[int, int, int, int, float, float]:
    """Parameters before and after, bytes before and after, the largest |rebuilt − masked| and the largest answer."""
    torch.manual_seed(0)
    net, masked = (Net(kind, both, hidden).eval() for _ in range(2))
    masked.load_state_dict(net.state_dict())
    x, lengths = torch.randn(64, STEPS, CHANNELS), torch.randint(1, STEPS + 1, (64,))
    before, size = params(net), file_bytes(net)
    edits = prune_(net, (x, lengths), cost=params, target=before / 2, ranking=Ranking(round_to=1))
    mask_edits_(masked, edits)
    with torch.no_grad():
        rebuilt, expected = net(x, lengths), masked(x, lengths)
    gap, largest = float((rebuilt - expected).abs().max()), float(expected.abs().max())
    return before, params(net), size, file_bytes(net), gap, largest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=64)
    hidden = parser.parse_args().hidden
    torch.set_num_threads(1)
    rows = {name: row(kind, both, hidden) for name, (kind, both) in NETS.items()}
    lines = [
        "| network | parameters | | file, bytes | | largest difference to the masked one | largest answer |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (before, after, size, smaller, gap, largest) in rows.items():
        shares = f"{after / before:.3f}", f"{smaller / size:.3f}"
        lines.append(
            f"| {name} | {before:,} → {after:,} | {shares[0]} | {size:,} → {smaller:,} | {shares[1]} "
            f"| {gap:.1e} | {largest:.2g} |"
        )
    table = "\n".join(lines)
    conditions = (
        f"Two layers of {hidden} units a direction, attention pooling, {CHANNELS} channels, 64 rows of 1 to {STEPS} "
        f"steps; random weights (seed 0), l2 importance, one step to half of the parameters, no recovery. "
        f"fp32 on one thread of {cpu_model()}; torch {version('torch')}, onnx {version('onnx')}, "
        f"Python {platform.python_version()}. Command: `python benchmarks/prune_rnns.py --hidden {hidden}`."
    )
    text = f"# Recurrent networks pruned to half their parameters\n\n{table}\n\n{conditions}\n"
    (HERE.parent / "reports" / "reference").mkdir(exist_ok=True)
    (HERE.parent / "reports" / "reference" / "prune-rnns.md").write_text(text, encoding="utf-8")
    print(text)
    return int(any(smaller >= size or gap > 1e-6 for _, _, size, smaller, gap, _ in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
