"""Image generation: example i is a vector of fixed noise and a real image, which is not its target.

The generator is the network that is searched, compressed and shipped. What it trains against (`adversary`) and what it
is scored in (`perception`, `frechet`) belong to the task. The noise of every split is drawn once, by the split's seed,
and kept with the data: two generators are compared on the same noise, against the same images, in pairs. Training draws
new noise for each batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from searchkit.core.data_spec import Arrays, Split, TensorSpec
from searchkit.core.errors import BadInput
from searchkit.core.goal import Evaluation, Goal, Predict
from searchkit.core.serialization import JSON, derive_seed
from searchkit.core.task import Task
from searchkit.core.training import FitPlan, TrainState
from searchkit.data.dataset import Dataset, RawDataset
from searchkit.data.problems import ProblemInfo
from searchkit.data.source import Source
from searchkit.data.splits import split_rows
from searchkit.data.targets import read_classes
from searchkit.tasks.arrays import ArrayTask
from searchkit.tasks.gan.adversary import Adversary, RealSource, energy_distance
from searchkit.tasks.gan.cycle import Cycle
from searchkit.tasks.gan.frechet import potentials, precision_and_recall
from searchkit.tasks.gan.perception import Perception, features, train
from searchkit.tasks.modalities.image import ScaleImage, UnscaleImage, channel_order, digits
from searchkit.tasks.modalities.noise import draw_noise
from searchkit.tasks.predictions import GENERATION
from searchkit.tasks.prepare import arranged, guess_kind, make_task, require_rows
from searchkit.tasks.protocols import Modality, ProblemSpec

EMBEDDED = {"digits-generation": "draw 8x8 digits from noise: like 1,797 gray images of 64 values (scikit-learn)"}

FITTED = 10_000
"""Training pictures that a normal distribution is fitted to at most."""

NOISE = (16, 64)
"""How many numbers a picture is made of: a quarter of its pixels, within these bounds."""


@dataclass(frozen=True, eq=False)
class GenerateImage:
    """The problem of generating an image from noise.

    Attributes:
        raw: The port of a raw image.
        scale: Raw images to (B, C, H, W) in [-1, 1], by the smallest and largest value of train.
    """

    raw: TensorSpec
    scale: ScaleImage
    n_classes = 0
    goal = Goal("frechet", "minimize")

    @property
    def output(self) -> TensorSpec:
        """Model output "sample", (C, H, W) in [-1, 1]."""
        with torch.no_grad():
            one = self.scale(torch.zeros(1, *(size or 1 for size in self.raw.shape)))
        return TensorSpec("sample", tuple(one.shape[1:]))

    @property
    def answers(self) -> TensorSpec:
        """Exported output: an image on the raw scale."""
        return TensorSpec("image", self.raw.shape)

    def postprocessor(self) -> nn.Module:
        """Model values to the raw scale."""
        return UnscaleImage(self.scale).cpu()

    def encode(self, target: np.ndarray) -> np.ndarray:
        """Real images, as they are stored."""
        return target

    def encode_soft(self, target: Tensor, smoothing: float) -> Tensor:
        """Real images scaled to [-1, 1]; smoothing has no meaning here."""
        scaled: Tensor = self.scale.to(target.device)(target)
        return scaled

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Energy distance of a batch of generated and of real images, for training without a critic."""
        return energy_distance(output.float(), target)

    def aux_loss_weight(self, loss: Tensor, output: Tensor) -> float:
        """1: a network's own loss term counts as it is."""
        return 1.0

    def distillation_loss(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Mean squared difference between what student and teacher generate from the same noise."""
        return F.mse_loss(student.float(), teacher.float())

    def score(self, answers: np.ndarray, truth: np.ndarray) -> Evaluation:
        """Scores of whole sets need features: `GenerationTask.evaluate` computes them."""
        raise AssertionError("all pictures together are judged: see GenerationTask.evaluate")


def generate_image(data: Dataset, modality: Modality, preprocessor: nn.Module, spec_input: TensorSpec) -> GenerateImage:
    """Make the problem from the training images."""
    seen = data.target_of("train")
    return GenerateImage(TensorSpec("image", seen.shape[1:]), bounds(seen, data.where))


def bounds(pictures: np.ndarray, where: str) -> ScaleImage:
    """Scaling of these images, (n, …), to [-1, 1] by their smallest and largest value.

    Raises:
        BadInput: All values are the same.
    """
    least, largest = float(pictures.min()), float(pictures.max())
    if least == largest:
        raise BadInput(f"Every value of the train pictures of {where} is {least:g}; there is nothing to draw.")
    axes = channel_order(pictures.shape[1:])
    channels = {"HW": 1, "CHW": pictures.shape[1], "HWC": pictures.shape[-1]}[axes]
    middle, half = np.full(channels, (largest + least) / 2), np.full(channels, (largest - least) / 2)
    return ScaleImage(axes, middle, half)


# ── The task ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class GenerationTask(ArrayTask):
    """The task of generating images; implements `Task`.

    Args:
        classes: (n,) int64 classes of the images, for the features that score them; None if there are none.
        learned: Weights of those features if they are known, as in another process.
    """

    module = "generation"

    def __init__(self, data: Dataset, classes: np.ndarray | None, learned: Arrays | None = None) -> None:
        super().__init__(data)
        assert isinstance(self._kind, GenerateImage)
        self._scale_pictures: ScaleImage = self._kind.scale
        self.classes: np.ndarray | None = classes
        self._learned: Arrays | None = learned
        self._real: dict[Split, np.ndarray] = {}

    @property
    def fingerprint(self) -> str:
        """Digest of the noise, the images, the splits and the classes."""
        classes = b"" if self.classes is None else self.classes.tobytes()
        return sha256(self.data.fingerprint().encode() + classes).hexdigest()[:16]

    @cached_property
    def perception(self) -> Perception:
        """The feature network that scores images; trained at the first call."""
        if self._learned is not None:
            n_classes = len(self._learned["head.bias"])
            net = Perception(*self._shape, n_classes=n_classes)
            net.load_state_dict({name: torch.from_numpy(value) for name, value in self._learned.items()})
            return net.eval().requires_grad_(False)
        if self.fingerprint not in _PERCEPTIONS:
            chosen = None if self.classes is None else self.classes[self.real_rows("train")]
            _PERCEPTIONS.clear()  # the last one is enough for one run; tests load each data set again and again
            _PERCEPTIONS[self.fingerprint] = train(self._pictures("train"), chosen)
        return _PERCEPTIONS[self.fingerprint]

    @property
    def _shape(self) -> tuple[int, int, int]:
        channels, height, width = (size or 1 for size in self.spec.outputs[0].shape)
        return channels, height, width

    def real_rows(self, split: Split) -> np.ndarray:
        """Rows of the images that generated ones are compared with."""
        return self.data.rows[split]

    def real(self, split: Split) -> np.ndarray:
        """Those images as stored, (n, …)."""
        return self.data.target_of(split)

    def _pictures(self, split: Split) -> Tensor:
        """Those images as (n, C, H, W) in [-1, 1]."""
        return self._kind.encode_soft(torch.from_numpy(self.real(split)), 0.0)

    def _features(self, split: Split) -> np.ndarray:
        if split not in self._real:
            self._real[split] = features(self.perception, self._pictures(split))
        return self._real[split]

    def _augment(
        self, inputs: tuple[Tensor, ...], names: tuple[str, ...], generator: Generator
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        (noise,) = inputs
        fresh = torch.randn(noise.shape, generator=generator, device=noise.device)
        return (fresh,), fresh

    def unsplittable(self) -> str:
        """See `HasRowBatches`: the critic's steps are not shared out."""
        return "its network is trained against a critic, in a loop of its own"

    def fit(self, model: nn.Module, plan: FitPlan, state: TrainState) -> TrainState:
        """Train against a critic, unless the plan brings its own loss (a teacher). The state holds the critic too."""
        from searchkit import train as training

        if plan.loss is not None:
            return training.fit(model, self, plan, state)
        adversary = self._adversary(plan)
        if state.epoch:
            adversary.restore_(state)
        else:
            # The loop seeds torch at its first epoch, which comes after the warm-up.
            torch.manual_seed(derive_seed(plan.seed, "warm"))
            adversary.warm_up_(model.to(plan.device))
        after = training.fit(model, self, replace(plan, loss=adversary), state)
        after.tensors |= adversary.capture()
        return after

    def _adversary(self, plan: FitPlan) -> Adversary | Cycle:
        """A new critic, or critics, to train against."""
        pictures, size = torch.from_numpy(self.real("train")).to(plan.device), self.data.inputs["noise"].shape[1]
        rival = RealSource(
            pictures,
            lambda raw: self._kind.encode_soft(raw, 0.0),
            lambda n: torch.randn(n, size, device=plan.device),
        )
        return Adversary(plan.training, rival, seed=derive_seed(plan.seed, "critic"))

    def evaluate(self, predict: Predict, split: Split) -> Evaluation:
        """Score a generator; images are clipped to the range of train, and NaN becomes the smallest value."""
        answers = predict(self.raw(split))[self.answers[0].name]
        drawn = features(self.perception, self.shown(answers))
        chosen = _spread(len(self.real_rows(split)), len(drawn))  # all of them in order, if there are as many
        real = self._features(split)[chosen]
        scores = potentials(drawn, real)
        precision, recall = precision_and_recall(drawn, real)
        metrics = {
            self.goal.metric: self.goal.value(scores),
            "precision": precision,
            "recall": recall,
            "real_frechet": self._floor(split),
        }
        return Evaluation(metrics, scores, answers, self.real(split)[chosen])

    @torch.no_grad()
    def shown(self, answers: np.ndarray) -> Tensor:
        """Generated images clipped to [-1, 1], (n, C, H, W)."""
        scaled: Tensor = self._scale_pictures.cpu()(torch.from_numpy(answers))
        # nan_to_num first: clamp leaves NaN as it is.
        return scaled.nan_to_num(nan=-1.0).clamp(-1.0, 1.0)

    def baselines(self) -> dict[str, Predict]:
        """A baseline without a network: a normal distribution along the principal axes of the training images.

        There is one axis for each number of the noise; see `HasBaselines`.
        """
        (name, noise), port = next(iter(self.data.inputs.items())), self.answers[0]
        pictures = self.real("train")
        shape = pictures.shape[1:]
        rows = pictures[_spread(len(pictures), min(len(pictures), FITTED))].reshape(-1, math.prod(shape))
        mean = rows.mean(axis=0, dtype=np.float64)
        _, scales, axes = np.linalg.svd(rows - mean, full_matrices=False)
        # Singular values over √(n − 1) are the deviations along the axes; the largest come first.
        steps = (scales[:, None] * axes / math.sqrt(len(rows) - 1))[: noise.shape[1]]

        def drawn(inputs: Arrays) -> Arrays:
            answers = mean + inputs[name][:, : len(steps)] @ steps
            return {port.name: answers.reshape(-1, *shape).astype(np.float32)}

        return {"a normal distribution": drawn}

    def _floor(self, split: Split) -> float:
        """Fréchet distance of as many real images of train to those of the split: what a perfect generator reaches."""
        real, train = self._features(split), self._features("train")
        floor: float = self.goal.value(potentials(train[_spread(len(train), len(real))], real))
        return floor

    def pack(self) -> tuple[dict[str, JSON], Arrays]:
        """The task as plain data; see `Task.pack`."""
        words, arrays = self.data.pack()
        if self.classes is not None:
            arrays["classes"] = self.classes
        learned = {f"perception.{name}": value.numpy() for name, value in self.perception.state_dict().items()}
        return {**words, "module": self.module}, arrays | learned


def _spread(n: int, wanted: int) -> np.ndarray:
    """Evenly spread indices: `wanted` of n."""
    return np.linspace(0, n - 1, wanted).astype(int)


_PERCEPTIONS: dict[str, Perception] = {}
"""By fingerprint: the features of one data set take seconds to learn."""


def unpack(config: Mapping[str, JSON], arrays: Arrays) -> GenerationTask:
    """The inverse of `GenerationTask.pack`."""
    return GenerationTask(*unpacked(config, arrays))


def unpacked(config: Mapping[str, JSON], arrays: Arrays) -> tuple[Dataset, np.ndarray | None, Arrays]:
    """Data, classes and feature weights from what `GenerationTask.pack` gave."""
    learned = {name.removeprefix("perception."): v for name, v in arrays.items() if name.startswith("perception.")}
    kept = {name: v for name, v in arrays.items() if not name.startswith("perception.") and name != "classes"}
    return Dataset.unpack(config, kept), arrays.get("classes"), learned


def classes_of(found: RawDataset) -> np.ndarray | None:
    """Classes of the images if the target holds a few; None otherwise. Generation needs none."""
    if found.target is None or guess_kind(found) != "classification":
        return None
    # read_classes refuses a single class, and more classes than half as many as rows; here there are then none.
    if not 2 <= len(np.unique(found.target)) <= len(found.target) // 2:
        return None
    return read_classes(found, "classification").target


def generation(found: RawDataset, source: Source) -> GenerationTask:
    """Make a generation task from images.

    Raises:
        BadInput: The images cannot be used.
    """
    inputs = arranged(found, source)[1]
    if list(inputs) != ["image"]:
        raise BadInput(f"{found.where} holds no pictures, which is what is drawn; --problem generation takes images.")
    pictures = inputs["image"]
    classes = classes_of(found)
    rows = split_rows(len(found.x), classes, given=found.given, seed=source.split_seed)
    require_rows(rows, found)
    if classes is not None and len(np.unique(classes[rows["train"]])) < 2:
        classes = None
    sides = pictures.shape[2:] if channel_order(pictures.shape[1:]) == "CHW" else pictures.shape[1:3]
    size = int(np.clip(np.prod(sides) // 4, *NOISE))
    data = Dataset(
        name=found.name,
        modality="noise",
        kind="generation",
        inputs={"noise": draw_noise(rows, len(pictures), size, seed=source.split_seed)},
        target=pictures,
        rows=rows,
        where=found.where,
        split_seed=source.split_seed,
    )
    return GenerationTask(data, classes)


PROBLEMS = {
    "generation": ProblemSpec(
        generate_image,
        ProblemInfo(
            description="new pictures like those of the data, made of noise",
            predicts="pictures like those of train, made of noise",
        ),
        GENERATION,
        whole=generation,
    ),
}


def load(source: Source) -> Task:
    """Load the packaged task `digits-generation`."""
    found = digits("digits-generation")
    return make_task(replace(found, kind="generation"), source)
