"""ArrayTask: supervised learning on examples that lie in memory, a modality and a problem put together.

The training split goes to the device once, in its compact type, and is sliced there: on small networks a DataLoader
costs more than the network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Generator, Tensor, nn

from searchkit.core import batching
from searchkit.core.data_spec import Arrays, DataSpec, Split, TensorSpec
from searchkit.core.errors import BadInput, Infeasible
from searchkit.core.goal import Evaluation, Predict
from searchkit.core.network import HasAuxLoss, Variational
from searchkit.core.serialization import JSON, derive_seed
from searchkit.core.training import Batch, FitPlan, Training, TrainState
from searchkit.data.dataset import Column, Dataset
from searchkit.data.summary import summarize
from searchkit.tasks.bundle_files import for_text
from searchkit.tasks.reduced import SMALLEST_SIDE, Shrink, first_part
from searchkit.tasks.registry import OTHERWISE, modality_named, problem_named

CACHED_BYTES = 256 * 2**20  # a split whose model inputs fit in this goes through the preprocessor once, not each epoch

SCALED_AT_ONCE = 256
"""Examples: a spectrogram takes many times the memory of its samples while it is made."""

POOL = 16
"""Batches that are drawn together and parted by length, so that little of a batch is padding."""

INSPECTED = 10_000
"""Examples of a split at most: an ELBO takes many passes."""


class ArrayTask:
    """Implements `searchkit.core.task.Task` for checked and split data.

    Raises:
        BadInput: the modality and the problem do not go together.
    """

    def __init__(self, data: Dataset) -> None:
        self.data = data
        self.name = data.name
        self.problem = data.kind
        self.labels = data.labels
        self._modality = modality_named(data.modality)
        self._preprocessor = self._modality.preprocessor(data).eval()
        self.inputs = self._modality.ports(data)
        # The preprocessor is run on one example for the shapes of the model's inputs; the problem is made for them.
        ports = self._model_ports()
        make = problem_named(data.kind).make
        assert make is not None, f"{data.kind} has a task of its own"
        self._kind = make(data, self._modality, self._preprocessor, ports[0])
        self.goal = self._kind.goal
        self.answers: tuple[TensorSpec, ...] = (self._kind.answers,)
        self.spec = DataSpec(
            modality=self._modality.form,
            inputs=ports,
            outputs=(self._kind.output,),
            n_classes=self._kind.n_classes,
            vocabulary=self._modality.vocabulary(data),
            augmentations=tuple(self._modality.augmentations),
        )
        self._parts: dict[tuple[str, float], ArrayTask] = {}
        self._on_device: dict[tuple[str, str], tuple[tuple[Tensor, ...], Tensor | None, bool]] = {}

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns behind a table's features; () for other data."""
        return self.data.columns

    @property
    def fingerprint(self) -> str:
        """The digest of all values and splits, by which a run knows its data again."""
        return self.data.fingerprint()

    def preprocessor(self) -> nn.Module:
        """Copy the modality's module from raw to model inputs, on the CPU."""
        # A copy, since the task moves its own module to the device of each batch.
        return copy.deepcopy(self._preprocessor).cpu()

    def postprocessor(self) -> nn.Module:
        """Make the problem's module from the network's output to answers."""
        return self._kind.postprocessor()

    def n_examples(self, split: Split) -> int:
        """Count the examples of a split."""
        return len(self.data.rows[split])

    def splits(self) -> Arrays:
        """Row indices by split, ascending, in the order of the source."""
        return dict(self.data.rows)

    def part(self, share: float) -> ArrayTask | None:
        """See `HasParts`; None for tasks that make their examples themselves, such as windows of a series."""
        if type(self) is not ArrayTask or not self._has_equal_parts:
            return None
        return self._with_part("train", share)

    def glimpse(self, rows: int) -> ArrayTask:
        """See `HasParts`."""
        n = self.n_examples("val")
        if n <= rows or type(self) is not ArrayTask or not self._has_equal_parts:
            return self
        return self._with_part("val", rows / n)

    def shrunk(self, share: float) -> ArrayTask | None:
        """See `HasSides`."""
        sides = [round(share * side) for side in self.spec.inputs[0].shape[1:] if side is not None]
        if type(self) is not ArrayTask or len(self.inputs) > 1 or len(sides) < 2 or min(sides) < SMALLEST_SIDE:
            return None
        if ("sides", share) not in self._parts:
            found = self._parts["sides", share] = copy.copy(self)
            found._preprocessor = nn.Sequential(self._preprocessor, Shrink(tuple(sides))).eval()
            found._on_device, found._parts = {}, {}
        return self._parts["sides", share]

    def _with_part(self, split: Split, share: float) -> ArrayTask:
        """The same task with a share of one split; kept, for its tensors are on the device from then on."""
        if (split, share) not in self._parts:
            # the preprocessor stays that of all data, so that a training can go on with more
            found = self._parts[split, share] = copy.copy(self)
            rows = self.data.rows[split]
            found.data = replace(self.data, rows={**self.data.rows, split: rows[first_part(self.data, split, share)]})
            found._on_device, found._parts = {}, {}
        return self._parts[split, share]

    def unsplittable(self) -> str | None:
        """See `HasRowBatches`."""
        if not all(port.batched and port.counted_by is None and port.axis == 0 for port in self.spec.inputs):
            return "its examples are not rows of equal shape"
        return None

    def raw(self, split: Split) -> Arrays:
        """Raw inputs of a split by port name, laid out as the ports say."""
        return batching.take(self.inputs, self.data.inputs, self.data.rows[split])

    def batches(self, split: Split, training: Training, *, seed: int, device: str) -> Iterator[Batch]:
        """Draw one epoch of train, shuffled, augmented and mixed as `training` says, or val in order and as it is.

        Args:
            split: "train" or "val".
            training: Its batch size, augmentations, mixup and label smoothing are used.
            seed: By which train is shuffled and augmented.
            device: Where the tensors are.

        Raises:
            BadInput: an augmentation is asked for that such data do not have.
            Infeasible: inputs are to be mixed that cannot be.
            ValueError: test is asked for, which only `evaluate` reads.
        """
        if split == "test":
            raise ValueError("batches gives train and val; test is read by evaluate, for the evidence alone")
        return self._train(training, seed, device) if split == "train" else self._val(training, device)

    def _val(self, training: Training, device: str) -> Iterator[Batch]:
        for rows in torch.split(torch.arange(self.n_examples("val"), device=device), training.batch_size):
            inputs, target = self._examples("val", rows, device)
            yield Batch(inputs, inputs[0] if target is None else self._kind.encode_soft(target, 0.0))

    def _train(self, training: Training, seed: int, device: str) -> Iterator[Batch]:
        self._require_possible(training)
        generator = torch.Generator(device).manual_seed(seed)
        # By numpy: torch.distributions.Beta takes no generator.
        mixing = np.random.default_rng(derive_seed("mixup", seed))
        for rows in self._shuffled(training.batch_size, generator, device):
            inputs, target = self._examples("train", rows, device)
            inputs, clean = self._augment(inputs, training.augment, generator)
            target = clean if target is None else self._kind.encode_soft(target, training.label_smoothing)
            if training.mixup > 0:
                share = float(mixing.beta(training.mixup, training.mixup))
                inputs, target = _mix(inputs, target, share, generator)
            yield Batch(inputs, target)

    def _shuffled(self, size: int, generator: Generator, device: str) -> list[Tensor]:
        """The rows of train in batches, in an order drawn by the generator.

        If rows differ in length, a batch holds those of similar lengths. A single example that is left over is left
        out, since batch norm cannot train on it; batches have one example if `size` is 1 or train has no more.
        """
        order = torch.randperm(self.n_examples("train"), generator=generator, device=device)
        if (lengths := self._lengths(device)) is None:
            found = list(torch.split(order, size))
        else:
            # Sorted as a whole, the rows would make the same batches every epoch; pools of a random order do not. An
            # epoch of `hybrid` on spoken digits took 5.8 s instead of 32.5 s with this and without the steps beyond a
            # batch's longest row (reports/LOG.md).
            pools = torch.split(order, size * POOL)
            sorted_pools = [pool[torch.argsort(lengths[pool], stable=True)] for pool in pools]
            batches = [rows for pool in sorted_pools for rows in torch.split(pool, size)]
            # Else each pool would be trained on from its short rows to its long ones.
            shuffled = torch.randperm(len(batches), generator=generator, device=device)
            found = [batches[k] for k in shuffled.tolist()]
        return [rows for rows in found if len(rows) > 1 or size == 1 or len(order) == 1]

    def _lengths(self, device: str) -> Tensor | None:
        """(n,) of the training rows, by which they are put together; None if they are all alike."""
        lengths = self.data.inputs.get("lengths")
        return None if lengths is None else torch.from_numpy(lengths[self.data.rows["train"]]).to(device)

    def _require_possible(self, training: Training) -> None:
        unknown = [name for name in training.augment if name not in self._modality.augmentations]
        if unknown:
            allowed = ", ".join(self._modality.augmentations) or "none"
            raise BadInput(f"No augmentation '{unknown[0]}' for {self.spec.modality} data; allowed: {allowed}.")
        if training.mixup > 0 and self.spec.vocabulary:
            raise Infeasible("tokens cannot be mixed; set mixup to 0")
        if training.mixup > 0 and not self._has_equal_parts:
            raise Infeasible(
                "examples of different sizes, or with parts that they share, cannot be mixed; set mixup to 0"
            )

    @property
    def _has_equal_parts(self) -> bool:
        """Whether an example is one row of each input."""
        return all(port.batched and port.counted_by is None for port in self.inputs)

    def _augment(
        self, inputs: tuple[Tensor, ...], names: tuple[str, ...], generator: Generator
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """The inputs, and the first of them as it was before anything was done that a reconstruction should undo."""
        x, *rest = inputs
        for name in names:
            if name not in self._modality.corrupts:
                x = self._modality.augmentations[name](x, generator)
        # Whatever the order of `names`, the clean copy is taken between the two kinds: the target is cropped as the
        # input is, and has none of its noise.
        clean = x
        for name in names:
            if name in self._modality.corrupts:
                x = self._modality.augmentations[name](x, generator)
        if names and "lengths" in self.data.inputs and x.is_floating_point():
            # The preprocessor leaves 0 after the end of a row, and noise and shifts reach into it.
            x = _without_padding(x, rest[0])
        return (x, *rest), clean

    def _examples(self, split: Split, rows: Tensor, device: str) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Model inputs and encoded targets of some rows of a split."""
        inputs, target, is_scaled = self._resident(split, device)
        by_name = {port.name: values for port, values in zip(self.inputs, inputs, strict=True)}
        chosen = tuple(batching.take(self.inputs, by_name, rows).values())
        return chosen if is_scaled else self._scale(chosen), None if target is None else target[rows]

    def _resident(self, split: Split, device: str) -> tuple[tuple[Tensor, ...], Tensor | None, bool]:
        """A split on the device, after the preprocessor if that is small; kept from then on."""
        if (split, device) not in self._on_device:
            raw = self.raw(split)
            inputs = tuple(torch.from_numpy(raw[port.name]).to(device) for port in self.inputs)
            # Estimated from the first input at 4 bytes a number, as in float32, whatever the compact raw type takes.
            scaled_bytes = 4 * self.n_examples(split) * int(np.prod([n or 1 for n in self.spec.inputs[0].shape]))
            is_scaled = scaled_bytes <= CACHED_BYTES
            if is_scaled and self._has_equal_parts:
                parts = [
                    self._scale(part) for part in zip(*(torch.split(x, SCALED_AT_ONCE) for x in inputs), strict=True)
                ]
                inputs = tuple(torch.cat(values) for values in zip(*parts, strict=True))
            elif is_scaled:
                # Graphs cannot be split at rows: nodes and edges are runs of entries, or shared by all examples.
                inputs = self._scale(inputs)
            encoded = self._encoded(split)
            target = None if encoded is None else torch.from_numpy(encoded).to(device)
            self._on_device[split, device] = (inputs, target, is_scaled)
        return self._on_device[split, device]

    def _encoded(self, split: Split) -> np.ndarray | None:
        """What training compares the output with, compact; None if it is the input itself."""
        return None if self.data.target is None else self._kind.encode(self.data.target_of(split))

    @torch.no_grad()
    def _scale(self, raw: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        preprocessor = self._preprocessor.to(raw[0].device)
        scaled = preprocessor(*raw)
        return scaled if isinstance(scaled, tuple) else (scaled,)

    def _model_ports(self) -> tuple[TensorSpec, ...]:
        """The shapes that the preprocessor gives for one training example."""
        first = batching.take(self.inputs, self.data.inputs, self.data.rows["train"][:1])
        scaled = self._scale(tuple(torch.from_numpy(first[port.name]) for port in self.inputs))
        return tuple(
            replace(
                port,
                shape=batching.sizes(port, tuple(values.shape)),
                dtype=str(values.dtype).removeprefix("torch."),
            )
            for port, values in zip(self.inputs, scaled, strict=True)
        )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Compute the problem's loss of a batch, with the network's own penalty if it has one: a scalar."""
        output = model(*batch.inputs)
        loss = self._kind.loss(output, batch.target)
        if isinstance(model, HasAuxLoss):
            loss = loss + self._kind.aux_loss_weight(loss, output) * model.aux_loss()
        return loss

    def distillation_loss(self, student: nn.Module, teacher: nn.Module, batch: Batch, *, temperature: float) -> Tensor:
        """Compare a student with its teacher on a batch: a scalar, least if they answer alike."""
        with torch.no_grad():
            wanted = teacher(*batch.inputs)
        return self._kind.distillation_loss(student(*batch.inputs), wanted, temperature)

    def fit(self, model: nn.Module, plan: FitPlan, state: TrainState) -> TrainState:
        """Train in place by the general loop, see `searchkit.train.fit`."""
        from searchkit import train

        return train.fit(model, self, plan, state)

    def evaluate(self, predict: Predict, split: Split) -> Evaluation:
        """Score a predictor on a split by its first answer."""
        raw = self.raw(split)
        answers = predict(raw)[self.answers[0].name]
        truth = raw[self.data.main] if self.data.target is None else self.data.target_of(split)
        return self._kind.score(answers, truth)

    def inspect(self, model: nn.Module, split: Split) -> dict[str, float]:
        """See `HasModelMetrics`: the evidence bound of a VAE that rebuilds its very input, in nats an example."""
        if not (self.spec.reconstructs and self.data.target is None and isinstance(model, Variational)):
            return {}
        from searchkit.tasks.problems.reconstruction import elbo

        train, x = (self._scaled(part, INSPECTED) for part in ("train", split))
        bound = elbo(model, train, x, self.postprocessor())
        return {} if bound is None else {"elbo": float(bound.mean())}

    def _scaled(self, split: Split, most: int) -> Tensor:
        """The first model input of at most so many examples."""
        raw = batching.take(self.inputs, self.raw(split), slice(0, most))
        return self._scale(tuple(torch.from_numpy(raw[port.name]) for port in self.inputs))[0]

    def summary(self) -> dict[str, JSON]:
        """Count what was found, see `searchkit.data.summary`."""
        return summarize(self.data, self.inputs) | {"goal": self.goal.metric, "fingerprint": self.fingerprint}

    def bundle_files(self) -> dict[str, str]:
        """See `HasBundleFiles`."""
        return {} if self.data.tokenizer is None else for_text(self.data, "run_lines.py")

    def pack(self) -> tuple[dict[str, JSON], Arrays]:
        """Take apart into plain JSON and arrays; `unpack` of this module, or of a subclass's own, is the inverse."""
        words, arrays = self.data.pack()
        return {"module": "arrays", **words}, arrays


TASKS = {OTHERWISE: ArrayTask}


def unpack(config: Mapping[str, JSON], arrays: Arrays) -> ArrayTask:
    """Rebuild a packed task."""
    return ArrayTask(Dataset.unpack(config, arrays))


def _without_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """Set to 0 what lies after the end of each row: (B, …, L), and (B,) lengths."""
    steps = torch.arange(x.shape[-1], device=x.device)
    return torch.where(steps < lengths.view(-1, *[1] * (x.ndim - 1)), x, 0.0)


def _mix(
    inputs: tuple[Tensor, ...], target: Tensor, share: float, generator: Generator
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Mixup (Zhang et al. 2018, arXiv:1710.09412) of each example with another of the batch; the longer length."""
    other = torch.randperm(len(target), generator=generator, device=target.device)
    x, *lengths = inputs
    longer = tuple(torch.maximum(values, values[other]) for values in lengths)
    return (share * x + (1 - share) * x[other], *longer), share * target + (1 - share) * target[other]
