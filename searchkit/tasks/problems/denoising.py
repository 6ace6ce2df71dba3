"""The example without the noise that was added to it: trained, judged and shipped on noisy inputs, against clean ones.

The inputs of val and test have their noise once for all, so that every file answers the same noisy examples; a training
example gets new noise every epoch (Vincent et al. 2008, Extracting and composing robust features with denoising
autoencoders). Noise is drawn on the scale of the clean training rows and rounded to the type of the raw values, so that
a noisy picture is a picture: what is trained on is what a user has. Not to be confused with an augmentation, which is
for training alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor, nn

from searchkit.core.data_spec import Arrays, Split, TensorSpec
from searchkit.core.errors import BadInput
from searchkit.core.goal import Evaluation, Goal, Predict
from searchkit.core.serialization import JSON, derive_seed
from searchkit.core.task import Task
from searchkit.core.training import Batch, Training
from searchkit.data.dataset import Dataset, RawDataset
from searchkit.data.problems import ProblemInfo
from searchkit.data.source import Source
from searchkit.tasks.arrays import ArrayTask
from searchkit.tasks.predictions import RECONSTRUCTION
from searchkit.tasks.prepare import make_task
from searchkit.tasks.problems.reconstruction import Rebuild, rebuild
from searchkit.tasks.protocols import Modality, ProblemSpec
from searchkit.tasks.registry import modality_named

EMBEDDED = {
    "digits-denoising": "remove Gaussian noise of half a standard deviation from the 8x8 digits (scikit-learn)",
}

DEFAULT = "gaussian:0.5"

LEVELS = {"gaussian": (0.0, 10.0), "mask": (0.0, 1.0)}
"""What a level lies between: of Gaussian noise its deviation, in deviations of the data; of masking the share of values
that are replaced by the mean."""


@dataclass(frozen=True)
class Noise:
    """A kind of noise, a key of LEVELS, and how much of it."""

    kind: str
    level: float

    @classmethod
    def parse(cls, text: str) -> Noise:
        """Read what a user writes, such as gaussian:0.5.

        Raises:
            BadInput: it names no noise, or a level that is out of range.
        """
        kind, _, number = text.partition(":")
        try:
            level = float(number)
        except ValueError:
            # Below every range, so that the next check refuses it too, as it does nan.
            level = -1.0
        if kind not in LEVELS or not LEVELS[kind][0] < level < LEVELS[kind][1]:
            raise BadInput(
                f"--noise '{text}' is no noise: it is gaussian:LEVEL, a deviation in deviations of the data above 0 "
                "and below 10, or mask:SHARE, of the values that are lost, above 0 and below 1; such as gaussian:0.5."
            )
        return cls(kind, level)

    def add(self, scaled: Tensor, generator: Generator) -> Tensor:
        """Add noise to values of mean 0 and deviation 1 on the clean training rows."""
        if self.kind == "gaussian":
            drawn = torch.randn(scaled.shape, generator=generator, device=scaled.device)
            return scaled + self.level * drawn
        lost = torch.rand(scaled.shape, generator=generator, device=scaled.device) < self.level
        return scaled.masked_fill(lost, 0.0)


class Corrupt:
    """Makes noisy raw rows of clean ones, of the same type, by noise on the scale of the clean training rows."""

    def __init__(self, data: Dataset, noise: Noise) -> None:
        """Prepare for clean data.

        Args:
            data: With clean inputs.
            noise: What to add.

        Raises:
            BadInput: such data cannot be taken back from the network's scale.
        """
        modality = modality_named(data.modality)
        self.noise = noise
        self.dtype = data.inputs[data.main].dtype
        self.preprocessor = modality.preprocessor(data).eval()
        self.restore = modality.restore(data, self.preprocessor).eval()

    @torch.no_grad()
    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """Add newly drawn noise to raw rows, (B, …)."""
        for module in (self.preprocessor, self.restore):
            module.to(clean.device)
        raw: Tensor = self.restore(self.noise.add(self.preprocessor(clean), generator))
        if self.dtype.kind in "iu":
            # Clamped before the cast, which is undefined for numbers outside of the type's range.
            limits = np.iinfo(self.dtype)
            raw = raw.round().clamp(int(limits.min), int(limits.max)).to(clean.dtype)
        return raw


def with_noise(data: Dataset, found: RawDataset, source: Source) -> Dataset:
    """Make the inputs noisy and the clean ones the target.

    Args:
        data: Clean.
        found: What the data were made of.
        source: Says which noise to add; DEFAULT if it does not.

    Raises:
        BadInput: the noise is not known, or examples differ in length.
    """
    if "lengths" in data.inputs:
        raise BadInput(
            f"{data.where} has examples of different lengths, which cannot be denoised; cut them to one length."
        )
    noise = source.noise or DEFAULT
    corrupt = Corrupt(data, Noise.parse(noise))
    clean = data.inputs[data.main]
    generator = torch.Generator().manual_seed(derive_seed("noise", data.split_seed))
    noisy = [corrupt(part, generator).numpy() for part in torch.split(torch.from_numpy(clean), 4096)]
    return replace(data, inputs={data.main: np.concatenate(noisy)}, target=clean, noise=noise)


def denoise(data: Dataset, modality: Modality, preprocessor: nn.Module, spec_input: TensorSpec) -> Rebuild:
    """Make a reconstruction of another example than the input."""
    made = rebuild(data, modality, preprocessor, spec_input)
    return replace(made, goal=Goal("mse_to_clean", "minimize"), error="mse_to_clean")


class DenoisingTask(ArrayTask):
    """An ArrayTask whose training rows get new noise every epoch. Its targets are the clean raw examples."""

    def __init__(self, data: Dataset) -> None:
        super().__init__(data)
        assert data.target is not None
        # Scaled by the clean rows, as in `with_noise`; the task's own preprocessor is made for the noisy ones.
        self._corrupt = Corrupt(replace(data, inputs={data.main: data.target}), Noise.parse(data.noise))

    def _encoded(self, split: Split) -> np.ndarray:
        return self.data.target_of(split)

    def _examples(self, split: Split, rows: Tensor, device: str) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """Of train the clean examples, as if they were to be reconstructed: they are augmented before their noise."""
        inputs, clean = super()._examples(split, rows, device)
        assert clean is not None
        (target,) = self._scale((clean,))
        return ((target,), None) if split == "train" else (inputs, target)

    def _train(self, training: Training, seed: int, device: str) -> Iterator[Batch]:
        generator = torch.Generator(device).manual_seed(derive_seed("noise", seed))
        restore = self._kind.postprocessor().to(device)
        for batch in super()._train(training, seed, device):
            # The augmented clean example is taken back to raw values, given its noise there, and scaled again.
            noisy = self._corrupt(restore(batch.target), generator)
            yield Batch(self._scale((noisy,)), batch.target)

    def evaluate(self, predict: Predict, split: Split) -> Evaluation:
        """Score a predictor on a split.

        Of the metrics, mse_of_input is what the noise itself comes to, which a network that changes nothing has.
        """
        found = super().evaluate(predict, split)
        raw, clean = self.raw(split)[self.data.main], self.data.target_of(split)
        noise = float(np.mean(np.square(raw.astype(np.float64) - clean)))
        return replace(found, metrics={**found.metrics, "mse_of_input": noise})

    def pack(self) -> tuple[dict[str, JSON], Arrays]:
        """See `Task.pack`."""
        words, arrays = super().pack()
        return {**words, "module": "denoising"}, arrays


PROBLEMS = {
    "denoising": ProblemSpec(
        denoise,
        ProblemInfo(
            description="the input without the noise that was added to it",
            predicts="the input without its noise",
            labeled=False,
            fields=("noise",),
            asked_by=("noise",),
        ),
        RECONSTRUCTION,
        arrange=with_noise,
        task=DenoisingTask,
    ),
}


def unpack(config: Mapping[str, JSON], arrays: Arrays) -> DenoisingTask:
    """Rebuild a packed task."""
    return DenoisingTask(Dataset.unpack(config, arrays))


def load(source: Source) -> Task:
    """Load the packaged task: the digits with noise."""
    from searchkit.tasks.modalities.image import digits

    kind = source.kind or "denoising"
    return make_task(digits("digits-denoising", labeled=False), replace(source, problem=kind))
