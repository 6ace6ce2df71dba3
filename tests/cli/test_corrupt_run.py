"""A damaged run: each of its files emptied or cut in half is a sentence or makes no difference, never a traceback.

One run is made, and harm is done to copies of it. A file that the same lines of code read as another is harmed with it:
all weights at once, all models, and so on; a test says that no file of a run is left out.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest

from searchkit.cli import app as cli

NAME = "harmed"
QUESTION = (
    "search", "--space", "mlp", "--task", "iris", "--trials", "2", "--epochs", "3", "--workers", "1",
    "--executor", "inline", "--recipe", "int8", "--name", NAME,
)  # fmt: skip
FILES = (
    "run.json", "splits.npz", "search.json", "search.jsonl", "study.db", "pace.json", "clock.json",
    "evidence.json",
    "artifacts/*/artifact.json", "artifacts/*/weights.safetensors", "artifacts/*/model.onnx",
    "artifacts/*/scores.npy", "artifacts/*/log.jsonl", "evidence/*.json", "evidence/*.npy", "bundle/*",
)  # fmt: skip
UNREAD = ("lock", "skipped.json")  # an empty lock is a lock; what was skipped is not always there

Call = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs with the finished one in it."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "excepthook", sys.excepthook)
        patch.setattr(
            sys, "argv", ["searchkit", *QUESTION, "--runs", str(folder / "runs"), "--reports", str(folder / "reports")]
        )
        cli_main()
    return folder / "runs"


def cli_main() -> int:
    """The exit status; an exception that is no SystemExit would be the traceback that a user sees."""
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["searchkit", *map(str, arguments)])
        capsys.readouterr()
        status = cli_main()
        return status, capsys.readouterr().err

    return run


def files(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())


def test_every_file_of_a_run_is_harmed_below(finished: Path) -> None:
    made = files(finished / NAME)
    assert [name for name in made if not any(fnmatch(name, pattern) for pattern in (*FILES, *UNREAD))] == []
    assert [pattern for pattern in FILES if not any(fnmatch(name, pattern) for name in made)] == []


@pytest.mark.parametrize("keep", [0.0, 0.5], ids=["emptied", "halved"])
@pytest.mark.parametrize("pattern", FILES)
def test_a_damaged_file_is_a_sentence(finished: Path, call: Call, tmp_path: Path, pattern: str, keep: float) -> None:
    runs, reports, copy = tmp_path / "runs", tmp_path / "reports", tmp_path / "copy"
    shutil.copytree(finished, runs)
    run = runs / NAME
    for name in files(run):
        if fnmatch(name, pattern):
            content = (run / name).read_bytes()
            (run / name).write_bytes(content[: int(len(content) * keep)])
    harmed = {name: (run / name).read_bytes() for name in files(run) if name.startswith("artifacts/")}
    for verb in (["search", "--resume", NAME, "--reports", reports], ["report", NAME, "--reports", reports],
                 ["export", NAME, "--to", copy, "--reports", reports]):  # fmt: skip
        status, err = call(*verb, "--runs", runs)
        assert status in (0, 2), err
        said = [line for line in err.splitlines() if line.startswith("searchkit: ")]
        assert len(said) == (status == 2) and "Traceback" not in err
        assert not said or (said[0].endswith(".") and NAME in said[0]), said
        assert status == 0 or not copy.exists(), "a bundle half written"
    assert {name: (run / name).read_bytes() for name in harmed} == harmed, "what was made is not written over"
    assert len(list((run / "artifacts").iterdir())) == len({name.split("/")[1] for name in harmed}), "nothing trained"
