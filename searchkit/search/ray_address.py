"""What is checked of Ray before a search starts: that it is installed, and that the address may be used and answers."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import socket
import subprocess
import sys

from searchkit.core.errors import BadInput

CONNECT_SECONDS = 3.0
"""For one TCP connection; a machine that is not there answers nothing at all."""

ANSWER_SECONDS = 8.0
"""For Ray's own health check once the port is open. Ray's client itself gives up after 81 s, and ends the process by a
SystemExit (Ray 2.60, measured)."""

CLIENT = "ray://"


def require_ray(address: str | None) -> None:
    """Check that Ray is installed and that `address` may be used. Raises BadInput."""
    if importlib.util.find_spec("ray") is None:
        raise BadInput("The executor ray needs Ray: pip install 'searchkit[ray]'.")
    if address is not None and address.startswith(CLIENT) and importlib.util.find_spec("grpc") is None:
        raise BadInput(
            f"The Ray address {address} needs Ray's client: pip install 'ray[client]', or search on a machine of the "
            "cluster and leave ray:// out."
        )
    require_token(address)


def require_answer(address: str | None) -> None:
    """Check within 15 s that a cluster answers at the address. Raises BadInput.

    Args:
        address: Of the cluster; None for one that is started here, which is not checked.
    """
    if address is None or address == "local":
        return
    gone = f"No Ray cluster answers at {address}"
    advice = "start it with `ray start --head`, or mend --address."
    host, port = _place(address)
    if host:
        if not port.isdigit() or not 0 < int(port) < 2**16:
            raise BadInput(f"The Ray address {address} has no port; write HOST:PORT, such as 10.0.0.1:6379.")
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            why = "no connection in time" if isinstance(error, TimeoutError) else error.strerror or str(error)
            raise BadInput(f"{gone} ({why}); {advice}") from error
    if address.startswith(CLIENT):
        return  # Ray's client has time limits of its own
    command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "health-check"]
    try:
        found = subprocess.run(
            [*command, *(["--address", f"{host}:{port}"] if host else [])],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=ANSWER_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BadInput(f"{gone} (what listens there is not Ray, or hangs); {advice}") from error
    if found.returncode and b"InvalidAuthToken" in found.stderr:
        raise BadInput(
            f"The Ray cluster at {address} asks for a token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or "
            "RAY_AUTH_TOKEN) to the cluster's own."
        )
    if found.returncode:
        raise BadInput(f"{gone} (its health check failed); {advice}")


def _place(address: str) -> tuple[str, str]:
    """Host and port; ("", "") where Ray itself finds the cluster, for "auto"."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    return (host.strip("[]") or address, port) if address else ("", "")


def require_token(address: str | None) -> None:
    """Check that a cluster on another machine has Ray's token authentication on: an open port runs anybody's code.

    Args:
        address: Of the cluster; None for one that is started here.

    Raises:
        BadInput: It has it off.
    """
    if address is None or _is_loopback(address) or os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        return
    raise BadInput(
        f"The Ray address {address} is not on this machine and token authentication is off; set RAY_AUTH_MODE=token "
        "and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) here and on the cluster, or leave --address out."
    )


def _is_loopback(address: str) -> bool:
    """Whether the address is this machine's.

    "auto" may name a cluster anywhere (RAY_ADDRESS, a file in /tmp), so it is not; "local" starts one here.
    """
    host = address.partition("://")[2] or address
    host = host.rsplit(":", 1)[0].strip("[]") if ":" in host else host
    if host in ("localhost", "local"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
