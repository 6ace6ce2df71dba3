"""Image-to-image translation without pairs: images of one set in the style of another.

Zhu et al. 2017, arXiv:1703.10593.

The input is an image of the first set; the output should be one of the second. No output has a known target: as for a
generator, all outputs together are compared with the second set's images of the same split. How much of each input is
left in its output is reported beside it. The network from the first set to the second is searched, compressed and
shipped; the inverse and both critics belong to the training (`cycle`). Not to be confused with the translation of
texts.

Both sets lie in the same array, one after the other. The rows of a split are those of the first set; those of the
second are splits of their own (`OF_SECOND`), so that the first set alone is counted, given and scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from searchkit.core.data_spec import Arrays, Split, TensorSpec
from searchkit.core.errors import BadInput
from searchkit.core.goal import Evaluation, Predict
from searchkit.core.serialization import JSON, derive_seed
from searchkit.core.task import Task
from searchkit.core.training import Batch, FitPlan, Training
from searchkit.data.dataset import Dataset, RawDataset
from searchkit.data.problems import ProblemInfo
from searchkit.data.source import Source
from searchkit.data.splits import split_rows
from searchkit.tasks.arrays import ArrayTask
from searchkit.tasks.gan.adversary import RealSource
from searchkit.tasks.gan.cycle import Cycle
from searchkit.tasks.gan.generation import GenerateImage, GenerationTask, bounds, unpacked
from searchkit.tasks.metrics import squared_distances
from searchkit.tasks.modalities.image import digits
from searchkit.tasks.predictions import GENERATION
from searchkit.tasks.prepare import arranged, make_task, require_rows
from searchkit.tasks.protocols import Modality, ProblemSpec

EMBEDDED = {"digits-restyling": "redraw 8x8 digits in another style: bold, dark on light paper (scikit-learn, halves)"}

OF_SECOND: dict[str, str] = {split: f"{split} of the second set" for split in ("train", "val", "test")}

COMPARED = 1000
"""Examples at most whose distances to each other are compared: their cost grows with the square."""


@dataclass(frozen=True, eq=False)
class TranslateImage(GenerateImage):
    """The problem of translating an image into the second set.

    Attributes:
        raw: The port of an image as both sets store it.
    """

    @property
    def answers(self) -> TensorSpec:
        """Exported output: an image on the raw scale."""
        return TensorSpec("restyled", self.raw.shape)


def translate_image(
    data: Dataset, modality: Modality, preprocessor: nn.Module, spec_input: TensorSpec
) -> TranslateImage:
    """Make the problem from the images of the second set."""
    second = data.inputs["image"][data.rows[OF_SECOND["train"]]]
    return TranslateImage(TensorSpec("image", second.shape[1:]), bounds(second, data.where))


class ImageTranslationTask(GenerationTask):
    """The task of translating images between two unpaired sets.

    Args:
        classes: (n,) int64 classes of the images of both sets, if they show things of the same kinds; else None.
    """

    module = "image_translation"

    def __init__(self, data: Dataset, classes: np.ndarray | None, learned: Arrays | None = None) -> None:
        super().__init__(data, classes, learned)
        self._seconds: dict[tuple[str, str], Tensor] = {}

    def real_rows(self, split: Split) -> np.ndarray:
        """Rows of the second set's images of the split."""
        return self.data.rows[OF_SECOND[split]]

    def real(self, split: Split) -> np.ndarray:
        """The second set's images of the split as stored, (n, …)."""
        return np.asarray(self.data.inputs["image"][self.real_rows(split)])

    def splits(self) -> Arrays:
        """Rows of the first set by split; those of the second follow from the same seed."""
        return {split: self.data.rows[split] for split in OF_SECOND}

    def _train(self, training: Training, seed: int, device: str) -> Iterator[Batch]:
        """Training batches, each with as many images of the second set, drawn anew."""
        # A seed apart from that of the first set's order, so that the two draws are independent.
        generator = torch.Generator(device).manual_seed(derive_seed("second", seed))
        second = self._second("train", device)
        for batch in super()._train(training, seed, device):
            rows = torch.randint(len(second), (len(batch.target),), generator=generator, device=device)
            yield Batch(batch.inputs, self._kind.encode_soft(second[rows], 0.0))

    def _val(self, training: Training, device: str) -> Iterator[Batch]:
        second = torch.split(self._second("val", device), training.batch_size)
        # `by_set` leaves as many images of either set in val, so the batches are equally long.
        for batch, rows in zip(super()._val(training, device), second, strict=True):
            yield Batch(batch.inputs, self._kind.encode_soft(rows, 0.0))

    def _augment(
        self, inputs: tuple[Tensor, ...], names: tuple[str, ...], generator: torch.Generator
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Augment images; unlike noise, they are not drawn anew."""
        return ArrayTask._augment(self, inputs, names, generator)

    def _second(self, split: Split, device: str) -> Tensor:
        """The second set's images on the device, (n, …), as stored."""
        if (split, device) not in self._seconds:
            self._seconds[split, device] = torch.from_numpy(self.real(split)).to(device)
        return self._seconds[split, device]

    def _adversary(self, plan: FitPlan) -> Cycle:
        first = torch.from_numpy(self.raw("train")["image"]).to(plan.device)
        second = self._second("train", plan.device)

        def taken(pictures: Tensor, n: int) -> Tensor:
            return pictures[torch.randint(len(pictures), (n,), device=plan.device)]

        def seen(raw: Tensor) -> Tensor:
            return self._scale((raw,))[0]

        def drawn(raw: Tensor) -> Tensor:
            return self._kind.encode_soft(raw, 0.0)

        there = RealSource(second, drawn, lambda n: seen(taken(first, n)))
        here = RealSource(first, seen, lambda n: drawn(taken(second, n)))
        return Cycle(plan.training, there, here, seed=derive_seed(plan.seed, "cycle"))

    def evaluate(self, predict: Predict, split: Split) -> Evaluation:
        """Score a translator, with two more metrics.

        kept_distances is the correlation of the distances between outputs with those between inputs, from -1 to 1; an
        inverse needs it high (Benaim & Wolf 2017, arXiv:1706.00826). same_class is the share of outputs that the
        feature network puts in their input's class.
        """
        found = super().evaluate(predict, split)
        shown = self.shown(found.decisions)
        metrics = {**found.metrics, "kept_distances": kept_distances(self.raw(split)["image"], shown.numpy())}
        if self.classes is not None:
            with torch.no_grad():
                told = self.perception.classify(shown).argmax(1).numpy()
            metrics["same_class"] = float(np.mean(told == self.classes[self.data.rows[split]]))
        return replace(found, metrics=metrics)

    def baselines(self) -> dict[str, Predict]:
        """A baseline without a network: the input image, unchanged; see `HasBaselines`."""
        return {"unchanged": lambda inputs: {"restyled": inputs["image"].astype(np.float32)}}


def unpack(config: Mapping[str, JSON], arrays: Arrays) -> ImageTranslationTask:
    """The inverse of `ImageTranslationTask.pack`."""
    return ImageTranslationTask(*unpacked(config, arrays))


def kept_distances(inputs: np.ndarray, answers: np.ndarray) -> float:
    """Pearson correlation of the distances between rows of (n, …) inputs and outputs; 0 if either are all alike."""
    chosen = np.unique(np.linspace(0, len(inputs) - 1, min(COMPARED, len(inputs))).astype(int))
    upper = np.triu_indices(len(chosen), 1)
    of_inputs, of_answers = (
        np.sqrt(squared_distances(rows, rows))[upper]
        for rows in (x[chosen].reshape(len(chosen), -1) for x in (inputs, answers))
    )
    # corrcoef divides by both deviations, and warns if one of them is 0.
    if len(upper[0]) < 2 or np.ptp(of_inputs) < 1e-9 or np.ptp(of_answers) < 1e-9:
        return 0.0
    return float(np.corrcoef(of_inputs, of_answers)[0, 1])


# ── Two sets of pictures ─────────────────────────────────────────────────────────────────────────────────────────────


def image_translation(found: RawDataset, source: Source) -> ImageTranslationTask:
    """Make a task from two sets, told apart by the target, in the order of its values.

    Raises:
        BadInput: There are not two sets, or they differ in shape.
    """
    inputs = arranged(found, source)[1]
    if list(inputs) != ["image"]:
        raise BadInput(
            f"{found.where} holds no pictures, which is what is restyled; --problem image-translation takes images."
        )
    sets = np.unique(found.target) if found.target is not None and found.target.ndim == 1 else np.empty(0)
    if len(sets) != 2:
        held = "1 set" if len(sets) < 2 else f"{len(sets)} sets"
        raise BadInput(
            f"{found.where} holds {held} of pictures, and restyling goes from one to another; give an "
            "archive with a and b, or a folder with two subfolders of images, a and b."
        )
    is_second = found.target == sets[1]
    # Stratified by set, so that each split has images of both.
    rows = split_rows(len(found.x), is_second.astype(np.int64), given=found.given, seed=source.split_seed)
    rows = by_set(rows, is_second, is_given={split: split in found.given for split in rows})
    require_rows(rows, found)
    if len(rows[OF_SECOND["train"]]) < 2:
        raise BadInput(f"{found.where} leaves 1 picture of the second set to train on; at least 2 are needed.")
    data = Dataset(
        name=found.name,
        modality="image",
        kind="restyling",
        inputs=inputs,
        target=None,
        rows=rows,
        where=found.where,
        split_seed=source.split_seed,
    )
    return ImageTranslationTask(data, found.more.get("classes"))


PROBLEMS = {
    "restyling": ProblemSpec(
        translate_image,
        ProblemInfo(
            description="the picture as one of a second set, learnt from unpaired pictures",
            predicts="the picture as one of the second set",
            shown="image-translation",
        ),
        GENERATION,
        whole=image_translation,
    ),
}


def by_set(
    rows: Mapping[str, np.ndarray], is_second: np.ndarray, *, is_given: Mapping[str, bool]
) -> dict[str, np.ndarray]:
    """Rows of a split by set.

    val and test hold as many of one set as of the other, evenly taken, because they are compared. The surplus is
    trained on, or left out if the source gives the split.
    """
    first, second = rows["train"][~is_second[rows["train"]]], rows["train"][is_second[rows["train"]]]
    made: dict[str, np.ndarray] = {}
    for split in ("val", "test"):
        own = {split: rows[split][~is_second[rows[split]]], OF_SECOND[split]: rows[split][is_second[rows[split]]]}
        n = min(map(len, own.values()))
        for name, chosen in own.items():
            made[name] = chosen[np.linspace(0, len(chosen) - 1, n).astype(int)] if n else chosen[:0]
        if not is_given[split]:
            first = np.union1d(first, np.setdiff1d(own[split], made[split]))
            second = np.union1d(second, np.setdiff1d(own[OF_SECOND[split]], made[OF_SECOND[split]]))
    made |= {"train": first, OF_SECOND["train"]: second}
    return {name: made[name] for name in (*OF_SECOND, *OF_SECOND.values())}


# ── The embedded sets ────────────────────────────────────────────────────────────────────────────────────────────────


def load(source: Source) -> Task:
    """Load the packaged task `digits-restyling`: every second digit as it is, the others as `bold` draws them.

    No digit is in both sets.
    """
    found = digits("digits-restyling")
    pictures, classes = found.x, found.target
    assert classes is not None
    x = np.concatenate([pictures[::2], bold(pictures[1::2])])
    target = np.arange(len(x)) >= len(pictures[::2])
    shown = np.concatenate([classes[::2], classes[1::2]])
    made = replace(found, x=x, target=target.astype(np.int64), kind="restyling", more={"classes": shown})
    return make_task(made, source)


def bold(pictures: np.ndarray) -> np.ndarray:
    """Turn thin, light digits on dark into bold, dark ones on light: (n, H, W) uint8 from 0 to 16.

    Each value spreads to its four neighbors by at most 0.7 of it.
    """
    padded = np.pad(pictures.astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    around = np.stack([padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]]).max(0)
    return np.asarray(16.0 - np.maximum(pictures, 0.7 * around)).round().astype(np.uint8)
