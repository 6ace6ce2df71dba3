"""From what was found to a task: guess the modality and the kind, check, split. Every refusal is one sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from searchkit.types import BadInput

from .data import Data, Found
from .source import UNLABELLED, Source
from .splits import quantile_strata, split_rows

if TYPE_CHECKING:
    from .arrays import ArrayTask

MIN_ROWS = 10
MAX_GUESSED_CLASSES = 20  # distinct whole numbers in a column of a table, above which it is a quantity


def make_task(found: Found, source: Source) -> ArrayTask:
    """Raises BadInput."""
    from .anomaly import AnomalyTask, separate
    from .arrays import ArrayTask, maker_of, modality_named
    from .denoising import DenoisingTask, with_noise
    from .language import LanguageTask

    kind = source.kind or found.kind
    if "forecasting" in (source.kind, found.kind):
        from .forecasting import make_forecast

        return make_forecast(found, source)
    if source.horizon is not None:
        raise BadInput(
            f"--horizon {source.horizon} is for a series to be continued, and {found.where} is none; leave it out."
        )
    if len(found.x) < MIN_ROWS:
        raise BadInput(
            f"{found.where} has {_rows(len(found.x))}; at least {MIN_ROWS} are needed for train, val and test."
        )
    name = choose_modality(found, source)
    words = [column.name for column in found.columns if column.kind == "categorical"]
    if name != "tabular" and words:
        raise BadInput(f"Column '{words[0]}' of {found.where} holds words, which {name} data cannot; use tabular.")
    if found.tokenizer is not None and name != "tokens":
        raise BadInput(f"{found.where} is text, whose modality is tokens, not {name}; leave out --modality.")
    inputs = modality_named(name).arrange(found)
    kind = kind or guess_kind(found)
    if (make := maker_of(kind)) is not None:
        return make(found, inputs, source)
    target, labels = read_target(found, kind)
    strata = target if kind in ("classification", "anomaly") else None
    if kind == "regression" and target is not None:
        strata = quantile_strata(target[:, 0])
    rows = split_rows(len(found.x), strata, given=found.given, seed=source.split_seed)
    if kind == "anomaly" and target is not None:
        target, labels, rows = separate(target, labels, rows, found, source)
    require_rows(rows, found)
    if kind == "classification" and target is not None:
        _require_classes(target, labels, rows, found)
    made = {"anomaly": AnomalyTask, "denoising": DenoisingTask, "language": LanguageTask}
    data = Data(
        name=found.name,
        modality=name,
        kind=kind,
        inputs=inputs,
        target=target,
        rows=rows,
        where=found.where,
        labels=labels,
        targets=found.targets,
        columns=found.columns if name == "tabular" else (),
        split_seed=source.split_seed,
        rate=found.rate,
        tokenizer=found.tokenizer,
    )
    return made.get(kind, ArrayTask)(with_noise(data, source.noise) if kind == "denoising" else data)


def require_rows(rows: dict[str, np.ndarray], found: Found) -> None:
    """Raises BadInput where a split is empty, or nothing is left to train on."""
    for split, chosen in rows.items():
        if len(chosen) == 0:
            raise BadInput(f"The {split} split of {found.where} would be empty; give more rows, several of each class.")
    if len(rows["train"]) < 2:
        raise BadInput(f"{found.where} leaves {_rows(len(rows['train']))} to train on; at least 2 are needed.")


def choose_modality(found: Found, source: Source) -> str:
    """As the user said, else as the source is known to be, else by the shape; with the features that were asked for."""
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


def guess_modality(found: Found) -> str:
    """By the number of axes: 2 tabular, 3 a grey picture where uint8 and a series otherwise, 4 a picture, 5 voxels.
    Voxels of one channel have 4 axes too, and are so by request."""
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


def guess_kind(found: Found) -> str:
    target = found.target
    if target is None:
        return "reconstruction"
    if target.ndim == 2 and target.shape[1] > 1:
        return "multilabel" if _is_binary(target) else "regression"
    if target.dtype.kind == "f":
        return "regression"
    if found.columns and target.dtype.kind in "iu" and len(np.unique(target)) > MAX_GUESSED_CLASSES:
        return "regression"
    return "classification"


def read_target(found: Found, kind: str) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Targets as Data stores them, and the class names. Raises BadInput where they do not suit the kind."""
    target, where = found.target, found.where
    if kind in UNLABELLED:
        return None, ()
    if kind == "language" and found.tokenizer is None:
        raise BadInput(f"{where} is no text, which language needs; give a text file, or leave out --kind.")
    if target is None:
        raise BadInput(f"{where} has no target, which {kind} needs; add y, or ask for --kind reconstruction.")
    if len(target) != len(found.x):
        raise BadInput(
            f"{where} has {len(found.x)} examples and {len(target)} targets; give one target for each example."
        )
    if target.ndim > 2:
        raise BadInput(f"The target of {where} has shape {target.shape}; it must be (n,) or (n, n_targets).")
    if target.dtype.kind == "f" and not np.isfinite(target).all():
        bad = np.flatnonzero(~np.isfinite(target).reshape(len(target), -1).all(axis=1))
        raise BadInput(
            f"The target of {where} is not a finite number in {_rows(len(bad))}, the first of them row {bad[0]}; "
            "remove those rows or fill in the value."
        )
    if kind == "language":
        return target.astype(np.int64), ()
    if kind == "regression":
        return _read_values(found, target), ()
    if kind == "multilabel":
        return _read_multilabel(found, target)
    return _read_classes(found, target)


