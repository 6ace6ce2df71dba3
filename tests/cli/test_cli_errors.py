"""Bad input, as a user gives it: one sentence on stderr, exit status 2 (3: nothing can fit), and no run left behind."""

from __future__ import annotations

import gzip
import re
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from searchkit.cli import app as cli

Make = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Case:
    """make: writes its files into the folder and returns the arguments after `search`; says: what stderr must match."""

    make: Make
    says: str
    status: int = 2


def flags(*args: str) -> Make:
    return lambda folder: list(args)


def csv(text: str, *args: str) -> Make:
    def make(folder: Path) -> list[str]:
        (folder / "t.csv").write_text(text)
        return ["--space", "mlp", "--data", str(folder / "t.csv"), *args]

    return make


def npz(*, pickled: bool = False, cut: int | None = None, **arrays: np.ndarray) -> Make:
    def make(folder: Path) -> list[str]:
        path = folder / "a.npz"
        np.savez(path, allow_pickle=pickled, **arrays)
        if cut is not None:
            path.write_bytes(path.read_bytes()[:cut])
        return ["--space", "mlp", "--data", str(path)]

    return make


def idx(folder: Path) -> list[str]:
    data = folder / "idx"
    data.mkdir()
    images = struct.pack(">IIII", 0x00000803, 40, 8, 8) + bytes(40 * 64 - 10)  # ten bytes short of what it says
    for stem, content in (
        ("train-images-idx3", images),
        ("train-labels-idx1", struct.pack(">II", 0x801, 40) + bytes(40)),
    ):
        with gzip.open(data / f"{stem}-ubyte.gz", "wb") as file:
            file.write(content)
    return ["--space", "cnn", "--data", str(data)]


def images(spoil: Callable[[Path], None], classes: tuple[str, ...] = ("cat", "dog")) -> Make:
    def make(folder: Path) -> list[str]:
        rng = np.random.default_rng(0)
        for name in classes:
            (folder / "pics" / name).mkdir(parents=True)
            for k in range(12):
                pixels = rng.integers(0, 255, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / "pics" / name / f"{k}.png")
        spoil(folder / "pics")
        return ["--space", "cnn", "--data", str(folder / "pics")]

    return make


def add_text(pictures: Path) -> None:
    (pictures / "cat" / "x.txt").write_text("no picture")


def tear(pictures: Path) -> None:
    (pictures / "cat" / "0.png").write_bytes((pictures / "cat" / "1.png").read_bytes()[:60])


def family(body: str, data: tuple[str, ...] = ("--task", "iris")) -> Make:
    """A stranger's family: the mlp's file with something put in its place."""

    def make(folder: Path) -> list[str]:
        (folder / "mine.py").write_text(body)
        return ["--space", str(folder / "mine.py"), *data, "--workers", "1", "--executor", "inline"]

    return make


WRONG_SHAPE = """
from dataclasses import dataclass
from torch import nn
from searchkit.core.space import Budget, Space
from searchkit.core.training import TrainingSpace

@dataclass(frozen=True)
class Arch:
    width: int = 4

SPACE = Space(
    name="mine", arch=Arch, accepts=lambda spec: None,
    sample=lambda trial, spec: Arch(trial.suggest_int("width", 2, 8)),
    build=lambda arch, spec: nn.Sequential(nn.Flatten(), nn.Linear(4, arch.width), nn.Linear(arch.width, 7)),
    training=TrainingSpace(), task="iris", budget=Budget(trials=2, epochs=1), paper="none",
)
"""

ROWS = "a,b,y\n" + "".join(f"{i},{i % 3},{'no' if i % 2 else 'yes'}\n" for i in range(30))
QUICK = ("--space", "mlp", "--task", "iris", "--workers", "1", "--executor", "inline")

