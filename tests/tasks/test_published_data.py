"""Published data sets load with their published counts and values."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from searchkit.tasks import registry
from searchkit.tasks.modalities.series import _mnist1d


def test_fashion_mnist(stored_data: Callable[[str], Path]) -> None:
    task = registry.load({"data": str(stored_data("fashion-mnist"))})
    assert task.summary()["rows"] == {"train": 51_000, "val": 9_000, "test": 10_000}
    assert len(task.labels) == 10 and task.inputs[0].dtype == "uint8"
    assert set(np.bincount(task.data.target_of("val"))) == {900}


def test_adult(stored_data: Callable[[str], Path]) -> None:
    folder = stored_data("adult")
    task = registry.load({"data": f"{folder}/adult-train.csv", "test_data": f"{folder}/adult-test.csv", "target": "-1"})
    assert sum(task.summary()["rows"].values()) == 32_561 + 16_281 and task.n_examples("test") == 16_281
    assert task.labels == ("<=50K", ">50K") and [c.kind for c in task.columns].count("numeric") == 6
    assert set(task.summary()["missing_by_column"]) == {"c1", "c6", "c13"}


def test_a_data_set_is_frozen_by_its_hash() -> None:
    """Golden: a change of these breaks every stored run that names the task."""
    fingerprints = {name: registry.load({"task": name}).fingerprint for name in ("digits", "iris")}
    assert fingerprints == {"digits": "f0fc6e1a4909607d", "iris": "7d7f758ffa40c63a"}


def test_mnist1d_is_the_published_one_and_leaves_the_global_generators_alone() -> None:
    _mnist1d.cache_clear()
    np.random.seed(7)
    expected = np.random.random(3)
    np.random.seed(7)
    task = registry.load({"task": "mnist1d"})
    assert np.array_equal(np.random.random(3), expected)
    assert task.n_examples("train") + task.n_examples("val") == 4000 and task.n_examples("test") == 1000
    first = task.data.inputs["series"][:2, 0, :3]
    published = [[-0.33200567, -0.47191037, -0.77869708], [1.96548088, 2.30021254, 2.21339278]]
    np.testing.assert_allclose(first, published, rtol=1e-5)
