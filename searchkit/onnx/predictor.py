"""Predictors: raw arrays in, outputs out, with a torch module or an exported file, so that one code scores both.

Both run in batches and keep the intermediate values of one batch only.
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
    """The exported module: preprocessor, network, postprocessor.

    Args:
        preprocessor: From raw inputs to model inputs.
        net: The network.
        postprocessor: From the network's output to answers, e.g. logits to probabilities.
    """

    def __init__(self, preprocessor: nn.Module, net: nn.Module, postprocessor: nn.Module) -> None:
        super().__init__()
        self.preprocessor = preprocessor
        self.net = net
        self.postprocessor = postprocessor

    def forward(self, *raw: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Compute the answers.

        Args:
            raw: The task's `inputs`, in order.

        Returns:
            The task's `answers`, in order.
        """
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
    """Like Deployed, for a `HasKVCache` network; itself a `HasKVCache` from raw inputs to answers."""

    @property
    def memory(self) -> int:
        """Numbers that the cache holds per step."""
        assert isinstance(self.net, HasKVCache)
        return self.net.memory

    def resume(self, *raw_and_past: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the answers for steps after those in the cache, and their cache."""
        assert isinstance(self.net, HasKVCache)
        *raw, past_BPM = raw_and_past
        output, memory_BLM = self.net.resume(*self._model_inputs(tuple(raw)), past_BPM)
        return self.postprocessor(output), memory_BLM


def deploy(preprocessor: nn.Module, net: nn.Module, postprocessor: nn.Module) -> Deployed:
    """Return the module that is exported for a network, in eval mode.

    Args:
        preprocessor: From raw inputs to model inputs.
        net: The network.
        postprocessor: From the network's output to answers.
    """
    kind = DeployedResumable if isinstance(net, HasKVCache) else Deployed
    return kind(preprocessor, net, postprocessor).eval()


class TorchPredictor:
    """A torch module as a predictor. It evaluates in eval mode and restores the module's mode.

    Args:
        module: From raw inputs to outputs.
        inputs: Specs of the inputs.
        answers: Specs of the outputs.
        batch_size: Examples per forward pass.
        device: Device to run on.
    """

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
        """Predict; see `searchkit.core.goal.Predict`."""
        # Each submodule's own mode: some may be frozen in eval mode while the whole is in training.
        modes = [(part, part.training) for part in self.module.modules()]
        self.module.eval()
        parts = []
        for batch in batching.batches(self.inputs, inputs, self.batch_size):
            arguments = [torch.from_numpy(np.ascontiguousarray(batch[port.name])) for port in self.inputs]
            # .float(): numpy has no bfloat16, in which a network may run.
            out = self.module(*(argument.to(self.device) for argument in arguments))
            parts.append([answer.float().cpu().numpy() for answer in (out if isinstance(out, tuple) else (out,))])
        for part, training in modes:
            part.training = training
        return _joined([port.name for port in self.answers], parts)


class OnnxPredictor:
    """An exported file as a predictor, on the CPU. A file with a cache starts with an empty one.

    Args:
        path: The file.
        threads: Threads of an operator.
        batch_size: Examples per call.

    Raises:
        BadInput: If the file cannot be opened.
    """

    def __init__(self, path: Path, *, threads: int = 1, batch_size: int = 256) -> None:
        self.session = session(path, threads)
        self.batch_size = batch_size
        beside = {PAST, MEMORY} if is_resumable(self.session) else set()
        self.names = [value.name for value in self.session.get_outputs() if value.name not in beside]
        self.inputs = tuple(port for port in ports(self.session) if port.name not in beside)

    def __call__(self, inputs: Arrays) -> Arrays:
        """Predict; see `searchkit.core.goal.Predict`.

        Raises:
            BadInput: If an input of the model is missing.
        """
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