def _read_values(found: Found, target: np.ndarray) -> np.ndarray:
    if target.dtype.kind not in "biuf":
        word = next(str(value) for value in target.reshape(-1) if not _is_number(value))
        raise BadInput(
            f"The target of {found.where} holds the text '{word}', and regression needs numbers; "
            "choose another target or --kind classification."
        )
    with np.errstate(over="ignore"):
        values = target.reshape(len(target), -1).astype(np.float32)
    if not np.isfinite(values).all():
        raise BadInput(
            f"The target of {found.where} holds {np.abs(target).max():g}, too large for float32; choose a smaller unit."
        )
    if (values == values[0]).all():
        raise BadInput(f"The target of {found.where} is {values[0, 0]:g} in every row; there is nothing to learn.")
    return values


def _read_multilabel(found: Found, target: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    if target.ndim != 2 or not _is_binary(target):
        raise BadInput(
            f"The target of {found.where} has shape {target.shape} and type {target.dtype}; multilabel needs (n, "
            "n_labels) of 0 and 1."
        )
    return target.astype(np.float32), found.labels or tuple(str(k) for k in range(target.shape[1]))


def _read_classes(found: Found, target: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    if target.ndim == 2 and target.shape[1] > 1:
        if not _is_binary(target) or not (target.sum(axis=1) == 1).all():
            raise BadInput(
                f"The target of {found.where} has shape {target.shape}; classification needs (n,) class values, or "
                "one-hot rows."
            )
        target = target.argmax(axis=1)
    target = target.reshape(-1)
    if target.dtype.kind == "f" and (target != np.round(target)).any():
        value = target[target != np.round(target)][0]
        raise BadInput(f"The target of {found.where} holds {value:g}, which is no class; choose --kind regression.")
    if target.dtype.kind == "f":
        target = target.astype(np.int64)
    if target.dtype.kind == "S":
        target = np.char.decode(target, "utf-8", "replace")
    classes, codes = np.unique(target, return_inverse=True)
    if len(classes) < 2:
        raise BadInput(
            f"The target of {found.where} has one class, '{classes[0]}', in every row; at least 2 are needed."
        )
    if len(classes) > max(2, len(target) // 2):
        raise BadInput(
            f"The target of {found.where} has {len(classes)} different values in {_rows(len(target))}, too many for "
            "classes; "
            "choose another target, or --kind regression where it is a quantity."
        )
    if found.labels:
        return target.astype(np.int64), found.labels
    return codes.astype(np.int64), tuple(str(value) for value in classes)


def _require_classes(target: np.ndarray, labels: tuple[str, ...], rows: dict[str, np.ndarray], found: Found) -> None:
    trained = np.unique(target[rows["train"]])
    for split in ("val", "test"):
        absent = np.setdiff1d(target[rows[split]], trained)
        if len(absent):
            known = ", ".join(labels[k] for k in trained[:10])
            raise BadInput(
                f"Class '{labels[absent[0]]}' of {found.where} is in {split} and not in train (train has {known}); "
                "add examples of it to train or remove it."
            )
    if len(trained) < 2:
        raise BadInput(
            f"The train split of {found.where} has one class, '{labels[trained[0]]}'; at least 2 are needed."
        )


def _is_binary(target: np.ndarray) -> bool:
    return target.dtype.kind in "biuf" and bool(np.isin(target, (0, 1)).all())


def _is_number(value: object) -> bool:
    try:
        float(str(value))
    except ValueError:
        return False
    return True


def _rows(n: int) -> str:
    return "1 row" if n == 1 else f"{n:,} rows"
