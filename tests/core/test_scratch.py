"""Temporary folders: removed at the end, and, of a process that was killed, by the next one that starts."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from searchkit.core import scratch
from searchkit.onnx import int8

WAITING = """
import sys, time
from searchkit.core.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "file").write_text("content")
    print(folder, flush=True)
    time.sleep(600)
"""
STARTING = "from searchkit.core.scratch import scratch_folder\nwith scratch_folder() as folder: print(folder)"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty temporary folder, of this process and of those that it starts."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def dead_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_the_next_start_removes_what_a_killed_process_left(temporary: Path) -> None:
    waiting = subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True)
    assert waiting.stdout is not None
    left = Path(waiting.stdout.readline().strip())
    started = subprocess.run([sys.executable, "-c", STARTING], check=True, capture_output=True, text=True)
    assert Path(started.stdout.strip()).parent == temporary
    assert list(temporary.iterdir()) == [left] and (left / "file").exists(), "its process lives"
    waiting.send_signal(signal.SIGKILL)
    waiting.communicate()
    assert left.exists()
    subprocess.run([sys.executable, "-c", STARTING], check=True, capture_output=True)
    assert list(temporary.iterdir()) == []


def test_only_own_leftovers_are_removed(temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pid, own = dead_process(), scratch.machine()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    names = {
        "ours": f"searchkit-{own}-{pid}-ours", "living": f"searchkit-{own}-{os.getpid()}-x",
        "another machine": f"searchkit-00000000-{pid}-x", "another kind": f"searchkit-{pid}",
        "a log": "searchkit-1.log",
        "no process": f"searchkit-{own}-{10**30}-x",
    }  # fmt: skip
    for name in names.values():
        (temporary / name / "deep").mkdir(parents=True)
    (temporary / f"searchkit-{own}-{pid}-link").symlink_to(elsewhere)
    (temporary / f"searchkit-{own}-{pid}-file").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: 12_345_678)
        assert scratch.remove_leftovers() == [], "those of another user"
    assert scratch.remove_leftovers() == [temporary / names["ours"]]
    assert elsewhere.is_dir() and len(list(temporary.iterdir())) == len(names) - 1 + 2


def test_a_process_of_another_user_lives(monkeypatch: pytest.MonkeyPatch, temporary: Path) -> None:
    def refused(pid: int, number: int) -> None:
        raise PermissionError

    folder = temporary / f"searchkit-{scratch.machine()}-{dead_process()}-x"
    folder.mkdir()
    monkeypatch.setattr(os, "kill", refused)
    assert scratch.remove_leftovers() == [] and folder.is_dir()


def test_a_folder_ends_with_its_block(temporary: Path) -> None:
    with pytest.raises(RuntimeError), scratch.redirected() as folder:
        assert folder.parent == temporary and Path(tempfile.mkdtemp()).parent == folder
        raise RuntimeError
    assert list(temporary.iterdir()) == [] and tempfile.gettempdir() == str(temporary)


def test_no_module_makes_a_folder_that_the_next_start_would_not_know() -> None:
    """Each lies beside what it becomes, or has a name that `remove_leftovers` looks for."""
    root = Path(__file__).parents[2] / "searchkit"
    texts = (path.read_text(encoding="utf-8") for path in root.rglob("*.py"))
    made = [
        ast.unparse(node)
        for text in texts
        if "tempfile" in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("TemporaryDirectory", "mkdtemp"))
    ]
    assert made and [call for call in made if "dir=" not in call and "prefix()" not in call] == []


def test_what_quantizers_make_lies_in_a_folder_of_ours(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    mkdtemp = tempfile.mkdtemp

    def noted(*words: str, **options: str) -> str:
        made.append(mkdtemp(*words, **options))  # type: ignore[call-overload]
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", noted)
    weight = numpy_helper.from_array(np.ones((8, 4), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])], [weight],
    )  # fmt: skip
    source = temporary.parent / "float.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), source)
    int8.dynamic(source, temporary.parent / "int8.onnx")
    assert len(made) > 1 and {Path(name).relative_to(temporary).parts[0][:10] for name in made} == {"searchkit-"}
    assert list(temporary.iterdir()) == []
