"""A cluster of three Ray nodes that share no files with the coordinator: what travels, dies and is shared out."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_weights

from searchkit.context import Context
from searchkit.core.errors import BadInput
from searchkit.core.serialization import freeze
from searchkit.core.space import Budget, Space
from searchkit.core.space_file import load_space, source_of
from searchkit.core.state import decode_state
from searchkit.run import Run
from searchkit.search import executors_ray
from searchkit.search.coordinator import search
from searchkit.search.executors import InProcess
from searchkit.search.executors_ray import Ray, require_room
from searchkit.search.jobs import Job, Outcome, worker_environment
from searchkit.search.results import history
from searchkit.search.settings import SearchSettings, Status
from searchkit.tasks import registry

ray = pytest.importorskip("ray", reason="Ray is an extra and not installed")

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 60.0

FAMILY = '''
import json, os, sys, time, uuid
from dataclasses import dataclass
from pathlib import Path
from torch import nn
from searchkit.core.space import Budget, Space
from searchkit.core.training import LogUniform, Training, TrainingSpace

MARKS = Path({marks!r})

@dataclass(frozen=True)
class Arch:
    width: int

def sample(trial, spec):
    return Arch(trial.suggest_int("width", 2, 40))

class Net(nn.Sequential):
    """Tells that it is trained by a worker of Ray, and where; goes on when nothing holds it."""
    waited = False
    def forward(self, x):
        if self.training and not self.waited and sys.argv[0].endswith("default_worker.py"):
            import ray
            here = ray.get_runtime_context()
            facts = dict(node=here.get_node_id(), gpus=ray.get_gpu_ids(), width=self[0].out_features, pid=os.getpid())
            mark = MARKS / f"{{uuid.uuid4().hex}}.tmp"
            mark.write_text(json.dumps(facts))
            mark.rename(mark.with_suffix(".json"))
            while (MARKS / "hold").exists():
                time.sleep(.01)
            self.waited = True
        return super().forward(x)

def build(arch, spec):
    (features,), (outputs,) = spec.inputs[0].shape, spec.outputs[0].shape
    return Net(nn.Linear(features, arch.width), nn.ReLU(), nn.Linear(arch.width, outputs))

SPACE = Space(name="telling", arch=Arch, accepts=lambda spec: None, sample=sample, build=build,
              training=TrainingSpace(Training(batch_size=64), {{"lr": LogUniform(1e-3, 3e-2)}}), task="breast-cancer",
              budget=Budget(trials=4, epochs=1, rungs=1), paper="none")
'''

NO_FILES = '''
"""Python itself refuses the worker processes of this cluster any file of the coordinator's."""
import os, sys
FORBIDDEN = os.environ.get("FORBIDDEN_TO_WORKERS", "")
def refuse(event, args):
    if event in ("open", "os.listdir", "os.scandir", "sqlite3.connect", "os.mkdir", "os.rename"):
        if FORBIDDEN and str(args[0]).startswith(FORBIDDEN):
            raise PermissionError(f"a worker asks for {args[0]}")
