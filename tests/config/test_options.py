"""Every option: what it takes, what it refuses, and in which words."""

from __future__ import annotations

from dataclasses import Field
from typing import Any

import numpy as np
import pytest

from searchkit.config import naming
from searchkit.config.compression import CompressionConfig
from searchkit.config.limits import BudgetConfig, LimitsConfig
from searchkit.config.options import QUANTITIES, Option, default_of, parse
from searchkit.config.run import SECTIONS, every_option
from searchkit.config.search import SearchConfig
from searchkit.core.errors import BadInput

EVERY = every_option()
IDS = [field.name for _, field, _ in EVERY]


def test_names_are_unique_over_all_sections() -> None:
    assert len(set(IDS)) == len(IDS) and len(IDS) > 45


@pytest.mark.parametrize(("section", "field", "about"), EVERY, ids=IDS)
def test_the_example_and_the_default_are_allowed(section: str, field: Field[Any], about: Option) -> None:
    """An example that is refused teaches the wrong thing; the example is none of the default's twins."""
    assert about.example, "an option without an example"
    value = parse(about, field.name, about.example.strip("'"))
    assert value != default_of(field)
    if default_of(field) is None:
        assert about.usual, "nobody knows what happens if it is left out"
    else:
        assert parse(about, field.name, default_of(field)) == default_of(field)
    again = naming.plain_number(value)
    if about.kind not in QUANTITIES:
        assert parse(about, field.name, again) == value, "a value and its text are the same"


@pytest.mark.parametrize(("section", "field", "about"), EVERY, ids=IDS)
@pytest.mark.parametrize("wrong", [True, [1], {"a": 1}, 1.5j], ids=str)
def test_a_value_of_another_type_is_one_sentence(section: str, field: Field[Any], about: Option, wrong: object) -> None:
    with pytest.raises(BadInput) as refused:
        parse(about, field.name, wrong)
    sentence = str(refused.value)
    assert sentence.startswith("--" + field.name.replace("_", "-")) and sentence.endswith((".", "?"))
    assert len(sentence) <= 250


@pytest.mark.parametrize(("section", "field", "about"), EVERY, ids=IDS)
def test_a_value_of_any_length_is_a_short_sentence(section: str, field: Field[Any], about: Option) -> None:
    if about.kind in ("text", "path") and not about.allowed():
        return
    with pytest.raises(BadInput) as refused:
        parse(about, field.name, "word" * 5000)
    assert len(str(refused.value)) <= 250 and "…" in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("size", "100KB", 100_000), ("size", "1.5MiB", 1_572_864), ("size", 2048, 2048), ("size", "2048", 2048),
        ("latency", "2ms", 2.0), ("latency", "500us", 0.5), ("latency", "1s", 1000.0), ("latency", 3, 3.0),
        ("count", "50k", 50_000), ("count", "5M", 5_000_000),
        ("duration", "90s", 90.0), ("duration", "30m", 1800.0), ("duration", "2h", 7200.0), ("duration", 60, 60.0),
        ("whole", "12", 12), ("whole", 12.0, 12), ("whole", np.int64(12), 12), ("number", np.float32(0.5), 0.5),
        ("number", "0.5", 0.5), ("number", 1, 1.0),
    ],
)  # fmt: skip
def test_units(kind: str, text: object, value: float) -> None:
    found = parse(Option("A number.", kind=kind), "x", text)
    assert found == value and isinstance(found, type(value))


@pytest.mark.parametrize(
    ("about", "refused", "allowed", "says"),
    [
        (Option("N.", kind="whole", low=1), 0, 1, "at least 1"),
        (Option("N.", kind="number", low=0, above=True), 0, 0.1, "above 0"),
        (Option("N.", kind="number", low=0, high=1), 1.01, 1, "at least 0 and at most 1"),
        (Option("N.", kind="number", low=0, high=1, below=True), 1, 0.99, "at least 0 and below 1"),
        (Option("N.", kind="number"), "inf", 1e300, "finite"),
        (Option("N.", kind="number"), "nan", -1, "finite"),
        (Option("N.", kind="whole"), 1.5, 1, "not a whole number"),
        (Option("N.", kind="size", low=1), "0.5", 1, "at least 1"),
        (Option("N.", choices=("red", "blue")), "rde", "red", "choose red or blue. Did you mean 'red'?"),
        (Option("N."), "", "a", "is empty"),
    ],
    ids=str,
)
def test_bounds_and_choices(about: Option, refused: object, allowed: object, says: str) -> None:
    assert parse(about, "x", allowed) == allowed
    with pytest.raises(BadInput) as error:
        parse(about, "x", refused)
    assert says in str(error.value)


@pytest.mark.parametrize("section", SECTIONS.values(), ids=lambda s: s.__name__)
def test_defaults_make_a_section(section: type) -> None:
    assert section() == section()


def test_checks_between_options() -> None:
    for made, says in (
        (lambda: SearchConfig(executor="inline", workers=2), "--workers 2 needs processes of its own"),
        (lambda: SearchConfig(address="a:1"), "--address 'a:1' is for a Ray cluster; add --executor ray"),
        (lambda: CompressionConfig(prune_to=1), "--prune-to 1 prunes nothing"),
    ):
        with pytest.raises(BadInput) as refused:
            made()
        assert says in str(refused.value)
    assert SearchConfig(executor="inline").workers == 1 and SearchConfig().workers is None
    assert LimitsConfig(max_size="1KB").limits().size_bytes == 1000  # type: ignore[arg-type]


def test_a_raised_budget_is_never_smaller() -> None:
    own = BudgetConfig(trials=4, time_budget=60, epochs=3)
    assert own.raised(BudgetConfig(trials=9)) == BudgetConfig(trials=9, time_budget=60, epochs=3)
    assert own.raised(BudgetConfig(time_budget=90)).time_budget == 90
    assert own.raised(BudgetConfig()) == own
    for more in (BudgetConfig(trials=3), BudgetConfig(time_budget=59)):
        with pytest.raises(BadInput, match="--resume can only raise it"):
            own.raised(more)
    with pytest.raises(BadInput, match="no time budget, so it has no end"):
        BudgetConfig(trials=4).raised(BudgetConfig(time_budget=10))
