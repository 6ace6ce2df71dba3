"""Bad sources get one sentence each: an unknown task, path or format, and anomalies and noise that cannot be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_data import Case, Source, X, Y, archive, check_refused, registered_in, rows, table

from searchkit.core.errors import BadInput
from searchkit.tasks import registry

CASES: list[Any] = []
refused = registered_in(CASES)


# ── Anomalies and noise ──────────────────────────────────────────────────────────────────────────────────────────────


@refused("--anomaly '10' is no class of the task 'digits-anomaly'; its classes are 0, 1, 2", "Did you mean '1'")
def anomaly_of_no_class(folder: Path) -> Source:
    return {"task": "digits-anomaly", "anomaly": "10"}


@refused("--anomaly 'a, b' holds out every class of", "name fewer")
def anomaly_of_all_classes(folder: Path) -> Source:
    return {**archive(folder, x=X, y=np.array(["a", "b"])[Y]), "anomaly": "a, b"}


@refused("has no target, which anomaly needs", "add y")
def anomaly_without_labels(folder: Path) -> Source:
    return {**archive(folder, x=X), "anomaly": "1"}


@refused("--problem anomaly needs the class, or classes, to hold out", "--anomaly LABEL, of 0, 1")
def anomaly_without_a_class(folder: Path) -> Source:
    return {**archive(folder, x=X, y=Y), "kind": "anomaly"}


@refused("--anomaly 1 is for --problem anomaly, not for classification", "leave one of them out")
def anomaly_of_another_kind(folder: Path) -> Source:
    return {**archive(folder, x=X, y=Y), "anomaly": "1", "kind": "classification"}


@refused("has 1 of class '1' and none for test", "at least one for val and one for test")
def anomaly_of_a_single_example(folder: Path) -> Source:
    return {**archive(folder, x=X, y=(np.arange(40) == 7).astype(int)), "anomaly": "1"}


@refused("The target of '.*' holds 0.5, which is no class")
def anomaly_of_a_quantity(folder: Path) -> Source:
    return {**archive(folder, x=X, y=np.arange(40) + 0.5), "anomaly": "1"}


@refused("--noise 'snow:1' is no noise", "gaussian:LEVEL", "such as gaussian:0.5")
def noise_of_no_kind(folder: Path) -> Source:
    return {**archive(folder, x=X), "noise": "snow:1"}


@refused("--noise 'mask:1.5' is no noise", "mask:SHARE, of the values that are lost, above 0 and below 1")
def noise_that_masks_more_than_all(folder: Path) -> Source:
    return {**archive(folder, x=X), "noise": "mask:1.5"}


@refused("--noise 'gaussian:0.5' is for --problem denoising, not for reconstruction")
def noise_of_another_kind(folder: Path) -> Source:
    return {**archive(folder, x=X), "noise": "gaussian:0.5", "kind": "reconstruction"}


@refused("has categories or missing values, which cannot be reconstructed")
def noise_on_categories(folder: Path) -> Source:
    source = table(folder, ["x,c", *(f"{k},{'ab'[k % 2]}" for k in range(30))], noise="gaussian:0.5")
    return {name: value for name, value in source.items() if name != "target"}


@refused("A denoising has no target, and --target 'y' was given")
def noise_with_a_target(folder: Path) -> Source:
    return table(folder, rows(), noise="gaussian:0.5")


# ── The source ───────────────────────────────────────────────────────────────────────────────────────────────────────


@refused("No task named 'digit'", "did you mean 'digits'", "`searchkit tasks` lists all")
def unknown_task(folder: Path) -> Source:
    return {"task": "digit"}


@refused("from a task or from a path", "neither", "--data PATH")
def no_data_at_all(folder: Path) -> Source:
    return {}


@refused("--task 'digits' and --data '.*' exclude one another", "not both")
def task_and_data(folder: Path) -> Source:
    return {"task": "digits", "data": str(folder)}


@refused("no field 'tagret'", "target")
def unknown_key(folder: Path) -> Source:
    return {"data": str(folder), "tagret": "y"}


@refused("--modality 'video' is unknown", "tabular, image, series, tokens, voxels or graph")
def unknown_modality(folder: Path) -> Source:
    return archive(folder, x=X, y=Y) | {"modality": "video"}


@refused("--problem 'ranking' is unknown", "anomaly, classification, denoising, exact-seq2seq, forecasting")
def unknown_kind(folder: Path) -> Source:
    return archive(folder, x=X, y=Y) | {"kind": "ranking"}


@refused("task 'iris' brings its own target; leave out --target\\.")
def target_of_a_task(folder: Path) -> Source:
    return {"task": "iris", "target": "species"}


@refused("no file or folder", "nowhere.csv", r"\.csv, \.parquet.*subfolder per class")
def missing_file(folder: Path) -> Source:
    return {"data": str(folder / "nowhere.csv"), "target": "y"}


@refused("t.csv' is empty")
def empty_file(folder: Path) -> Source:
    (folder / "t.csv").touch()
    return {"data": str(folder / "t.csv"), "target": "y"}


@refused("model.pkl", "no reader knows", r"\.npz")
def unknown_format(folder: Path) -> Source:
    (folder / "model.pkl").write_bytes(b"x")
    return {"data": str(folder / "model.pkl")}


@refused("--target 'y' is for tables", "a.npz")
def target_of_an_archive(folder: Path) -> Source:
    return archive(folder, x=X, y=Y) | {"target": "y"}


# ── The test ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("case", "words"), CASES)
def test_bad_data_get_one_clear_sentence(tmp_path: Path, case: Case, words: tuple[str, ...]) -> None:
    check_refused(case(tmp_path), words)


def test_an_unknown_module_in_a_stored_task_is_refused() -> None:
    with pytest.raises(BadInput, match="packed by 'os', which this searchkit does not have"):
        registry.unpack({"module": "os"}, {})
