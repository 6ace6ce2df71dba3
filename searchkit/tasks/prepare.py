"""From what was found to a task: guess the modality and the problem, check, split. Each refusal is one sentence."""

from __future__ import annotations

import numpy as np

from searchkit.core.data_spec import Arrays
from searchkit.core.errors import BadInput
from searchkit.core.task import Task
from searchkit.data.dataset import Dataset, RawDataset
from searchkit.data.sizes import MIN_ROWS
from searchkit.data.source import Source
from searchkit.data.splits import split_rows
from searchkit.data.targets import count_rows
from searchkit.tasks.registry import modality_named, problem_named, problem_specs, task_class


def make_task(found: RawDataset, source: Source) -> Task:
    """Make the task of what was found, as the user asked for it.

    Raises:
        BadInput: it cannot be used for that.
    """
    kind = source.kind or found.kind
    source.require_suits(kind, found.where)
    # Before the inputs are arranged: such a problem arranges and splits them itself.
    if kind is not None and (whole := problem_named(kind).whole) is not None:
        return whole(found, source)
    name, inputs = arranged(found, source)
    kind = kind or guess_kind(found)
    offer = problem_named(kind)
    truth = offer.read(found, kind)
    data = Dataset(
        name=found.name,
        modality=name,
        kind=kind,
        inputs=inputs,
        target=truth.target,
        rows=split_rows(len(found.x), truth.strata, given=found.given, seed=source.split_seed),
        where=found.where,
        labels=truth.labels,
        targets=found.targets,
        columns=found.columns if name == "tabular" else (),
        split_seed=source.split_seed,
        rate=found.rate,
        tokenizer=found.tokenizer,
    )
    # Before the problem arranges the data and the task is made: both may take statistics of the train rows.
    require_rows(data.rows, found)
    return task_class(data)(offer.arrange(data, found, source))


def arranged(found: RawDataset, source: Source) -> tuple[str, Arrays]:
    """Choose the modality, and lay the inputs out as it does.

    Returns:
        The modality's name, and the inputs by port name.

    Raises:
        BadInput: there are too few examples, or they do not suit the modality.
    """
    if len(found.x) < MIN_ROWS:
        raise BadInput(
            f"{found.where} has {count_rows(len(found.x))}; at least {MIN_ROWS} are needed for train, val and test."
        )
    name = choose_modality(found, source)
    words = [column.name for column in found.columns if column.kind == "categorical"]
    if name != "tabular" and words:
        raise BadInput(f"Column '{words[0]}' of {found.where} holds words, which {name} data cannot; use tabular.")
    if found.tokenizer is not None and name != "tokens":
        raise BadInput(f"{found.where} is text, whose modality is tokens, not {name}; leave out --modality.")
    return name, modality_named(name).arrange(found)


def require_rows(rows: dict[str, np.ndarray], found: RawDataset) -> None:
    """Check that no split is empty and two rows are left to train on.

    Raises:
        BadInput: they are not.
    """
    for split, chosen in rows.items():
        if len(chosen) == 0:
            raise BadInput(f"The {split} split of {found.where} would be empty; give more rows, several of each class.")
    if len(rows["train"]) < 2:
        raise BadInput(f"{found.where} leaves {count_rows(len(rows['train']))} to train on; at least 2 are needed.")


def choose_modality(found: RawDataset, source: Source) -> str:
    """Take the modality that the user names, else that of the source, else that of the shape.

    Raises:
        BadInput: the features that were asked for do not go with it.
    """
    name = source.modality or found.modality or guess_modality(found)
    if source.features in (None, "raw"):
        if found.rate and name != "series":
            raise BadInput(
                f"{found.where} holds sounds, which are series; --modality {name} is not for their raw samples"
                + ("; add --features logmel." if name == "image" else ", so leave it out.")
            )
        return name
    if not found.rate or name not in ("series", "image"):
        what = f"taken for {name}" if found.rate else "no sounds"
        raise BadInput(
            f"--features {source.features} is for sounds, as series or image, and {found.where} is {what}; leave it "
            "out."
        )
    return f"{source.features} {name}"


def guess_modality(found: RawDataset) -> str:
    """Tell the modality by the number of axes.

    2 are a table, 3 a gray picture if uint8 and a series otherwise, 4 a picture, 5 voxels. Voxels of one channel have
    4 axes too, and have to be asked for.

    Raises:
        BadInput: there are fewer axes, or more.
    """
    axes = found.x.ndim
    if axes == 2:
        return "tabular"
    if axes == 3:
        return "image" if found.x.dtype == np.uint8 else "series"
    if axes == 4:
        return "image"
    if axes == 5:
        return "voxels"
    raise BadInput(
        f"x of {found.where} has shape {found.x.shape}; it must be (n, features), (n, H, W), (n, channels, length), "
        "(n, C, H, W) or (n, H, W, C), or with (C, D, H, W) or (D, H, W, C) for voxels."
    )


def guess_kind(found: RawDataset) -> str:
    """Name the first problem, by priority, that recognizes the data as its own."""
    asked = sorted(problem_specs().items(), key=lambda item: item[1].priority)
    # One always does: reconstruction takes data without a target, and classification, asked last, any target.
    return next(name for name, spec in asked if spec.recognizes is not None and spec.recognizes(found))