sys.addaudithook(refuse)
'''


class Nodes:
    """The cluster: a head that trains nothing, and two nodes of four CPUs and a pretended GPU."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.small = {"object_store_memory": 2**27}
        head = {"num_cpus": 0, "include_dashboard": False, **self.small}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.fill()

    def fill(self) -> None:
        while len(self.cluster.worker_nodes) < 2:
            self.cluster.add_node(wait=False, num_cpus=4, num_gpus=1, **self.small)
        self.cluster.wait_for_nodes()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.cluster.address.rpartition(':')[2]}"  # of this machine: it needs no token

    def kill(self, node_id: str) -> None:
        """Every process of a node at once, as when its machine loses power."""
        node = next(n for n in self.cluster.worker_nodes if n.node_id == node_id)
        self.cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The coordinator's folder, which the workers may not open."""
    return tmp_path_factory.mktemp("coordinator")


@pytest.fixture(scope="module")
def nodes(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    hooks = tmp_path_factory.mktemp("hooks")
    (hooks / "sitecustomize.py").write_text(NO_FILES)
    path = worker_environment([str(REPOSITORY), *sys.path])["PYTHONPATH"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(hooks), path]))
        patch.setenv("FORBIDDEN_TO_WORKERS", str(place))
        patch.setenv("OMP_NUM_THREADS", "1")
        made = Nodes()
        try:
            yield made
        finally:
            ray.shutdown()
            made.cluster.shutdown()


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    folder = tmp_path / "marks"
    folder.mkdir()
    (folder / "hold").touch()
    return folder


@pytest.fixture
def telling(marks: Path, place: Path, tmp_path: Path) -> Space:
    file = place / f"telling_{tmp_path.name}.py"
    file.write_text(FAMILY.format(marks=str(marks)))
    return load_space(file)


def marked(marks: Path, at_least: int) -> list[dict[str, Any]]:
    """What trainings have begun, once there are so many."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = [json.loads(path.read_text()) for path in marks.glob("*.json")]
        if len(found) >= at_least:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not {at_least} trainings began")


def outcomes(executor: Ray, n: int) -> list[Outcome]:
    found: list[Outcome] = []
    deadline = time.monotonic() + PATIENCE
    while len(found) < n and time.monotonic() < deadline:
        found += executor.wait(1.0)
    return found


# ── a node dies ──────────────────────────────────────────────────────────────────────────────────────────────────────


def searched(root: Path, space: Space, watch: Callable[[Status], None], **how: Any) -> Run:
    """A search of data in a file that is gone when the search begins."""
    root.mkdir()
    data = root / "data.csv"
    rows = [f"{i % 7},{i % 11},{(i % 7 + i % 11) % 2}" for i in range(300)]
    data.write_text("\n".join(["a,b,y", *rows]))
    task = registry.load({"data": str(data), "target": "y"})
    data.unlink()
    run = Run.create(root, "run", {})
    context = Context(run, task, lambda name: space, seed=3, echo=lambda line: None)
    budget = Budget(trials=6, epochs=2, rungs=2, eta=2, least_rung_steps=1)
    search(space, context, SearchSettings(budget=budget, sampler="random", precision="fp32", **how), watch)
    return run


def test_a_node_dies_in_mid_trial_and_no_trial_is_lost_or_trained_twice(
    nodes: Nodes, telling: Space, marks: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.fill()
    killed: list[dict[str, Any]] = []
    text = Path(source_of(telling)["path"]).read_text()

    class Elsewhere(Ray):
        """The executor of a coordinator whose family file no other machine has."""

        def submit(self, job: Job) -> None:
            Path(job.space["path"]).unlink(missing_ok=True)
            super().submit(job)

    def watch(status: Status) -> None:
        if status.running == 3 and not killed:
            killed.extend(marked(marks, 3))
            nodes.kill(killed[0]["node"])
            (marks / "hold").unlink()

    monkeypatch.setattr(executors_ray, "Ray", Elsewhere)
    root = place / tmp_path.name
    run = searched(root, telling, watch, executor="ray", address=nodes.address, workers=3)
    on_it = [mark["width"] for mark in killed if mark["node"] == killed[0]["node"]]
    began = Counter(mark["width"] for mark in marked(marks, 1))
    rows, events = history(run), run.lines("search.jsonl")
    lost = [event["trial"] for event in events if event["event"] == "lost"]
    assert sorted(on_it) == sorted(row["params"]["width"] for row in rows if row["number"] in lost) and lost
    assert [row["status"] for row in rows] == ["trained"] * 6
    results = Counter((e["trial"], e["rung"]) for e in events if e["event"] in ("rung", "trained"))
    assert set(results.values()) == {1}, "a rung has two results"
    assert len([e for e in events if e["event"] == "trained"]) == len(run.trials()) == 6
    # a rung begins once, and once more if its node died
    rungs = Counter(row["params"]["width"] for row in rows for _ in range(row["rung"] + 1))
    assert began == rungs + Counter(on_it)

    # the same search in one process: the same candidates, with the same losses at the first rung
    Path(source_of_text(telling, text)).write_text(text)
    alone = searched(place / f"{tmp_path.name}-inline", telling, lambda status: None)
    assert first_losses(run) == first_losses(alone)


def source_of_text(space: Space, text: str) -> str:
    """Where the family's file was."""
    return str(sys.modules[space.sample.__module__].__file__)


def first_losses(run: Run) -> dict[int, float]:
    return {a.made_by["number"]: pytest.approx(run.notes(a, "losses")[0][0], rel=1e-6) for a in run.trials()}


# ── GPUs ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def jobs(space: Space, n: int) -> list[Job]:
    training = freeze(space.training.default)
    return [Job(i, 0, 1, source_of(space), {"width": 3 + i}, training, seed=1) for i in range(n)]


def test_two_trials_share_a_gpu_at_half_each_and_a_fifth_waits(nodes: Nodes, telling: Space, marks: Path) -> None:
    nodes.fill()
    text = Path(source_of(telling)["path"])
    five = jobs(telling, 5)
    pack = registry.load({"task": "breast-cancer", "split_seed": 0}).pack()
    text.unlink()
    executor = Ray(pack, workers=5, address=nodes.address, gpus_per_trial=0.5)
    try:
        for job in five:
            executor.submit(job)
        at_once = marked(marks, 4)
        assert executor.wait(1.0) == [] and len(marked(marks, 4)) == 4, "four CPUs a node are free, the GPUs are not"
        assert Counter((mark["node"], *mark["gpus"]) for mark in at_once) == Counter(
            {(node, 0): 2 for node in {mark["node"] for mark in at_once}}
        )
        (marks / "hold").unlink()
        done = outcomes(executor, 5)
        assert [outcome.failure for outcome in done] == [""] * 5, done[0].details
    finally:
        executor.close()


def test_a_gpu_that_no_node_has_is_one_sentence(nodes: Nodes) -> None:
    nodes.fill()
    with pytest.raises(BadInput, match=r"^No node of the Ray cluster can hold a training \(a worker .* 2 GPUs\)") as no:
        Ray(({}, {}), workers=1, address=nodes.address, gpus_per_trial=2)
    assert "\n" not in str(no.value) and str(no.value).endswith("add a node.")
    assert not ray.is_initialized(), "the connection is left open"


@pytest.mark.parametrize(
    ("n", "gpus", "holds"),
    [(1, 0.0, True), (1, 1.0, True), (1, 1.5, False), (2, 1.0, True), (3, 1.0, False), (4, 0.5, True), (5, 0.5, False),
     (8, 0.0, True), (9, 0.0, False)],
)  # fmt: skip
def test_what_a_cluster_can_hold(n: int, gpus: float, holds: bool) -> None:
    alive = {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}}
    cluster = [alive, alive, {"Alive": True, "Resources": {}}, {"Alive": False, "Resources": {"CPU": 99.0, "GPU": 9.0}}]
    if holds:
        require_room(cluster, n, gpus)
    else:
        with pytest.raises(BadInput, match="at most 4 CPUs and 1 GPUs each"):
            require_room(cluster, n, gpus)


# ── one trial on several workers ─────────────────────────────────────────────────────────────────────────────────────


def test_two_workers_train_one_network_as_one_does(nodes: Nodes) -> None:
    nodes.fill()
    task = registry.load({"task": "digits", "split_seed": 0})
    space = load_space(REPOSITORY / "spaces" / "mlp.py")
    training = {**freeze(space.training.default), "epochs": 2, "augment": [], "batch_size": 100}
    from searchkit.search.candidates import draw
    from searchkit.search.choices import at

    arch = draw(space, task.spec, at(0.1), epochs=2, way="").plain["arch"] | {"dropout": 0.0}
    job = Job(0, 0, 2, source_of(space), arch, training, seed=1)
    executor = Ray(task.pack(), workers=2, address=nodes.address, workers_per_trial=2)
    assert executor.capacity == 1
    try:
        executor.submit(job)
        (two,) = outcomes(executor, 1)
    finally:
        executor.close()
    alone = InProcess(task, space)
    alone.submit(job)
    (one,) = alone.wait(1.0)
    assert two.failure == one.failure == "", two.reason + two.details + one.reason
    curves = [decode_state(outcome.state).numbers["curve"] for outcome in (two, one)]
    assert [row["loss"] for row in curves[0]] == pytest.approx([row["loss"] for row in curves[1]], rel=1e-3)
    assert two.metrics == pytest.approx(one.metrics, abs=0.01)
    weights = load_weights(two.weights), load_weights(one.weights)
    assert weights[0].keys() == weights[1].keys()
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-2, atol=1e-3)
