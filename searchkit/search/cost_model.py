"""What a candidate would cost, known before it is trained.

Parameters and multiply-accumulates are counted on the untrained network. Size and latency are those of the file that it
exports to, made only if a limit or the objective asks for them (1–4 s each). Kept by architecture in the run, so that a
check is paid for once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from searchkit.context import Context
from searchkit.core import timing
from searchkit.core.errors import Infeasible
from searchkit.core.scratch import scratch_folder
from searchkit.core.serialization import digest, freeze
from searchkit.core.space import Limits, Space
from searchkit.search.candidates import Candidate

if TYPE_CHECKING:
    from torch import nn

LOG = "search.jsonl"


class CostModel:
    """Costs by architecture.

    Attributes:
        wanted: The costs that a limit or the objective asks for.
        seconds: Spent on checks so far, by earlier processes too.
        n_checks: Architectures that were exported for a check.
    """

    def __init__(self, space: Space, ctx: Context, *, cost: str | None, ship_int8: bool) -> None:
        self.space, self.ctx, self.ship_int8 = space, ctx, ship_int8
        self.wanted = {name for name, limit in freeze(ctx.limits).items() if limit is not None} | {cost}
        rows = [row for row in ctx.run.lines(LOG) if row.get("event") == "cost" and row.get("space") == space.name]
        self.known: dict[str, dict[str, float]] = {row["arch"]: row["cost"] for row in rows}
        self.seconds = sum(row["seconds"] for row in rows)
        self.n_checks = sum(1 for row in rows if row["exported"])
        self._weights: dict[str, tuple[float, bool] | None] = {}

    def cost(self, candidate: Candidate) -> dict[str, float]:
        """What a candidate costs.

        A candidate that breaks a limit on parameters or MACs, or whose weights alone are larger than the limit on size,
        is not exported: its size is then the lower bound that breaks the limit.

        Returns:
            "params", "macs", and if wanted "size_bytes" and "latency_ms" (milliseconds at batch 1 on one thread).

        Raises:
            Infeasible: The space cannot build it.
        """
        if candidate.arch is None:
            raise Infeasible(candidate.reason)
        key = digest(candidate.plain["arch"])
        if key not in self.known:
            started = time.monotonic()
            with timing.part("cost checks"):
                net = self.build(candidate)
                found, exported = self._counts(net), False
                if self.wanted & {"size_bytes", "latency_ms"} and not self.ctx.limits.breaches(found):
                    found |= self._file_costs(net)
                    exported = True
            seconds = time.monotonic() - started
            self.known[key] = found
            self.seconds += seconds
            self.n_checks += exported
            row = {"event": "cost", "space": self.space.name, "arch": key, "cost": found}
            self.ctx.run.append_line(LOG, {**row, "exported": exported, "seconds": round(seconds, 3)})
        return dict(self.known[key])

    def weigh(self, candidate: Candidate) -> tuple[float, bool] | None:
        """The number of parameters, and whether the candidate may fit the limits, as far as is told without export.

        None if it cannot be built.
        """
        key = candidate.key
        if key not in self._weights:
            try:
                counts = self._counts(self.build(candidate), macs=self.ctx.limits.macs is not None)
            except Infeasible:
                self._weights[key] = None
            else:
                # An estimate: `cost` exports what it lets through. A lower bound in `counts` takes its place, since
                # that breaks the limit for certain.
                size = {"size_bytes": counts["params"] * self.bytes_a_weight * 1.1 + 4000} | counts
                self._weights[key] = (counts["params"], not self.ctx.limits.breaches(size))
        return self._weights[key]

    @property
    def limited(self) -> bool:
        """Whether there are hard limits at all."""
        return self.ctx.limits != Limits()

    @property
    def bytes_a_weight(self) -> int:
        """In the file that is shipped."""
        return 1 if self.ship_int8 else 4

    def build(self, candidate: Candidate) -> nn.Module:
        """The candidate's untrained network. Raises Infeasible if there is none."""
        if candidate.arch is None:
            raise Infeasible(candidate.reason)
        return self.space.build(candidate.arch, self.ctx.task.spec)

    def _counts(self, net: nn.Module, *, macs: bool = True) -> dict[str, float]:
        from searchkit.onnx import measure

        found: dict[str, float] = {"params": float(measure.params(net))}
        if macs:
            found["macs"] = float(self.ctx.macs(net.eval()))
        # a few weights leave the file when batch norms are folded into what they follow; never a fifth of them
        at_least = 0.8 * found["params"] * self.bytes_a_weight
        if self.ctx.limits.size_bytes is not None and at_least > self.ctx.limits.size_bytes:
            found["size_bytes"] = float(round(at_least))
        return found

    def _file_costs(self, net: nn.Module) -> dict[str, float]:
        from searchkit.onnx import io as onnx_io
        from searchkit.onnx import measure
        from searchkit.onnx.weight_only import weight_only

        task = self.ctx.task
        _make_unlike_(net)
        with scratch_folder() as folder:
            path = folder / "fp32.onnx"
            onnx_io.export(self.ctx.deployed(net), task.inputs, task.answers, path, example=self.ctx.example())
            if self.ship_int8:
                shipped = folder / "int8.onnx"
                weight_only(path, shipped)
                path = shipped
            found: dict[str, float] = {"size_bytes": float(measure.size_bytes(path))}
            if "latency_ms" in self.wanted:
                timed: Any = measure.latency({"candidate": path}, self.ctx.example(), processes=0)
                found["latency_ms"] = float(timed["candidate"].p50_ms)
        return found


def _make_unlike_(net: nn.Module) -> None:
    """Give every weight a value of its own.

    A file shares equal tensors, and fresh biases are all zero: an untrained network would look smaller than it will be.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in [*net.parameters(), *net.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator) * 1e-2)