CASES = {
    "no space": Case(flags("--task", "iris"), r"--space is missing; the spaces are .*mlp"),
    "unknown space": Case(flags("--space", "mpl"), r"No space named 'mpl'; the spaces are .*Did you mean 'mlp'"),
    "unknown task": Case(flags("--space", "mlp", "--task", "iri"), r"No task named 'iri'; did you mean 'iris'"),
    "unknown flag": Case(flags("--space", "mlp", "--trails", "3"), r"No such option: --trails .*--trials\)\. `search"),
    "a word for a number": Case(flags("--space", "mlp", "--trials", "many"), r"'many' is not a whole number"),
    "no trials": Case(flags(*QUICK, "--trials", "0"), r"--trials 0 is out of range; give .* at least 1"),
    "no epochs": Case(flags(*QUICK, "--epochs", "-1"), r"--epochs -1 is out of range"),
    "no workers": Case(flags("--space", "mlp", "--workers", "0"), r"--workers 0 is out of range"),
    "unknown unit": Case(flags(*QUICK, "--max-size", "10XB"), r"--max-size '10XB' is not a size .* such as 100KB"),
    "no size": Case(flags(*QUICK, "--max-size", "0KB"), r"--max-size '0KB' leaves room for nothing"),
    "a word for a latency": Case(flags(*QUICK, "--max-latency", "fast"), r"--max-latency 'fast' is not a latency"),
    "a limit below one": Case(flags(*QUICK, "--max-params", "0.5"), r"0.5 is out of range; .* at least 1"),
    "a negative limit": Case(flags(*QUICK, "--max-params", "-5k"), r"--max-params '-5k' is not a count"),
    "a word for a duration": Case(flags(*QUICK, "--time-budget", "soon"), r"--time-budget 'soon' is not a duration"),
    "an anomaly of no class": Case(
        flags("--space", "autoencoder", "--anomaly", "x"), r"--anomaly 'x' is no class of .* its classes are 0, 1, 2"
    ),
    "an anomaly without labels": Case(
        lambda folder: [*npz(x=np.ones((30, 4)))(folder), "--anomaly", "1"], r"has no target, which anomaly needs"
    ),
    "all classes for anomalies": Case(
        flags("--space", "autoencoder", "--anomaly", "0,1,2,3,4,5,6,7,8,9"), r"holds out every class .* name fewer"
    ),
    "a noise of no kind": Case(flags("--space", "autoencoder", "--noise", "hum"), r"--noise 'hum' is no noise"),
    "unknown sampler": Case(
        flags(*QUICK, "--sampler", "magic"), r"--sampler 'magic' .* gp, tpe, nsga2, random or grid"
    ),
    "unknown cost": Case(
        flags(*QUICK, "--minimize", "beauty"), r"--minimize 'beauty' is unknown; choose latency, size, macs"
    ),
    "unknown recipe": Case(flags(*QUICK, "--recipe", "soup"), r"--recipe 'soup' .* compact, int8, prune"),
    "unknown device": Case(flags(*QUICK, "--device", "tpu"), r"--device 'tpu' .* auto, cpu or cuda"),
    "unknown importance": Case(flags(*QUICK, "--importance", "luck"), r"--importance 'luck' .* l1, l2, taylor"),
    "a prune to nothing": Case(flags(*QUICK, "--prune-to", "0"), r"--prune-to 0 is out of range"),
    "a space that is not for the task": Case(
        flags("--space", "cnn", "--task", "iris"), r"'cnn' is not for the task 'iris'"
    ),
    "task and data": Case(
        flags("--space", "mlp", "--task", "iris", "--data", "x.csv"), r"--task.*--data|--data.*--task"
    ),
    "missing file": Case(
        flags("--space", "mlp", "--data", "none.csv", "--target", "y"),
        r"none\.csv.*(not|no file|missing)|(No|not|missing).*none\.csv",
    ),
    "empty file": Case(csv("", "--target", "y"), r"t\.csv.*empty|empty.*t\.csv"),
    "unknown column": Case(csv(ROWS, "--target", "z"), r"'z'.*(a, b, y)"),
    "no target": Case(csv(ROWS), r"--target"),
    "one class": Case(csv(ROWS.replace("no", "yes"), "--target", "y"), r"one class|1 class|single class"),
    "one row": Case(csv("a,y\n1,no\n", "--target", "y"), r"1 row|one row"),
    "target with gaps": Case(csv(ROWS + "1,2,\n", "--target", "y"), r"missing"),
    "a column of text": Case(csv(ROWS, "--target", "y", "--problem", "regression"), r"number|text"),
    "unknown modality": Case(csv(ROWS, "--target", "y", "--modality", "smell"), r"--modality 'smell' is unknown"),
    "corrupt npz": Case(npz(cut=200, x=np.ones((40, 3)), y=np.arange(40) % 2), r"a\.npz"),
    "pickled npz": Case(npz(pickled=True, x=np.array([{}] * 40, dtype=object), y=np.arange(40) % 2), r"pickle"),
    "npz without x": Case(npz(z=np.ones((40, 3))), r"a\.npz' holds z; it must hold x"),
    "truncated idx": Case(idx, r"idx3.*(bytes|short|truncated)"),
    "a text file among images": Case(images(add_text), r"x\.txt"),
    "a truncated picture": Case(images(tear), r"0\.png"),
    "mixed sizes": Case(
        images(lambda p: Image.fromarray(np.zeros((9, 8), np.uint8)).save(p / "dog" / "0.png")), r"0\.png|size"
    ),
    "one folder": Case(images(lambda p: None, classes=("cat",)), r"one class|1 class|single class"),
    "no place to write": Case(flags(*QUICK, "--runs", "/proc/runs"), r"Cannot write the run folder /proc/runs"),
    "a file that raises": Case(family("raise RuntimeError('on purpose')"), r"mine\.py cannot be loaded.*on purpose"),
    "a file without a space": Case(family("x = 1"), r"has no SPACE"),
    "a file without a space or data": Case(family("x = 1", ()), r"has no SPACE"),
    "a file that is not Python": Case(family("def (", ()), r"mine\.py cannot be loaded: line 1: SyntaxError"),
    "no family file": Case(flags("--space", "mine.py"), r"no family file 'mine\.py'"),
    "a wrong output shape": Case(family(WRONG_SHAPE), r"gives \(7,\) an example, and the task 'iris' wants \(3,\)"),
    "a limit that none can meet": Case(
        flags(*QUICK, "--max-params", "3"), r"the smallest found \(.*\) has [\d,]+ parameters", status=3
    ),
    "a budget below one trial": Case(flags(*QUICK, "--time-budget", "0.01s"), r"time budget is shorter than one trial"),
    "workers in one process": Case(
        flags(*QUICK[:-4], "--executor", "inline", "--workers", "2"),
        r"--workers 2 needs processes",
    ),
    "an address without ray": Case(flags(*QUICK, "--address", "127.0.0.1:6379"), r"--address .* add --executor ray"),
    "a storage of no kind": Case(flags(*QUICK, "--storage", "somewhere"), r"The study at somewhere cannot be opened"),
    "a storage that is not there": Case(
        flags(*QUICK, "--storage", "sqlite:////proc/none/study.db"), r"/proc/none/study.db cannot be opened"
    ),
    "no place for the report": Case(
        flags(*QUICK, "--reports", "/proc/reports"), r"Cannot write the report to /proc/rep"
    ),
    "a name that is a path": Case(flags(*QUICK, "--name", "a/b"), r"'a/b' is not a name for a run"),
    "no ray cluster without a token": Case(
        flags("--space", "mlp", "--task", "iris", "--executor", "ray", "--address", "10.1.2.3:6379"), r"RAY_AUTH_MODE"
    ),
}


