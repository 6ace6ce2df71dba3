"""What a search or a stage may use: the run, the task, the families, a device and a deadline.

It also loads an artifact's network, exports it, and proves that the exported file answers as the network does.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from searchkit.core.artifact import Artifact
from searchkit.core.data_spec import Arrays
from searchkit.core.deadline import Deadline
from searchkit.core.errors import GateFailed
from searchkit.core.network import HasKVCache
from searchkit.core.serialization import JSON, derive_seed, digest, freeze, thaw
from searchkit.core.space import Limits, Space
from searchkit.core.stage import Stage
from searchkit.core.task import Task
from searchkit.core.threads import torch_threads
from searchkit.core.training import FitPlan, Teacher, Training, TrainState
from searchkit.run import FORMAT, Run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from searchkit.onnx.predictor import Deployed


RESUMED_ROWS = 32

"""Rows of val on which a file must go on from its memory."""


@dataclass
class Context:
    """What a search or a stage may use."""

    run: Run
    task: Task
    spaces: Callable[[str], Space]
    seed: int = 0
    device: str = "cpu"
    precision: str = "fp32"
    channels_last: bool = False
    limits: Limits = field(default_factory=Limits)
    deadline: Deadline = field(default_factory=lambda: Deadline.after(math.inf))
    echo: Callable[[str], None] = print
    threads: int = 1  # of the training inside a stage, which has the machine for itself
    epoch_scale: float = 1.0  # the pipeline lowers it where the deadline leaves less than the stages would like

    # ── from an artifact to a network ───────────────────────────────────────────────────────────────────────────────

    def network(self, artifact: Artifact) -> nn.Module:
        """build(arch), replay the edits, load the weights; in eval mode, on the CPU."""
        from searchkit.nn.surgery import apply_edits_

        space = self.spaces(artifact.space)
        net = space.build(thaw(space.arch, artifact.arch), self.task.spec)
        apply_edits_(net, artifact.edits)
        net.load_state_dict(self.run.weights(artifact))
        return net.eval()

    def source(self, artifact: Artifact) -> Artifact:
        """The artifact itself, or its nearest ancestor that has weights: the float network behind a quantized file."""
        while "weights" not in artifact.files:
            assert artifact.parent is not None
            artifact = self.run.load(artifact.parent)
        return artifact

    def deployed(self, net: nn.Module) -> Deployed:
        from searchkit.onnx.predictor import deploy

        return deploy(self.task.preprocessor(), net, self.task.postprocessor())

    def model_path(self, artifact: Artifact) -> Path:
        return self.run.file(artifact, "model")

    def training(self, artifact: Artifact) -> Training:
        return thaw(Training, artifact.training)

    def example(self, n: int = 2) -> Arrays:
        """n examples of val, the fullest where they differ in size. Two are enough to trace a network with."""
        from searchkit.core import batching

        ports, raw = self.task.inputs, self.task.raw("val")
        return batching.take(ports, raw, batching.fullest(ports, raw, n))

    # ── from a network to an artifact ───────────────────────────────────────────────────────────────────────────────

    def child(self, parent: Artifact, stage: Stage, *, edits: tuple[JSON, ...] | None = None) -> Artifact:
        """The draft of what `stage` makes of `parent`. Its id is the digest of its lineage, known before any work."""
        made_by = {"stage": type(stage).__name__, **freeze(stage)}
        return Artifact(
            id=digest(FORMAT, parent.id, made_by, self.seed),
            space=parent.space,
            arch=parent.arch,
            training=parent.training,
            edits=parent.edits if edits is None else edits,
            made_by=made_by,
            parent=parent.id,
        )

    def save(
        self,
        draft: Artifact,
        net: nn.Module | None,
        *,
        model: Path | None = None,
        log: Sequence[dict[str, JSON]] | None = None,
        notes: Mapping[str, JSON] | None = None,
    ) -> Artifact:
        """Export `net` (or take the file `model`), prove it on every example of val, measure it, write the artifact.

        Raises GateFailed where the file disagrees with the network.
        """
        from searchkit.onnx import measure
        from searchkit.onnx.predictor import OnnxPredictor

        weights = None if net is None else net.state_dict()
        metrics: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            if net is not None:
                model = Path(folder) / "model.onnx"
                metrics |= self.export(net, model)
                metrics |= {"params": measure.params(net), "macs": self.macs(net)}
            assert model is not None
            evaluation = self.task.evaluate(OnnxPredictor(model), "val")
            metrics |= evaluation.metrics | {"size_bytes": measure.size_bytes(model)}
            whole = replace(draft, metrics=metrics, notes={**draft.notes, **freeze(notes or {})})
            return self.run.save(whole, weights=weights, model=model, scores=evaluation.scores, log=log or ())

    def export(self, net: nn.Module, path: Path) -> dict[str, float]:
        """Write `net` as one ONNX file and compare the two on every example of val; a resumable file must also go on
        from its memory as if it had not stopped. Raises GateFailed.
        """
        from searchkit.core import batching
        from searchkit.onnx import io as onnx_io
        from searchkit.onnx.parity import require_parity, resumption
        from searchkit.onnx.predictor import OnnxPredictor, TorchPredictor

        deployed = self.deployed(net.cpu())
        onnx_io.export(deployed, self.task.inputs, self.task.answers, path, example=self.example())
        torch_predictor = TorchPredictor(deployed, self.task.inputs, self.task.answers)
        proof = require_parity(torch_predictor, OnnxPredictor(path), self.task, otherwise="The file is not used.")
        if isinstance(deployed, HasKVCache):
            rows = batching.take(self.task.inputs, self.task.raw("val"), slice(0, RESUMED_ROWS))
            resumed = resumption(path, rows)
            if not resumed.agrees:
                raise GateFailed(
                    "The exported file cannot go on from its memory: in two calls the answers differ by up to "
                    f"{resumed.max_abs:.3g} from those in one. The file is not used."
                )
        return {"max_abs_diff": proof.max_abs}

    def scores(self, net: nn.Module) -> np.ndarray:
        """(n,) of val: the network's score on each example, by the lines that score its exported file."""
        from searchkit.onnx.predictor import TorchPredictor

        predictor = TorchPredictor(self.deployed(net), self.task.inputs, self.task.answers)
        return self.task.evaluate(predictor, "val").scores

    def macs(self, net: nn.Module) -> int:
        """Multiply-accumulates of the network for one example."""
        from searchkit.onnx import measure

        return measure.macs(net, self.model_inputs(1))

    def model_inputs(self, n: int) -> tuple[Tensor, ...]:
        """n examples of val, as `example` takes them, as the network sees them: after the preprocessor."""
        import torch

        raw = self.example(n)
        with torch.no_grad():
            out = self.task.preprocessor()(
                *(torch.from_numpy(np.ascontiguousarray(raw[p.name])) for p in self.task.inputs)
            )
        return out if isinstance(out, tuple) else (out,)

    # ── training inside a stage ─────────────────────────────────────────────────────────────────────────────────────

    def recover(
        self,
        net: nn.Module,
        parent: Artifact,
        *,
        epochs: int,
        teacher: Teacher | None = None,
        lr_scale: float = 0.5,
        seed: int = 0,
        share: float = 1.0,
    ) -> list[dict[str, JSON]]:
        """Train `net` in place for `epochs` (fewer where the deadline asks for it), as its parent was trained; with a
        teacher as `train.distillation` says. share: of the stage's time that is left, for a stage that trains again
        afterwards. Returns the learning curve.

        Mixup, early stopping and pre-training are left out: a short recovery that starts from good weights wants the
        plain data.
        """
        import torch

        from searchkit.train import distillation

        before = self.training(parent)
        planned = max(1, round(epochs * self.epoch_scale))
        training = replace(
            before, epochs=planned, lr=before.lr * lr_scale, patience=0, mixup=0.0, ema=0.0, pretrain_epochs=0
        )
        plan = FitPlan(
            training=training,
            seed=derive_seed(self.seed, parent.id, "recover", seed),
            until=planned,
            device=self.device,
            precision=self.precision,
            channels_last=self.channels_last,
            seconds=share * self.deadline.left(),
            loss=None if teacher is None else distillation(self.task, teacher, self.device),
            recovers=True,
        )
        with torch_threads(self.threads):
            state = self.task.fit(net, plan, TrainState())
        # contiguous again: the order of sums, and so the last bits, depend on the layout
        net.cpu().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
        return list(state.numbers["curve"])
