"""The Python API as a user calls it: from data in memory to a bundle that predicts, resumed, stopped and refused."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import searchkit
from searchkit.search.settings import Status

SHORT: dict[str, Any] = {"executor": "inline", "progress": "none"}
ONE: dict[str, Any] = {**SHORT, "budget": {"trials": 1, "epochs": 1, "rungs": 1}, "recipe": "none"}


class Frame:
    """A table as pandas has it, as far as searchkit looks: columns, and a column by its name."""

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self.held = dict(columns)
        self.columns = list(columns)

    def __getitem__(self, name: str) -> Any:
        return np.array(self.held[name], dtype=object)

    def __len__(self) -> int:
        return len(next(iter(self.held.values())))


def flowers() -> Frame:
    """Iris with a column of words and a missing value; two classes by name."""
    from sklearn.datasets import load_iris

    iris = load_iris()
    rows = iris.target < 2
    x, y = iris.data[rows], iris.target[rows]
    return Frame(
        {
            "length": [None, *x[1:, 0]],
            "petal": x[:, 2],
            "garden": ["north", "south"] * (len(x) // 2),
            "species": [str(iris.target_names[label]) for label in y],
        }
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def heard() -> list[searchkit.TrialInfo]:
    return []


@pytest.fixture(scope="module")
def result(root: Path, heard: list[searchkit.TrialInfo]) -> searchkit.Result:
    """A whole line on a table in memory."""
    budget = {"trials": 3, "epochs": 8, "rungs": 1}
    return searchkit.search(
        "mlp", flowers(), "species", budget=budget, runs=root, recipe="export", callback=heard.append, **SHORT
    )  # fmt: skip


def test_a_table_becomes_a_bundle(result: searchkit.Result) -> None:
    assert result.name == "mlp-data-1"
    assert result.verdict.startswith("mlp-data-1: ")
    page = result.path / "report" / "report.html"
    assert page.is_file() and result.report() == page
    done = subprocess.run([sys.executable, str(result.bundle / "verify.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "verified" in done.stdout


def test_a_bundle_says_the_order_of_the_columns(result: searchkit.Result) -> None:
    page = (result.bundle / "README.md").read_text()
    assert "\n- 0: length, a number\n- 1: petal, a number\n- 2: garden, the index of one of north, south; -1 " in page
    columns = json.loads((result.bundle / "manifest.json").read_text())["columns"]
    assert columns[2] == {"name": "garden", "kind": "categorical", "categories": ["north", "south"]}


def test_trials_best_and_front(result: searchkit.Result, heard: list[searchkit.TrialInfo]) -> None:
    trained = [trial for trial in result.trials if trial.state == "trained"]
    assert [trial.number for trial in heard] == [trial.number for trial in trained] and len(trained) == 3
    assert heard == trained
    assert all(trial.metric == "accuracy" and trial.params and trial.cost["params"] > 0 for trial in trained)
    assert result.best == result.front[0] and result.best.value == max(t.value for t in trained if t.value is not None)
    with pytest.raises(AttributeError):
        result.best.value = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        result.best.params["depth"] = 1  # type: ignore[index]
    row = result.best.flat()
    assert row["number"] == result.best.number and row["cost_params"] == result.best.cost["params"]
    assert {name.removeprefix("params_") for name in row if name.startswith("params_")} == set(result.best.params)


def test_stages_are_what_the_report_says(result: searchkit.Result) -> None:
    told = json.loads((result.path / "report" / "report.json").read_text())["stages"]
    assert [row["accuracy"] for row in result.stages] == [row["metric"]["value"] for row in told]
    assert [row["shipped"] for row in result.stages] == [True]
    assert result.stages[0]["low"] < result.stages[0]["accuracy"] or result.stages[0]["accuracy"] == 0
    assert result.stages[0]["size_bytes"] == (result.bundle / "model.onnx").stat().st_size


def test_predict_takes_a_table_and_answers_in_the_words_of_the_target(result: searchkit.Result) -> None:
    table = flowers()
    answers = result.predict(table)  # the target among its columns is left out
    assert answers.dtype.kind == "U" and set(answers) <= {"setosa", "versicolor"}
    reported = result.stages[0]["accuracy"]
    assert np.mean(answers == np.array(table.held["species"])) > 0.8 and reported > 0.8
    raw = result.predict_raw(table)["probabilities"]
    assert raw.shape == (100, 2) and np.allclose(raw.sum(axis=1), 1, atol=1e-5)
    shuffled = Frame({name: table.held[name] for name in ("garden", "petal", "length")})
    assert (result.predict(shuffled) == answers).all()  # columns go by their names
    features = np.array([[0.0, 1.4, 1.0]], dtype=np.float32)
    assert result.predict({"features": features}).shape == (1,)  # the inputs of the bundle as they are


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"petal": [1.0]}, "no column 'length'"),
        (np.zeros((2, 3)), "a table with the same columns"),
        (["a text"], "not on texts"),
        ({"features": np.array([["a"]])}, "the network takes float32"),
    ],
)
def test_predict_refuses_what_is_unlike_the_training_data(data: Any, says: str, result: searchkit.Result) -> None:
    with pytest.raises(searchkit.BadInput, match=says):
        result.predict(data)


def test_html_shows_verdict_table_and_front_and_styles_nothing_else(result: searchkit.Result) -> None:
    page = result._repr_html_()
    assert result.verdict.split(",")[0] in page.replace("&#39;", "'")
    assert "<svg" in page and "fp32 winner" in page
    style = page[page.index("<style>") + 7 : page.index("</style>")]
    assert style.startswith(".searchkit{") and style.count("{") == style.count("}") and ":root" not in style
    assert repr(result) == f"<Result of the run 'mlp-data-1' in {result.path}>"


def test_a_run_that_was_moved_is_loaded_with_its_data(result: searchkit.Result, tmp_path: Path) -> None:
    import shutil

    moved = tmp_path / "elsewhere"
    shutil.copytree(result.path, moved)
    for file in result.path.glob("data/*"):
        file.rename(file.with_suffix(".hidden"))
    try:
        loaded = searchkit.load_run(moved)
        assert loaded.trials == result.trials and loaded.verdict == result.verdict
        assert set(loaded.predict(flowers())) <= {"setosa", "versicolor"}
    finally:
        for file in result.path.glob("data/*"):
            file.rename(file.with_suffix(".csv"))
    with pytest.raises(searchkit.BadInput, match="No run named 'absent'"):
        searchkit.load_run("absent", runs=tmp_path)


def test_compress_takes_another_trial(result: searchkit.Result) -> None:
    other = next(t.number for t in result.trials if t.number != result.best.number)
    before = json.loads((result.bundle / "manifest.json").read_text())["params"]
    again = searchkit.compress(result, trial=other, recipe="export", progress="none")
    after = json.loads((again.bundle / "manifest.json").read_text())["params"]
    assert after == next(t.cost["params"] for t in result.trials if t.number == other) != before
    with pytest.raises(searchkit.BadInput, match="compresses nothing"):
        searchkit.compress(result, recipe="none")
    with pytest.raises(searchkit.BadInput, match="no finished trial 99"):
        searchkit.compress(result, trial=99)


def test_the_stored_command_makes_the_same_run(result: searchkit.Result) -> None:
    """The words of run.json, read by the command line, ask for the same."""
    from searchkit.lifecycle import config_of

    words = json.loads((result.path / "run.json").read_text())["command"]
    flags = dict(zip(words[2::2], words[3::2], strict=True))
    assert words[:2] == ["searchkit", "search"] and flags["--space"] == "mlp"
    assert flags["--data"] == str(result.path / "data" / "data.csv") and flags["--target"] == "species"
    assert flags["--trials"] == "3" and flags["--epochs"] == "8" and flags["--recipe"] == "export"
    assert flags["--minimize"] == "params" and "--max-size" not in flags
    assert config_of(searchkit.load_run(result.path)._run).data.data == flags["--data"]


def test_resume_raises_the_budget_and_trains_nothing_twice(tmp_path: Path) -> None:
    heard: list[int] = []
    first = searchkit.search("mlp", task="iris", runs=tmp_path, name="more", **ONE)
    assert [t.state for t in first.trials] == ["trained"]
    more = searchkit.resume("more", runs=tmp_path, budget={"trials": 2}, progress="none",
                            callback=lambda trial: heard.append(trial.number))  # fmt: skip
    assert [t.state for t in more.trials] == ["trained", "trained"] and heard == [1]
    with pytest.raises(searchkit.BadInput, match="is below the run's own"):
        searchkit.resume(more, budget={"trials": 1}, progress="none")
    with pytest.raises(searchkit.BadInput, match="has no bundle; make one by searchkit.compress"):
        _ = more.bundle


def stop_by_false(trial: searchkit.TrialInfo) -> bool:
    return trial.number < 1


def stop_by_raising(trial: searchkit.TrialInfo) -> None:
    if trial.number >= 1:
        raise searchkit.StopSearch("good enough")


@pytest.mark.parametrize("callback", [stop_by_false, stop_by_raising])
@pytest.mark.parametrize("executor", ["inline", "processes"])
def test_a_callback_ends_the_search(
    callback: Any, executor: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="searchkit")
    how: dict[str, Any] = {**ONE, "budget": {"trials": 50, "epochs": 1, "rungs": 1}, "executor": executor, "workers": 1}
    found = searchkit.search("mlp", task="iris", runs=tmp_path, name="stopped", callback=callback, **how)
    states = [trial.state for trial in found.trials]
    assert states[:2] == ["trained", "trained"] and states.count("trained") == 2
    assert set(states[2:]) <= {"cut off"}
    assert "running" not in states  # what was in flight is closed
    assert any(record.getMessage().startswith("the search ends: ") for record in caplog.records)
    again = searchkit.resume(found, progress="none")  # the end was meant: nothing is trained on
    assert [trial.state for trial in again.trials].count("trained") == 2


def test_what_is_in_flight_when_a_search_is_stopped_is_closed(tmp_path: Path) -> None:
    from searchkit import workflow
    from searchkit.api.result import task_of
    from searchkit.config.limits import BudgetConfig
    from searchkit.run import Run

    class Stopping:
        """Stops when the second trial was handed out and has not ended."""

        def say(self, text: str) -> None:
            pass

        def progress(self, status: Status) -> None:
            if status.done == 1 and status.running == 1:
                raise searchkit.StopSearch

        def close(self) -> None:
            pass

    run = Run.open(searchkit.search("mlp", task="iris", runs=tmp_path, **ONE).path)
    more = workflow.More(BudgetConfig(trials=5))
    workflow.carry_out(
        run, task_of(run), spaces=searchkit.load_space, screen=Stopping(), reports=None, more=more
    )  # fmt: skip
    assert [trial.state for trial in searchkit.load_run(run.path).trials] == ["trained", "cut off"]
    assert not list((run.path / "rungs").iterdir())


def test_an_error_in_a_callback_is_the_callers(tmp_path: Path) -> None:
    def broken(trial: searchkit.TrialInfo) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        searchkit.search("mlp", task="iris", runs=tmp_path, name="broken", callback=broken, **ONE)
    assert [t.state for t in searchkit.load_run(tmp_path / "broken").trials] == ["trained"]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"space": "mpl"}, "Did you mean 'mlp'"),
    ({"data": (np.zeros((20, 2)), np.zeros(20)), "task": "iris"}, "were both given"),
    ({"target": "y"}, "A task brings its own target"),
    ({"samplr": "tpe"}, "No option named 'samplr'.*Did you mean 'sampler'"),
    ({"sampler": "best"}, "best"),
    ({"importance": "l3"}, "l3"),
    ({"recipe": "tiny"}, "tiny"),
    ({"limits": {"szie": 3}}, "Did you mean 'size'"),
    ({"limits": {"size": "big"}}, "is not a size"),
    ({"limits": {"params": 0.5}}, "max_params=0.5 is out of range"),
    ({"budget": {"trials": 0}}, "trials=0 is out of range"),
    ({"budget": {"trials": True}}, "trials='True' is not a whole number"),
    ({"budget": {"times": "3m"}}, "Did you mean 'time'"),
    ({"budget": "soon"}, "is not a duration"),
    ({"progress": "loud"}, "auto, rich, plain or none"),
    ({"data": "absent.csv", "target": "y"}, "no file or folder"),
    ({"data": "absent.csv", "target": [1, 2]}, "name the target column"),
    ({"data": "absent.csv", "test_data": np.zeros(3)}, "in the same way"),
    ({"data": (np.zeros((20, 2)), np.arange(20) % 2), "test_data": "absent.csv"}, "in the same way"),
    ({"data": (np.zeros((20, 2)), np.zeros(20, int))}, "the given data has one class"),
    ({"data": Frame({"a": [1.0] * 20, "b": [1] * 20}), "target": "c"}, "the given data.* has no column 'c'"),
    ({"data": Frame({"a": [1.0] * 20, "b": [1] * 20})}, "needs target='COLUMN'; its columns are a, b"),
    ({"space": "gpt", "task": "iris"}, "is not for the task 'iris'"),
    ({"workers": 2}, "2"),
    ({"address": "10.0.0.1"}, "Ray"),
    ({"steps": 0}, "steps"),
]


@pytest.mark.parametrize(("given", "says"), REFUSED, ids=lambda value: value if isinstance(value, str) else None)
def test_what_cannot_be_asked_for_is_a_sentence_and_leaves_no_run(
    given: dict[str, Any], says: str, tmp_path: Path
) -> None:
    asked = {"space": "mlp", "runs": tmp_path / "runs", **({} if "data" in given else {"task": "iris"}), **ONE, **given}
    with pytest.raises(searchkit.BadInput, match=says) as refused:
        searchkit.search(**asked)
    assert len(str(refused.value)) <= 300 and "searchkit-" not in str(refused.value)
    assert not list((tmp_path / "runs").glob("*"))


def test_limits_and_budgets_are_quantities(tmp_path: Path) -> None:
    from searchkit.api.options import run_config

    def asked(limits: Any = None, budget: Any = None) -> tuple[searchkit.Limits, searchkit.Budget]:
        config = run_config("mlp", {"task": "iris"}, limits=limits, budget=budget, given={})
        return config.limits.limits(), config.budget.resolved(searchkit.Budget(trials=7, epochs=9)).budget()

    limits = searchkit.Limits(size_bytes=100_000, latency_ms=0.5, params=5000, macs=5_000_000)
    assert asked({"size": "100KB", "latency": "500us", "params": 5000, "macs": "5M"})[0] == limits == asked(limits)[0]
    assert asked() == (searchkit.Limits(), searchkit.Budget(trials=7, epochs=9))
    assert asked(budget={"epochs": 3})[1] == searchkit.Budget(trials=7, epochs=3)
    assert asked(budget="2m")[1] == searchkit.Budget(trials=1000, epochs=9, seconds=120.0)
    assert asked(budget={"time": 30, "trials": 4})[1] == searchkit.Budget(trials=4, epochs=9, seconds=30.0)
    own = searchkit.Budget(trials=5, epochs=6, rungs=2, eta=4, least_rung_steps=10, seconds=50.0)
    assert asked(budget=own)[1] == own
    with pytest.raises(searchkit.NothingFeasible):
        searchkit.search("mlp", task="iris", runs=tmp_path, limits={"params": 1}, **ONE)


def test_the_default_task_is_the_familys(tmp_path: Path) -> None:
    found = searchkit.search("autoencoder", runs=tmp_path, **ONE)
    assert found.name == "autoencoder-digits-reconstruction-1"


def test_it_neither_reads_the_command_line_nor_installs_hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["a-script", "--secret"])
    hook = sys.excepthook
    found = searchkit.search("mlp", task="iris", runs=tmp_path, **ONE)
    assert sys.excepthook is hook
    assert "--secret" not in (found.path / "run.json").read_text()


def test_progress_is_logged_and_shown_where_it_is_wanted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, logger="searchkit")
    searchkit.search("mlp", task="iris", runs=tmp_path, **ONE)
    lines = [record.getMessage() for record in caplog.records if record.name == "searchkit"]
    assert lines[0].startswith("run mlp-iris-1 in ") and any(line.startswith("1 of 1 trials") for line in lines)
    shown = capsys.readouterr()
    assert shown.out == shown.err == ""
    searchkit.search("mlp", task="iris", runs=tmp_path, **{**ONE, "progress": "plain"})
    shown = capsys.readouterr()
    assert shown.out == "" and "1 of 1 trials" in shown.err


def test_a_notebook_has_one_output_that_is_written_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """IPython by a stand-in: what it displays first, and every update of that."""
    from types import ModuleType, SimpleNamespace

    from searchkit.api.progress import Notebook, Progress, Terminal, make_display

    drawn: list[str] = []
    shell = type("ZMQInteractiveShell", (), {})()
    ipython, shown = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.get_ipython = lambda: shell  # type: ignore[attr-defined]
    shown.HTML = lambda text: text  # type: ignore[attr-defined]
    handle = SimpleNamespace(update=drawn.append)
    shown.display = lambda html, display_id: handle if display_id else None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    progress = Progress("auto")
    assert isinstance(progress.display, Notebook)
    progress.say("a <b> line")
    progress.progress(Status(done=1, trials=2, running=1, rejected=0, failed=0, best=0.5))
    progress.progress(Status(done=2, trials=2, running=0, rejected=0, failed=0, best=0.75))
    assert "a &lt;b&gt; line" in drawn[0]
    assert "1 of 2 trials" in drawn[1] and "1 of 2 trials" not in drawn[2] and "best 0.75" in drawn[2]
    progress.close()
    assert "trials" not in drawn[3] and "line" in drawn[3]
    assert isinstance(make_display("plain"), Terminal)


def test_to_pandas_is_a_table_or_a_sentence(result: searchkit.Result, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import ModuleType

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(searchkit.NotInstalled, match="pip install pandas"):
        result.to_pandas()
    pandas = ModuleType("pandas")
    pandas.DataFrame = list  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", pandas)
    rows = result.to_pandas()
    assert [row["number"] for row in rows] == [0, 1, 2] and {"value", "params_depth", "cost_macs"} <= set(rows[0])
