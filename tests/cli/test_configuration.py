"""The configuration on the command line: a file, the environment, old names, and runs of the last release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import TINY

from searchkit.config import document, stored

TOML = """
[data]
task = "iris"
[search]
space = "mlp"
executor = "inline"
seed = 3
[budget]
trials = 2
epochs = 3
[compression]
recipe = "none"
[output]
name = "filed"
"""


def test_a_flag_a_variable_and_a_file_make_one_run(here: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my.toml").write_text(TOML)
    monkeypatch.setenv("SEARCHKIT_TRIALS", "1")
    done = here("search", "--config", "my.toml", "--epochs", "1", "-v", "--json")
    config = json.loads((tmp_path / "runs" / "filed" / "run.json").read_text())["config"]
    assert (config["budget"]["trials"], config["budget"]["epochs"], config["search"]["seed"]) == (1, 1, 3)
    assert config["budget"]["fixed_epochs"] is True and done.plain["run"] == "filed"
    assert "searchkit: info: --epochs 1" in done.err and "searchkit: info: SEARCHKIT_TRIALS=1" in done.err
    assert "searchkit: info: seed = 3 in [search] of my.toml" in done.err
    assert not (tmp_path / "reports").exists(), "a report goes to the run's own folder"


def test_compress_reads_its_tables_of_the_file(here: Any, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text("[compression]\nmax_drop = 3\n")
    err = here("compress", "any", "--config", "my.toml", status=2).err
    assert "max_drop = 3 in [compression] of my.toml is out of range" in err


def test_old_flags_work_with_a_note(here: Any) -> None:
    done = here("search", "--space", "mlp", "--task", "iris", "--kind", "language", "--recipe", "soup", status=2)
    assert "searchkit: warning: --kind is now called --problem; the old name works until the next release." in done.err
    assert "--recipe 'soup' is unknown; choose compact, int8, prune, distill, export or none." in done.err
    assert "--kind" not in here("search", "--help").out


def test_config_prints_the_file_and_the_schema(here: Any) -> None:
    assert here("config").out == document.to_toml()
    assert json.loads(here("config", "--schema").out) == document.schema()
    assert here("config", "--schema", "--json").plain["schema"] == document.schema()


def test_a_run_of_the_last_release_goes_on(here: Any, tmp_path: Path) -> None:
    """Its run.json has `question`, `source` and `wish`; it is resumed with more trials, compressed and reported."""
    here(*TINY, "--name", "old", "--recipe", "none")
    file = tmp_path / "runs" / "old" / "run.json"
    now = json.loads(file.read_text())
    config = stored.parse(now, "run.json")
    question = {**stored.as_question(config), "fixed_epochs": True, "minimize": "params"}
    question["source"] = {"task": "iris", "kind": "classification"}
    question["wish"].pop("recipe")
    del now["config"]
    file.write_text(json.dumps({**now, "question": question}))
    here("search", "--resume", "old", "--trials", "3")
    after = json.loads(file.read_text())
    assert "question" not in after and after["config"]["budget"]["trials"] == 3
    assert after["config"]["data"]["problem"] == "classification"
    file.write_text(json.dumps({**now, "question": {**question, "budget": {**question["budget"], "trials": 3}}}))
    assert here("status", "old", "--json").plain["runs"][0]["of"] == 3
    done = here("compress", "old", "--recipe", "export", "--json").plain
    assert (tmp_path / done["bundle"] / "model.onnx").is_file()
    assert Path(done["report"]["html"]).parent == Path("runs/old/report")
    assert here("report", "old", "--json").plain["verdict"] == done["verdict"]
