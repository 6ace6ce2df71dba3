"""Pictures of one set redrawn as those of another, where none of them has its like there: image-to-image translation
without pairs (Zhu et al. 2017, arXiv:1703.10593).

An input is a picture of the first set, the answer should be one of the second. Nobody knows the truth of a single
answer: as of a generator, all answers together are judged against the second set's pictures of the same split. What is
left of each input in its answer is told beside it. The network from the first set to the second is what is searched,
compressed and shipped; the way back and both critics are the training's own (`cycle`). Not to be confused with the
translation of texts.

Both sets lie in the same array, one after the other. The rows of a split are those of the first set; those of the
second are splits of their own (`OF_SECOND`), so that the first set alone is counted, given and answered.
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
from searchkit.data.source import Source
from searchkit.data.splits import split_rows
from searchkit.tasks.arrays import ArrayTask
from searchkit.tasks.gan.adversary import RealSource
from searchkit.tasks.gan.cycle import Cycle
from searchkit.tasks.gan.generation import GenerateImage, GenerationTask, bounds, unpacked
from searchkit.tasks.metrics import squared_distances
from searchkit.tasks.modalities.image import digits
from searchkit.tasks.prepare import arranged, make_task, require_rows
from searchkit.tasks.protocols import Modality, ProblemSpec

EMBEDDED = {"digits-restyling": "redraw 8x8 digits as others look: bold, dark on light paper (scikit-learn, halves)"}

OF_SECOND: dict[str, str] = {split: f"{split} of the second set" for split in ("train", "val", "test")}

COMPARED = 1000
"""Examples at most whose distances to each other are compared: their cost grows with the square."""


@dataclass(frozen=True, eq=False)
class TranslateImage(GenerateImage):
    """A picture of the second set. raw: the port of a picture as both sets have them."""

    @property
    def answers(self) -> TensorSpec:
        return TensorSpec("restyled", self.raw.shape)


def translate_image(
    data: Dataset, modality: Modality, preprocessor: nn.Module, spec_input: TensorSpec
) -> TranslateImage:
    second = data.inputs["image"][data.rows[OF_SECOND["train"]]]
    return TranslateImage(TensorSpec("image", second.shape[1:]), bounds(second, data.where))


class ImageTranslationTask(GenerationTask):
    """classes: of the pictures of both sets, where they show things of the same kinds; or None."""

    module = "restyling"

    def __init__(self, data: Dataset, classes: np.ndarray | None, learned: Arrays | None = None) -> None:
        super().__init__(data, classes, learned)
        self._seconds: dict[tuple[str, str], Tensor] = {}

    def real_rows(self, split: Split) -> np.ndarray:
        return self.data.rows[OF_SECOND[split]]

    def real(self, split: Split) -> np.ndarray:
        return np.asarray(self.data.inputs["image"][self.real_rows(split)])

    def splits(self) -> Arrays:
        """Of the first set; those of the second follow from the same seed."""
        return {split: self.data.rows[split] for split in OF_SECOND}

    def _train(self, training: Training, seed: int, device: str) -> Iterator[Batch]:
        """With as many pictures of the second set, drawn anew."""
        generator = torch.Generator(device).manual_seed(derive_seed("second", seed))
        second = self._second("train", device)
        for batch in super()._train(training, seed, device):
            rows = torch.randint(len(second), (len(batch.target),), generator=generator, device=device)
            yield Batch(batch.inputs, self._kind.encode_soft(second[rows], 0.0))

    def _val(self, training: Training, device: str) -> Iterator[Batch]:
        second = torch.split(self._second("val", device), training.batch_size)
        for batch, rows in zip(super()._val(training, device), second, strict=True):
            yield Batch(batch.inputs, self._kind.encode_soft(rows, 0.0))

    def _augment(
        self, inputs: tuple[Tensor, ...], names: tuple[str, ...], generator: torch.Generator
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Of pictures, which are not drawn anew as noise is."""
        return ArrayTask._augment(self, inputs, names, generator)

    def _second(self, split: Split, device: str) -> Tensor:
        """(n, …) as they are stored."""
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
        """kept_distances: how the distances between the answers go with those between their inputs, from -1 to 1, which
        a way back needs (Benaim & Wolf 2017, arXiv:1706.00826). same_class: the share of answers that are, for the
        classifier whose features these are, of their input's class.
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
        """See `HasBaselines`: the picture as it was given."""
        return {"unchanged": lambda inputs: {"restyled": inputs["image"].astype(np.float32)}}


def unpack(config: Mapping[str, JSON], arrays: Arrays) -> ImageTranslationTask:
    return ImageTranslationTask(*unpacked(config, arrays))


def kept_distances(inputs: np.ndarray, answers: np.ndarray) -> float:
    """Pearson's correlation of the distances between rows; 0 where either are all alike. (n, …) each."""
    chosen = np.unique(np.linspace(0, len(inputs) - 1, min(COMPARED, len(inputs))).astype(int))
    upper = np.triu_indices(len(chosen), 1)
    of_inputs, of_answers = (
        np.sqrt(squared_distances(rows, rows))[upper]
        for rows in (x[chosen].reshape(len(chosen), -1) for x in (inputs, answers))
    )
    if len(upper[0]) < 2 or np.ptp(of_inputs) < 1e-9 or np.ptp(of_answers) < 1e-9:
        return 0.0
    return float(np.corrcoef(of_inputs, of_answers)[0, 1])


# ── Two sets of pictures ─────────────────────────────────────────────────────────────────────────────────────────────


def image_translation(found: RawDataset, source: Source) -> ImageTranslationTask:
    """Two sets, told apart by the target, in the order of its values. Raises BadInput."""
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
            "archive with a and b, or a folder with two sub-folders of images, a and b."
        )
    is_second = found.target == sets[1]
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


PROBLEMS = {"restyling": ProblemSpec(translate_image, whole=image_translation)}


def by_set(
    rows: Mapping[str, np.ndarray], is_second: np.ndarray, *, is_given: Mapping[str, bool]
) -> dict[str, np.ndarray]:
    """The rows of a split by set. val and test have as many of the one as of the other, evenly taken, for they are
    compared; what is too many is trained on, or where the source says what they are, left out.
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
    """Every second digit as it is, the others as `bold` makes them: no digit is in both sets."""
    found = digits("digits-restyling")
    pictures, classes = found.x, found.target
    assert classes is not None
    x = np.concatenate([pictures[::2], bold(pictures[1::2])])
    target = np.arange(len(x)) >= len(pictures[::2])
    shown = np.concatenate([classes[::2], classes[1::2]])
    made = replace(found, x=x, target=target.astype(np.int64), kind="restyling", more={"classes": shown})
    return make_task(made, source)


def bold(pictures: np.ndarray) -> np.ndarray:
    """(n, H, W) uint8 from 0 to 16, thin and light on dark: bold, and dark on light. Each value spreads to its four
    neighbours, by 0.7 of it at most.
    """
    padded = np.pad(pictures.astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    around = np.stack([padded[:, :-2, 1:-1], padded[:, 2:, 1:-1], padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]]).max(0)
    return np.asarray(16.0 - np.maximum(pictures, 0.7 * around)).round().astype(np.uint8)
