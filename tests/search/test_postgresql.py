"""Several coordinators share one study through a real PostgreSQL server, started here on loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEBIAN = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)  # which stands on no PATH
FOLDERS = os.pathsep.join([os.environ.get("PATH", os.defpath), *DEBIAN])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an empty database."""
    pytest.importorskip("psycopg")
    initdb, pg_ctl = shutil.which("initdb", path=FOLDERS), shutil.which("pg_ctl", path=FOLDERS)
    if initdb is None or pg_ctl is None:
        pytest.skip("PostgreSQL's initdb and pg_ctl are not installed")
    # a path of its own: the server's user must be able to reach it
    folder = Path(f"/tmp/searchkit-postgresql-{os.getpid()}")
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []  # it refuses to run as root
    data, port = folder / "data", free_port()

    def run(*command: str) -> None:
        done = subprocess.run([*as_user, *command], cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"PostgreSQL does not start here: {done.stderr.strip()[-200:]}")

    try:
        run(initdb, "-D", str(data), "-A", "trust", "-U", "searchkit")
        log = folder / "log"
        run(pg_ctl, "-D", str(data), "-w", "-l", str(log), "-o", f"-p {port} -h 127.0.0.1 -k {folder}", "start")
        yield f"postgresql://searchkit@127.0.0.1:{port}/postgres"
        subprocess.run([*as_user, pg_ctl, "-D", str(data), "-m", "immediate", "stop"], capture_output=True, check=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


COORDINATOR = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import search_driver
from searchkit.context import Context
from searchkit.run import Run
from searchkit.tasks import registry
from searchkit.search.settings import SearchSettings
from searchkit.search.coordinator import search
from searchkit.core.space_file import load_space
from searchkit.core.space import Budget
tiny = load_space(search_driver.TINY)
run = Run.create(Path(sys.argv[1]), "shared", {{}})
ctx = Context(run, registry.load({{"task": "iris"}}), lambda name: tiny, seed=1, echo=lambda line: None)
budget = Budget(trials=8, epochs=2, rungs=2, eta=2, least_rung_steps=1)
search(tiny, ctx, SearchSettings(budget=budget, precision="fp32", storage=sys.argv[2]))
print(len(run.trials()))
"""


def test_two_coordinators_share_a_study(server: str, tmp_path: Path) -> None:
    import optuna

    script = COORDINATOR.format(tests=str(ROOT / "tests"))
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / name), server],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    printed = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    trained = [int(out.splitlines()[-1]) for out, _ in printed]
    storage = optuna.storages.RDBStorage(server)
    (study,) = optuna.study.get_all_study_names(storage)
    trials = optuna.load_study(study_name=study, storage=storage).trials
    storage.remove_session()
    storage.engine.dispose()
    done = [t for t in trials if t.user_attrs.get("status") == "trained"]
    assert sum(trained) == len(done) >= 8, [(t.number, t.user_attrs) for t in trials]
    assert len({t.user_attrs["key"] for t in done}) == len(done)
    assert not [t for t in trials if t.state == optuna.trial.TrialState.RUNNING]
