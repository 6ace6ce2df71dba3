"""Prediction with a bundle's file: from data as people have them to the file's inputs, and from answers to labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from searchkit.core import batching
from searchkit.core.data_spec import Arrays
from searchkit.core.errors import BadInput
from searchkit.data import memory
from searchkit.data.dataset import Dataset, RawDataset

if TYPE_CHECKING:
    from searchkit.core.task import Task
    from searchkit.onnx.predictor import OnnxPredictor

WHERE = "the given data"


class Shipped:
    """The file of a bundle, opened once.

    Args:
        bundle: the folder of the bundle.
        load_task: gives the task that the file was trained for; called if data have to be laid out as its own were.
        stamp: tells one version of the bundle from another.
    """

    def __init__(self, bundle: Path, load_task: Callable[[], Task], stamp: int) -> None:
        self.manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        self.bundle, self.load_task, self.stamp = bundle, load_task, stamp

    @cached_property
    def predictor(self) -> OnnxPredictor:
        """The file in ONNX Runtime."""
        from searchkit.onnx.predictor import OnnxPredictor

        return OnnxPredictor(self.bundle / "model.onnx")

    @cached_property
    def data(self) -> Dataset | None:
        """The data that the file was trained on; None if its task has none as arrays."""
        found = getattr(self.load_task(), "data", None)
        return found if isinstance(found, Dataset) else None

    def answers(self, data: Any) -> Arrays:
        """The answers by name. Raises BadInput."""
        inputs = self.inputs(data)
        batching.count(self.predictor.inputs, inputs)  # raises if the inputs do not fit together
        return self.predictor(inputs)

    def predict(self, data: Any) -> np.ndarray:
        """The answers as a caller wants them. Raises BadInput."""
        from searchkit.tasks.registry import problem_named

        answers = self.answers(data)
        calibration, labels = self.manifest.get("calibration"), self.manifest["labels"]
        if calibration is not None and calibration["output"] in answers:
            return np.asarray(answers[calibration["output"]] > calibration["threshold"])
        first = next(iter(answers.values()))
        if "probabilities" not in answers or not labels or first.ndim != 2 or first.shape[1] != len(labels):
            return first
        if self.data is not None and problem_named(self.data.kind).prediction.multiple:
            return np.asarray(first > 0.5)
        return np.asarray(restored(labels)[first.argmax(axis=1)])

    def inputs(self, data: Any) -> Arrays:
        """The file's inputs by name. Raises BadInput if the data are unlike those of the training."""
        ports = {port.name: port for port in self.predictor.inputs}
        if isinstance(data, Mapping) and set(data) == set(ports):
            found = {name: np.asarray(values) for name, values in data.items()}
        else:
            found = self._arranged(memory.part_of(data, strict=False), set(ports))
        return {name: _as_type(values, ports[name].dtype, name) for name, values in found.items()}

    def _arranged(self, part: memory.Part, ports: set[str]) -> Arrays:
        """Laid out as the modality of the training data lays them out."""
        from searchkit.tasks.registry import modality_named

        trained = self.data
        if trained is None or isinstance(part, memory.Archive) or not ports <= set(trained.inputs):
            raise BadInput(f"This network takes {', '.join(sorted(ports))}; give a dictionary of these arrays.")
        x, lengths = self._values(part, trained)
        if trained.tokenizer is None and x.shape[1:] != (expected := _example_shape(trained)) and lengths is None:
            raise BadInput(f"The data have examples of shape {x.shape[1:]}, and the network was trained on {expected}.")
        found = RawDataset("data", x, None, WHERE, modality=trained.modality, lengths=lengths, rate=trained.rate)
        arranged = modality_named(trained.modality).arrange(found)
        if "lengths" in ports and "lengths" not in arranged:
            arranged["lengths"] = np.full(len(x), x.shape[-1], dtype=np.int64)
        return {name: arranged[name] for name in ports}

    def _values(self, part: memory.Part, trained: Dataset) -> tuple[np.ndarray, np.ndarray | None]:
        """The examples (n, …), and their lengths (n,) if they are padded."""
        if isinstance(part, memory.Columns):
            if trained.modality != "tabular" or not trained.columns:
                raise BadInput(f"The network was trained on {trained.modality} data, not on a table; give arrays.")
            return memory.encode_table(part, trained.columns), None
        if isinstance(part, memory.Texts):
            if trained.tokenizer is None:
                raise BadInput(f"The network was trained on {trained.modality} data, not on texts; give arrays.")
            from searchkit.data.tokenizer import Tokenizer

            tokenizer = Tokenizer(trained.tokenizer)
            rows = [np.array(tokenizer.encode(" ".join(text.split()))[: tokenizer.steps]) for text in part.texts]
            padded = np.zeros((len(rows), max(1, *map(len, rows))), dtype=np.int64)
            for into, row in zip(padded, rows, strict=True):
                into[: len(row)] = row
            # A text without any token is one step of padding, for a network cannot read no steps.
            return padded, np.array([max(1, len(row)) for row in rows])
        assert isinstance(part, memory.Examples)
        if part.x.dtype.kind in "US" or any(column.kind == "categorical" for column in trained.columns):
            raise BadInput("The network was trained on a table with words; give a table with the same columns.")
        return part.x, part.lengths


def restored(labels: list[str]) -> np.ndarray:
    """Class names as the target had them: whole numbers and truth values again, anything else as text."""
    if all(label in ("False", "True") for label in labels):
        return np.array([label == "True" for label in labels])
    try:
        numbers = [int(label) for label in labels]
    except ValueError:
        return np.array(labels)
    # "007" is a number to int(), and would not come back as it was.
    return np.array(numbers) if [str(number) for number in numbers] == labels else np.array(labels)


def _example_shape(trained: Dataset) -> tuple[int, ...]:
    """The shape of one example as it was given; a series of one channel may come without that axis."""
    return tuple(trained.inputs[trained.main].shape[1:])


def _as_type(values: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """The values in the type of the input. Raises BadInput if that would change them."""
    if values.dtype == dtype:
        return values
    if values.dtype.kind not in "biuf":
        raise BadInput(f"The input '{name}' is of type {values.dtype}; the network takes {dtype}.")
    with np.errstate(over="ignore", invalid="ignore"):
        changed = values.astype(dtype)
    # Floats may lose digits; as whole numbers nothing may change: in uint8, 300 would be 44 and 0.5 would be 0.
    if changed.dtype.kind != "f" and not np.array_equal(changed, values):
        raise BadInput(f"The input '{name}' holds values that {dtype} cannot hold; the network was trained on {dtype}.")
    return changed
