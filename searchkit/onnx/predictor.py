"""Predictors: raw arrays in, answers out, over a torch module or an exported file alike: the same lines score both.

Both run in batches and keep no more than one batch of intermediate values. A predictor runs; what rests on disk is an
artifact.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from searchkit.core import batching
from searchkit.core.data_spec import Arrays, TensorSpec
from searchkit.core.errors import BadInput
from searchkit.core.network import HasKVCache
from searchkit.core.task import ComparesOutput
from searchkit.onnx.io import MEMORY, PAST, feed, is_resumable, ports
from searchkit.onnx.io import session as session


class Deployed(nn.Module):
    """What is exported: preprocessor (raw features to model inputs), network, and answer (logits to probabilities,
    …).
    """

    def __init__(self, preprocessor: nn.Module, net: nn.Module, answer: nn.Module) -> None:
        super().__init__()
        self.preprocessor = preprocessor
        self.net = net
        self.postprocessor = answer

    def forward(self, *raw: Tensor) -> Tensor | tuple[Tensor, ...]:
        """raw: as the task's `inputs`, in order. Returns the task's `answers`, in order."""
        inputs = self._model_inputs(raw)
        outputs = self.net(*inputs)
        if isinstance(self.postprocessor, ComparesOutput):
            return self.postprocessor.compare(outputs, *inputs)
        answers: Tensor | tuple[Tensor, ...] = (
            self.postprocessor(*outputs) if isinstance(outputs, tuple) else (self.postprocessor(outputs))
        )
        return answers

    def _model_inputs(self, raw: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        inputs = self.preprocessor(*raw)
        return inputs if isinstance(inputs, tuple) else (inputs,)


class DeployedResumable(Deployed):
    """As Deployed, around a HasKVCache network, and HasKVCache itself: from raw features to answers."""

    @property
    def memory(self) -> int:
        assert isinstance(self.net, HasKVCache)
        return self.net.memory

    def resume(self, *raw_and_past: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(self.net, HasKVCache)
        *raw, past_BPM = raw_and_past
        output, memory_BLM = self.net.resume(*self._model_inputs(tuple(raw)), past_BPM)
        return self.postprocessor(output), memory_BLM


def deploy(preprocessor: nn.Module, net: nn.Module, answer: nn.Module) -> Deployed:
    """What is exported of a network, in eval mode."""
    kind = DeployedResumable if isinstance(net, HasKVCache) else Deployed
    return kind(preprocessor, net, answer).eval()


class TorchPredictor:
    """A module as a predictor. Evaluates in eval mode and leaves the module in the mode in which it was."""

    def __init__(
        self,
        module: nn.Module,
        inputs: tuple[TensorSpec, ...],
        answers: tuple[TensorSpec, ...],
        *,
        batch_size: int = 256,
        device: str = "cpu",
    ) -> None:
        self.module = module.to(device)
        self.inputs = inputs
        self.answers = answers
        self.batch_size = batch_size
        self.device = device

    @torch.no_grad()
    def __call__(self, inputs: Arrays) -> Arrays:
        modes = [(part, part.training) for part in self.module.modules()]
        self.module.eval()
        parts = []
        for batch in batching.batches(self.inputs, inputs, self.batch_size):
            arguments = [torch.from_numpy(np.ascontiguousarray(batch[port.name])) for port in self.inputs]
            out = self.module(*(argument.to(self.device) for argument in arguments))
            parts.append([answer.float().cpu().numpy() for answer in (out if isinstance(out, tuple) else (out,))])
        for part, training in modes:
            part.training = training
        return _joined([port.name for port in self.answers], parts)


class OnnxPredictor:
    """An exported file as a predictor, on the CPU. A file that can go on from a past is asked from the beginning.
    Raises BadInput where the file cannot be opened.
    """

    def __init__(self, path: Path, *, threads: int = 1, batch_size: int = 256) -> None:
        self.session = session(path, threads)
        self.batch_size = batch_size
        beside = {PAST, MEMORY} if is_resumable(self.session) else set()
        self.names = [value.name for value in self.session.get_outputs() if value.name not in beside]
        self.inputs = tuple(port for port in ports(self.session) if port.name not in beside)

    def __call__(self, inputs: Arrays) -> Arrays:
        missing = [port.name for port in self.inputs if port.name not in inputs]
        if missing:
            raise BadInput(f"The model takes '{missing[0]}', which is not given; given are {', '.join(inputs)}.")
        parts = [
            self.session.run(self.names, feed(self.session, batch))
            for batch in batching.batches(self.inputs, inputs, self.batch_size)
        ]
        return _joined(self.names, parts)


def _joined(names: list[str], parts: list[list[np.ndarray]]) -> Arrays:
    return {name: np.concatenate([part[i] for part in parts]) for i, name in enumerate(names)}
