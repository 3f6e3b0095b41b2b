"""An MLflow server for a test, started as `nightschool up` starts it."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from flows.servers.access import Access
from flows.servers.mlflow import launch
from flows.servers.process import Port, answers


def find_free_port() -> int:
    """A loopback port that nobody listens on now."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mlflow_server(home: Path, port: int) -> Iterator[None]:
    """The MLflow server of `nightschool up` over `home`, whose secret this process's environment holds meanwhile; it
    is killed without a warning when the block ends."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in Access.of(home).mlflow_variables().items():
            patch.setenv(name, value)
        server = launch(home, Port(port), home / "server.log")
        try:
            wait_until(lambda: answers(home, f"http://127.0.0.1:{port}/health"), timeout_s=120)
            yield
        finally:
            server.kill()
            server.wait()


def wait_until(condition: Callable[[], object], timeout_s: float = 60) -> None:
    """Return when the condition holds; fail the test if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
