"""What a search or a stage may use: the run, the task, the families, a device and a deadline.

It also loads an artifact's network, exports it, and proves that the exported file answers as the network does.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from searchkit.core.artifact import Artifact
from searchkit.core.data_spec import Arrays, brief
from searchkit.core.deadline import Deadline
from searchkit.core.errors import BadInput, GateFailed
from searchkit.core.network import HasKVCache
from searchkit.core.scratch import scratch_folder
from searchkit.core.serialization import JSON, derive_seed, digest, freeze, thaw
from searchkit.core.space import Limits, Space
from searchkit.core.stage import Stage
from searchkit.core.task import Task
from searchkit.core.threads import torch_threads
from searchkit.core.training import FitPlan, Teacher, Training, TrainState
from searchkit.run import BUILD_FAILURES, FORMAT, Run

if TYPE_CHECKING:
    from torch import Tensor, nn

    from searchkit.onnx.predictor import Deployed

RESUMED_ROWS = 32

"""Rows of val on which a file must go on from its memory."""


@dataclass
class Context:
    """What a search or a stage may use; the `StageContext` of every run.

    Attributes:
        run: Where artifacts are.
        task: The data with their loss and metric.
        spaces: A family by its name.
        seed: Every other seed is derived from it.
        device: On which training runs: "cpu" or "cuda".
        precision: In which training runs: "fp32" or "bf16".
        channels_last: See `FitPlan`.
        limits: What is shipped must be within these.
        deadline: When the search or the stage should end.
        echo: Tells the user a line.
        threads: Of the training inside a stage, which has the machine to itself.
        epoch_scale: Times the epochs that a stage asks for; the pipeline lowers it if the deadline leaves less.
    """

    run: Run
    task: Task
    spaces: Callable[[str], Space]
    seed: int = 0
    device: str = "cpu"
    precision: str = "fp32"
    channels_last: bool = False
    limits: Limits = field(default_factory=Limits)
    deadline: Deadline = field(default_factory=lambda: Deadline.after(math.inf))
    echo: Callable[[str], None] = logging.getLogger("searchkit").info
    threads: int = 1
    epoch_scale: float = 1.0

    # ── from an artifact to a network ───────────────────────────────────────────────────────────────────────────────

    def network(self, artifact: Artifact) -> nn.Module:
        """Rebuild an artifact's network: build(arch), replay the edits, load the weights.

        Returns:
            A network of its own, in eval mode, on the CPU.

        Raises:
            BadInput: The artifact's weights are damaged.
        """
        from searchkit.nn.surgery import apply_edits_

        space, file = self.spaces(artifact.space), f"artifacts/{artifact.id}/artifact.json"
        arch: Any = thaw(space.arch, artifact.arch, file=self.run.named(file, "arch"), whole=True)
        weights = self.run.weights(artifact)
        try:
            net = space.build(arch, self.task.spec)
            apply_edits_(net, artifact.edits)
            net.load_state_dict(weights)
        except BUILD_FAILURES as error:
            raise BadInput(
                f"The arch and edits in {self.run.named(file)} do not make the network of its weights "
                f"({brief(error)}); restore the file, or that of the family '{space.name}' if it has changed."
            ) from error
        return net.eval()

    def source(self, artifact: Artifact) -> Artifact:
        """The artifact itself, or its nearest ancestor that has weights: the float network behind a quantized file."""
        while "weights" not in artifact.files and artifact.parent is not None:
            artifact = self.run.load(artifact.parent)
        self.run.file(artifact, "weights")  # a trial without any is a damaged one
        return artifact

    def deployed(self, net: nn.Module) -> Deployed:
        """The network between the task's preprocessor and postprocessor: from raw features to answers."""
        from searchkit.onnx.predictor import deploy

        return deploy(self.task.preprocessor(), net, self.task.postprocessor())

    def model_path(self, artifact: Artifact) -> Path:
        """The artifact's ONNX file."""
        return self.run.file(artifact, "model")

    def training(self, artifact: Artifact) -> Training:
        """How the artifact was trained. Raises BadInput if the run's file does not say."""
        file = self.run.named(f"artifacts/{artifact.id}/artifact.json", "training")
        return thaw(Training, artifact.training, file=file, whole=True)

    def example(self, n: int = 2) -> Arrays:
        """Raw examples of val, the fullest if they differ in size.

        Args:
            n: How many; two are enough to trace a network with.
        """
        from searchkit.core import batching

        ports, raw = self.task.inputs, self.task.raw("val")
        return batching.take(ports, raw, batching.fullest(ports, raw, n))

    # ── from a network to an artifact ───────────────────────────────────────────────────────────────────────────────

    def child(self, parent: Artifact, stage: Stage, *, edits: tuple[JSON, ...] | None = None) -> Artifact:
        """The draft of what `stage` makes of `parent`. Its id is the digest of its lineage, known before any work."""
        # The version of the code is not part of an id; FORMAT stands for it.
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
        """Export a network, prove its file on every example of val, measure it, and write the artifact.

        Args:
            draft: From `child`; its metrics are filled in here.
            net: The network; None if there is a file alone.
            model: The ONNX file to take if there is no network.
            log: The learning curve of what the stage trained.
            notes: What the stage has to tell the report.

        Returns:
            The artifact as it is on disk.

        Raises:
            GateFailed: The file disagrees with the network.
        """
        from searchkit.onnx import measure
        from searchkit.onnx.predictor import OnnxPredictor

        weights = None if net is None else net.state_dict()
        metrics: dict[str, float] = {}
        with scratch_folder() as folder:
            if net is not None:
                model = folder / "model.onnx"
                metrics |= self.export(net, model)
                metrics |= {"params": measure.params(net), "macs": self.macs(net)}
            assert model is not None
            # the file, not the network: what is measured is what is shipped
            evaluation = self.task.evaluate(OnnxPredictor(model), "val")
            metrics |= evaluation.metrics | {"size_bytes": measure.size_bytes(model)}
            whole = replace(draft, metrics=metrics, notes={**draft.notes, **freeze(notes or {})})
            # Within the block, since the file is copied from the scratch folder.
            return self.run.save(whole, weights=weights, model=model, scores=evaluation.scores, log=log or ())

    def export(self, net: nn.Module, path: Path) -> dict[str, float]:
        """Write a network as one ONNX file, and compare the two on every example of val.

        Args:
            net: Is moved to the CPU.
            path: Of the file.

        Returns:
            "max_abs_diff": by how much the answers differ at most, in their own unit.

        Raises:
            GateFailed: They disagree; or a file that can go on from its memory does not do so as if it had not stopped.
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
        """The network's score on each example of val, (n,) float64, by the lines that score its exported file."""
        from searchkit.onnx.predictor import TorchPredictor

        predictor = TorchPredictor(self.deployed(net), self.task.inputs, self.task.answers)
        return self.task.evaluate(predictor, "val").scores

    def macs(self, net: nn.Module) -> int:
        """Multiply-accumulates of the network for one example."""
        from searchkit.onnx import measure

        return measure.macs(net, self.model_inputs(1))

    def model_inputs(self, n: int) -> tuple[Tensor, ...]:
        """What `example` gives after the preprocessor: the network's own inputs, in order, n examples each."""
        import torch

        raw = self.example(n)
        with torch.no_grad():
            # `ascontiguousarray`, since torch.from_numpy refuses negative strides.
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
        """Train a network in place as its parent was trained, for a short time.

        Mixup, early stopping and pre-training are left out: a short recovery that starts from good weights wants the
        plain data.

        Args:
            net: Is left in eval mode, on the CPU.
            parent: Says how it was trained.
            epochs: Fewer if the deadline asks for it.
            teacher: To learn from beside the targets; see `searchkit.train.distillation`.
            lr_scale: Times the parent's learning rate.
            seed: Tells the recoveries of one stage apart.
            share: Of the stage's time that is left, for a stage that trains again afterwards.

        Returns:
            The learning curve, a row an epoch.
        """
        import torch

        from searchkit.train import distillation

        before = self.training(parent)
        planned = max(1, round(epochs * self.epoch_scale))
        training = replace(
            before, epochs=planned, lr=before.lr * lr_scale, patience=0, mixup=0.0, ema=0.0, pretrain_epochs=0
        )
        # The schedule is over the epochs of the recovery: `until` and `training.epochs` are equal.
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
