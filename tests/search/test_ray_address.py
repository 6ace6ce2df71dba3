"""A Ray address that does not answer is one sentence, soon, and leaves nothing behind."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from searchkit.core.errors import BadInput
from searchkit.search import ray_address
from searchkit.search.ray_address import require_answer, require_ray

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is an extra and not installed")
REPOSITORY = Path(__file__).parents[2]
MOST_SECONDS = 15.0


@pytest.fixture
def silent() -> Iterator[str]:
    """A port that takes connections and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{unused.getsockname()[1]}"


@needs_ray
def test_a_closed_port_leaves_nothing_in_the_runs_folder(closed: str, tmp_path: Path) -> None:
    words = ["search", "--space", "mlp", "--task", "iris", "--executor", "ray", "--address", closed]
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "cli.py"), *words], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2, done.stderr
    assert f"No Ray cluster answers at {closed} (Connection refused); start it with" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and not (tmp_path / "runs").exists()


@needs_ray
def test_what_listens_and_is_not_ray_is_told_in_time(silent: str) -> None:
    began = time.monotonic()
    with pytest.raises(BadInput, match=r"^No Ray cluster answers at .* \(what listens there is not Ray, or hangs\); "):
        require_answer(silent)
    assert time.monotonic() - began < MOST_SECONDS
    assert ray_address.CONNECT_SECONDS + ray_address.ANSWER_SECONDS < MOST_SECONDS - 3, "the start takes time too"


def test_a_machine_that_is_not_there_is_told_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def connect(place: tuple[str, int], timeout: float) -> socket.socket:
        asked.append(timeout)
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(BadInput, match=r"No Ray cluster answers at ray://10.1.2.3:10001 \(no connection in time\)"):
        require_answer("ray://10.1.2.3:10001")
    assert asked == [ray_address.CONNECT_SECONDS]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:ray", "127.0.0.1:0", "127.0.0.1:99999", "ray://localhost"])
def test_an_address_without_a_port_is_refused(address: str) -> None:
    with pytest.raises(BadInput, match="has no port; write HOST:PORT, such as 10.0.0.1:6379"):
        require_answer(address)


@pytest.mark.parametrize(
    ("status", "said", "sentence"),
    [
        (1, b"RPC error: InvalidAuthToken: Authentication", "asks for a token; set RAY_AUTH_MODE=token"),
        (1, b"Traceback", r"No Ray cluster answers at 127.0.0.1:\d+ \(its health check failed\)"),
        (0, b"", ""),
    ],
)
def test_what_the_health_check_says(
    silent: str, monkeypatch: pytest.MonkeyPatch, status: int, said: bytes, sentence: str
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **how: object) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        return subprocess.CompletedProcess(command, status, b"", said)

    monkeypatch.setattr(subprocess, "run", run)
    if sentence:
        with pytest.raises(BadInput, match=sentence):
            require_answer(silent)
    else:
        require_answer(silent)
    assert commands[0][-3:] == ["health-check", "--address", silent]


def test_a_cluster_that_is_started_here_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda *given, **named: pytest.fail("it was looked for"))
    for address in (None, "local"):
        require_answer(address)


@needs_ray
def test_rays_client_without_its_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "grpc" else real(name, *more))
    with pytest.raises(BadInput, match=r"ray://localhost:1 needs Ray's client: pip install 'ray\[client\]'"):
        require_ray("ray://localhost:1")
