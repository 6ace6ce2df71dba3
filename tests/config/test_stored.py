"""The configuration in run.json: what is written is read again, also that of the last release; damage is a sentence."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from searchkit.config import stored
from searchkit.config.limits import BudgetConfig
from searchkit.config.run import SECTIONS, RunConfig
from searchkit.core.errors import BadInput
from searchkit.core.space import Budget

ASKED = RunConfig.from_options(
    space="cnn", data="/x/t.csv", target="y", max_size="100KB", time_budget="30m", trials=3, recipe="int8", seed=7
)
WHERE = "run.json of the run 'r'"
LAST_RELEASE: dict[str, Any] = {
    "space": "mlp",
    "source": {"data": "/x/t.csv", "kind": "language", "window": 32},
    "budget": {"trials": 9, "epochs": 8, "rungs": 2, "eta": 4, "least_rung_steps": 50, "seconds": None},
    "limits": {"size_bytes": 1000, "latency_ms": 2.5, "params": 300, "macs": None},
    "wish": {
        "prune_to": 0.25, "prune_by": "macs", "importance": "l2", "max_drop": 0.01, "max_rise": 0.05, "student": 4,
        "temperature": 4.0, "teacher_weight": 0.9, "ensemble": 1,
    },
    "recipe": "distil", "sampler": "grid", "minimize": None, "seed": 5, "workers": 2, "executor": "processes",
    "address": None, "storage": None, "device": "cpu", "fixed_epochs": True,
}  # fmt: skip
FIELDS = [(name, field.name) for name, section in SECTIONS.items() for field in fields(section)]


def on_disk(config: RunConfig) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps({stored.KEY: stored.plain(config)}))
    return found


def test_what_is_written_is_read_again() -> None:
    assert stored.parse(on_disk(ASKED), WHERE) == ASKED
    resolved = RunConfig(budget=BudgetConfig(epochs=5).resolved(Budget(trials=8, epochs=9, eta=4)))
    assert resolved.budget == BudgetConfig(None, 8, 5, 3, 4, 100, True)
    assert stored.parse(on_disk(resolved), WHERE) == resolved


def test_a_run_of_the_last_release_is_read() -> None:
    config = stored.parse({stored.OLD_KEY: LAST_RELEASE}, WHERE)
    now = RunConfig.from_options(
        space="mlp", data="/x/t.csv", problem="language-modeling", window=32,
        max_size=1000, max_latency=2.5, max_params=300, prune_to=0.25, prune_by="macs", importance="l2",
        max_drop=0.01, max_rise=0.05, student=4, temperature=4, teacher_weight=0.9, ensemble=1, recipe="distill",
        sampler="grid", minimize="none", seed=5, workers=2, device="cpu",
    )  # fmt: skip
    assert config == replace(now, budget=BudgetConfig(None, 9, 8, 2, 4, 50, True))
    assert config.data.plain() == {"data": "/x/t.csv", "problem": "language-modeling", "window": 32}
    assert config.compression.recipe == "distill" and config.minimized is None and config.search.seed == 5
    assert stored.as_question(config)["limits"] == LAST_RELEASE["limits"]
    assert stored.as_question(config)["budget"] == LAST_RELEASE["budget"]
    nameless = {key: value for key, value in LAST_RELEASE.items() if key != "sampler"}
    assert stored.parse({stored.OLD_KEY: nameless}, WHERE).search.sampler == "tpe", "the default of its time"


def test_a_run_begun_before_an_option_was_there_is_read() -> None:
    for name in ("strategy", "prior", "init_from"):
        before = on_disk(ASKED)
        del before[stored.KEY]["search"][name]
        assert stored.parse(before, WHERE) == ASKED
    del before[stored.KEY]["search"]["seed"]
    with pytest.raises(BadInput, match="config.search.seed"):
        stored.parse(before, WHERE)


@pytest.mark.parametrize("wrong", [[], {}, "\x00nothing", -5, 1e999], ids=repr)
@pytest.mark.parametrize(("section", "name"), FIELDS, ids=[name for _, name in FIELDS])
def test_every_damaged_field_is_a_sentence_that_names_it(section: str, name: str, wrong: object) -> None:
    damaged = on_disk(ASKED)
    damaged[stored.KEY][section][name] = wrong
    takes_words = isinstance(wrong, (str, int)) and name in (
        "space", "address", "storage", "data", "task", "target", "test_data", "test_files", "noise", "anomaly",
        "encoding", "split", "time_column", "name", "runs", "reports", "own_sampler", "own_metric", "own_recipe",
        "prior", "init_from",
    )  # fmt: skip
    try:
        stored.parse(damaged, WHERE)
    except BadInput as refused:
        assert name in str(refused) and len(str(refused)) <= 280
        assert WHERE in str(refused) or "exclude one another" in str(refused)
    else:
        assert takes_words, "a damaged field was taken for a value"


@pytest.mark.parametrize(
    ("damaged", "says"),
    [
        ({}, "There is no 'config' in run.json of the run 'r'"),
        ({"config": 3}, "The field 'config' in run.json of the run 'r' is no object"),
        ({"question": []}, "The field 'question' in run.json of the run 'r' is no object"),
        ({"question": {"source": 3}}, "The field 'source' in run.json of the run 'r' is no object"),
        ({"config": {"serch": {}}}, "run.json of the run 'r' has no table [serch]"),
        ({"config": {"search": {"spcae": "mlp"}}}, "[search] of run.json of the run 'r' has no key 'spcae'"),
        ({"question": {"limits": {"watts": 3}}}, "[limits] of run.json of the run 'r' has no key 'watts'"),
    ],
)
def test_another_shape_is_a_sentence(damaged: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput) as refused:
        stored.parse(damaged, WHERE)
    assert says in str(refused.value)