def run_cli(args: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status of `searchkit ARGS`, in this process."""
    monkeypatch.setattr(sys, "argv", ["searchkit", *args])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = CASES[name]
    monkeypatch.chdir(tmp_path)
    status = run_cli(["search", *case.make(tmp_path)], monkeypatch)
    err = capsys.readouterr().err
    sentence = err.strip().splitlines()[-1]
    assert status == case.status, err
    assert "Traceback" not in err
    assert re.search(case.says, sentence, re.IGNORECASE), sentence
    assert sentence.startswith("searchkit: ")
    assert len(sentence) <= 250 or not sentence.startswith("searchkit: --"), "a sentence about a flag is short"
    assert list((tmp_path / "runs").glob("*")) + list((tmp_path / "reports").glob("*")) == [], "something is left"
    assert list(tmp_path.rglob("model.onnx")) == [] and list(tmp_path.rglob(".*.json.*")) == []


def test_no_cuda_is_said_before_there_is_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run_cli(["search", *QUICK, "--device", "cuda", "--name", "mine"], monkeypatch) == 2
    assert "torch finds no CUDA device here" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_missing_ray_is_said_before_there_is_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "ray" else real(name, *more))
    assert run_cli(["search", "--space", "mlp", "--task", "iris", "--executor", "ray"], monkeypatch) == 2
    assert "pip install 'searchkit[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("refused", [("--max-params", "3"), ("--time-budget", "0.01s")], ids=lambda words: words[0])
def test_the_name_of_a_refused_question_can_be_used_again(
    refused: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ("search", *QUICK, "--trials", "1", "--epochs", "1", "--recipe", "none", "--name", "mine")
    assert run_cli([*small, *refused], monkeypatch) in (2, 3)
    assert run_cli([*small], monkeypatch) == 0
