"""Which value counts: a flag before the environment, before a file, before the default; and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import Field
from pathlib import Path
from typing import Any

import pytest

from searchkit.config import document, naming, sources
from searchkit.config.options import Option, default_of, parse
from searchkit.config.run import SECTIONS, RunConfig, every_option
from searchkit.core.errors import BadInput

EVERY = every_option()
IDS = [field.name for _, field, _ in EVERY]
COMPANIONS = {name: {"executor": "ray"} for name in ("address", "gpus_per_trial", "workers_per_trial")}
"""What an option cannot be without."""


@pytest.fixture(autouse=True)
def quiet_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.INFO, logger="searchkit")
    yield


def write(folder: Path, values: dict[str, str]) -> Path:
    """A TOML file with these options, each in its own table."""
    lines = []
    for section, field, about in EVERY:
        if field.name in values:
            text = values[field.name]
            lines.append(f"[{section}]\n{field.name} = {text if about.kind in ('whole', 'number') else repr(text)}")
    file = folder / "my.toml"
    file.write_text("\n".join(sorted(lines)))
    return file


def read(flags: dict[str, Any], variables: dict[str, str], file: Path | None) -> RunConfig:
    layers = [sources.flags(flags, SECTIONS), sources.environment(variables, SECTIONS)]
    return RunConfig.of(sources.merge([*layers, *([] if file is None else [sources.toml_file(file, SECTIONS)])]))


def value(config: RunConfig, section: str, name: str) -> Any:
    return getattr(getattr(config, section), name)


@pytest.mark.parametrize(("section", "field", "about"), EVERY, ids=IDS)
def test_every_option_comes_by_every_way(section: str, field: Field[Any], about: Option, tmp_path: Path) -> None:
    """As a flag, a keyword, a variable and a key of a file it is the same value, and its field holds it."""
    text = about.example.strip("'")
    more = COMPANIONS.get(field.name, {})
    expected = parse(about, field.name, text)
    given = {**more, field.name: text}
    ways = {
        "flag": read(given, {}, None),
        "variable": read(more, {naming.variable(field.name): text}, None),
        "keyword": RunConfig.from_options(**given),
        "file": read(more, {}, write(tmp_path, {field.name: text})),
    }
    paths = about.kind == "path"
    for way, config in ways.items():
        found = value(config, section, field.name)
        assert found is not None and found != default_of(field)
        assert Path(found).name == Path(expected).name if paths else found == expected, way


def test_a_flag_is_before_the_environment_before_the_file_before_the_default(tmp_path: Path) -> None:
    file, variables = write(tmp_path, {"trials": "3", "sampler": "grid"}), {"SEARCHKIT_TRIALS": "4"}
    assert read({"trials": "5"}, variables, file).budget.trials == 5
    assert read({"trials": None}, variables, file).budget.trials == 4
    assert read({}, {}, file).budget.trials == 3
    assert read({}, {}, None).budget.trials is None
    assert read({"trials": "5"}, variables, file).search.sampler == "grid"
    assert RunConfig.from_options(file=file, trials=7).budget.trials == 7
    assert RunConfig.from_toml(file).search.sampler == "grid"


def test_of_a_task_and_data_the_one_that_is_nearer_counts(tmp_path: Path) -> None:
    file = write(tmp_path, {"task": "iris"})
    config = read({"data": "/x/t.csv"}, {}, file)
    assert (config.data.data, config.data.task) == ("/x/t.csv", None)
    with pytest.raises(BadInput, match="exclude one another"):
        read({"data": "/x/t.csv", "task": "iris"}, {}, None)


def test_paths_in_a_file_are_relative_to_its_folder(tmp_path: Path) -> None:
    file = write(tmp_path, {"data": "t.csv", "runs": "all", "space": "./mine.py"})
    config = read({}, {}, file)
    assert config.data.data == str(tmp_path / "t.csv")
    assert Path(config.output.runs) == tmp_path / "all"
    assert Path(str(config.search.space)) == tmp_path / "mine.py"
    assert RunConfig.from_options(space="cnn", runs="all").output.runs == "all"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[limits]\nmax_siz = 1", "[limits] of {file} has no key 'max_siz'. Did you mean 'max_size'?"),
        ("[limits]\ntrials = 1", "The key 'trials' stands in [limits] of {file}; it belongs to [budget]."),
        ("[limts]\n", "{file} has no table [limts]; the tables are [data], [search]"),
        ("trials = 1", "The key 'trials' of {file} stands in no table; it belongs to [budget]."),
        ("data = 1", "data = 1 in {file} is no table; begin one with a line [data]."),
        ("[budget]\ntrials = 'many'", "trials = 'many' in [budget] of {file} is not a whole number"),
        ("[budget]\ntrials = true", "trials = 'True' in [budget] of {file} is not a whole number"),
        ("[budget]\neta = 3", "[budget] of {file} has no key 'eta'"),
        ("[limits]\nmax_size = '10XB'", "max_size = '10XB' in [limits] of {file} is not a size in bytes"),
        ("[search]\nexecutor = 'inline'\nworkers = 2", "workers = 2 in [search] of {file} needs processes"),
        ("[budget", "The configuration {file} is not valid TOML"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_sentence_that_names_the_place(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text(text)
    with pytest.raises(BadInput) as refused:
        RunConfig.from_toml(file)
    assert says.format(file=file) in str(refused.value)
    assert len(str(refused.value)) <= 250 + 2 * len(str(file))


def test_own_families_of_a_list_lie_beside_the_file(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("[search]\nspace = 'cnn,own.py, sub/other.py'")
    assert RunConfig.from_toml(file).search.space == f"cnn,{tmp_path / 'own.py'},{tmp_path / 'sub/other.py'}"
    (tmp_path / "a,b.py").write_text("")
    file.write_text(f"[search]\nspace = '{tmp_path / 'a,b.py'}'")
    assert RunConfig.from_toml(file).search.space == str(tmp_path / "a,b.py"), "a comma in the name of a file"


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read .*; give the path of a TOML file"):
        RunConfig.from_toml(tmp_path / "none.toml")


def test_a_sentence_names_the_option_as_it_was_written() -> None:
    for config, says in (
        (lambda: read({"max_size": "1XB"}, {}, None), "--max-size '1XB' is"),
        (lambda: read({}, {"SEARCHKIT_MAX_SIZE": "1XB"}, None), "SEARCHKIT_MAX_SIZE='1XB' is"),
        (lambda: RunConfig.from_options(max_size="1XB"), "max_size='1XB' is"),
        (lambda: RunConfig.from_options(address="a:1"), "add executor='ray'"),
        (lambda: RunConfig.from_options(trails=3), "No option named 'trails'. Did you mean 'trials'?"),
    ):
        with pytest.raises(BadInput) as refused:
            config()
        assert says in str(refused.value)


def test_old_names_work_with_a_note(caplog: pytest.LogCaptureFixture) -> None:
    for config in (
        read({"kind": "language", "recipe": "distil"}, {}, None),
        read({}, {"SEARCHKIT_KIND": "language", "SEARCHKIT_RECIPE": "distil"}, None),
        RunConfig.from_options(kind="language", recipe="distil"),
    ):
        assert (config.data.problem, config.data.kind) == ("language-modeling", "language")
        assert config.compression.recipe == "distill"
    notes = [record.getMessage() for record in caplog.records]
    assert notes[0] == "--kind is now called --problem; the old name works until the next release."
    assert (
        notes[1] == "--problem 'language' is now called language-modeling; the old name works until the next release."
    )
    assert notes[2].startswith("--recipe 'distil' is now called distill") and len(notes) == 9
    caplog.clear()
    read({"problem": "language-modeling", "recipe": "distill"}, {}, None)
    assert caplog.records == []


def test_an_unknown_variable_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    assert read({}, {"SEARCHKIT_TRAILS": "3", "SEARCHKIT_DATASETS": "/x", "OTHER": "1"}, None) == RunConfig()
    assert [r.getMessage() for r in caplog.records] == [
        "The environment variable SEARCHKIT_TRAILS is no option of searchkit. Did you mean 'SEARCHKIT_TRIALS'?"
    ]


def test_the_written_file_is_the_defaults(tmp_path: Path) -> None:
    """`searchkit config` writes what changes nothing, and with each comment taken off an allowed value."""
    file = tmp_path / "my.toml"
    text = document.to_toml()
    file.write_text(text)
    config = RunConfig.from_toml(file)
    assert config == RunConfig.from_options(runs=str(tmp_path / "runs"))
    assert max(map(len, text.splitlines())) <= 100
    for _, field, about in EVERY:
        assert f"\n{field.name} = " in text or f"\n# {field.name} = {document.example_of(about)}\n" in text


def test_the_schema_has_every_option_with_its_bounds() -> None:
    schema = document.schema()
    assert schema["additionalProperties"] is False
    for section, field, about in EVERY:
        own = schema["properties"][section]["properties"][field.name]
        assert own["description"] == about.help and own["examples"]
        assert own.get("enum", []) == list(about.allowed())
        assert own.get("default") == default_of(field)
    trials = schema["properties"]["budget"]["properties"]["trials"]
    assert (trials["type"], trials["minimum"]) == ("integer", 1)
    drop = schema["properties"]["compression"]["properties"]["max_drop"]
    assert (drop["minimum"], drop["exclusiveMaximum"]) == (0, 1)
    assert schema["properties"]["limits"]["properties"]["max_size"]["type"] == ["integer", "string"]


def test_the_page_of_the_documentation_is_of_today() -> None:
    """`make options` writes it again."""
    page = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()
    assert page.split(document.OPTIONS)[1] == document.to_markdown()
    for status in (0, 1, 2, 3, 4, 130):
        assert f"\n| {status} | " in page
    for old, new in sources.RENAMED.items():
        assert f"| `--{old}` | `--{new}` |" in page
