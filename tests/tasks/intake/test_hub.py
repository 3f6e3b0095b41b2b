"""The hub is asked briefly, and where it is out of reach nobody waits."""

import socket
from collections.abc import Iterator

import pytest

from tasks.intake.hub import OFFLINE, hub_answers


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No earlier answer, and none of the shell's settings."""
    for name in (*OFFLINE, "HTTPS_PROXY", "https_proxy", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    hub_answers.cache_clear()
    yield
    hub_answers.cache_clear()


def test_a_hub_that_listens_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert hub_answers()


def test_a_proxy_stands_for_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
        assert hub_answers()


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "http://[::1]:1", "http://", "nonsense"])
def test_a_hub_that_does_not_listen_is_told_at_once(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert not hub_answers()


@pytest.mark.parametrize("name", OFFLINE)
def test_a_hub_that_the_environment_forbids_is_not_asked(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv(name, "1")
        assert not hub_answers()
