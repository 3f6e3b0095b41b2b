"""The servers that stay up between nights, and the private one that must not."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from flows.servers.access import Access
from flows.servers.connection import prefect_server, tracking_uri
from flows.servers.prefect import PrivateServer, environment
from flows.servers.process import answers, listen
from flows.servers.services import Service, Services, down, running, up
from tasks.core.errors import StageError


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("services")


@pytest.fixture(scope="module")
def services(home: Path) -> Iterator[Services]:
    """One `up` for the whole module; afterwards nothing that it started may be left."""
    first = up(home)
    assert first.started == ("prefect", "mlflow", "worker")
    yield first
    now = running(home) or first
    processes = [process for part in now.parts if (process := part.process())]
    assert len(processes) == 3, "Prefect, MLflow and the worker"
    assert set(down(home)) == {"prefect", "mlflow", "worker"}
    assert not any(process.is_running() for process in processes)
    assert running(home) is None
    assert down(home) == ()


@pytest.fixture(autouse=True)
def no_server_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def let_in(home: Path) -> dict[str, Any]:
    """What a request to a server of this home needs."""
    return {"headers": {"Authorization": Access.of(home).authorization}, "trust_env": False}


def eventually(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_everything_answers_when_up_returns(home: Path, services: Services) -> None:
    assert answers(home, f"{services.api_url}/health")
    assert answers(home, f"{services.mlflow_url}/health")
    pool = httpx.get(f"{services.api_url}/work_pools/nightschool", **let_in(home)).json()
    assert (pool["type"], pool["status"]) == ("process", "READY")
    assert tracking_uri(home) == services.mlflow_url


def test_all_state_lies_in_the_home_folder(home: Path, services: Services) -> None:
    assert {path.name for path in home.iterdir()} >= {"prefect", "mlflow.db", "logs", "services.json"}
    assert (home / "prefect" / "prefect.db").stat().st_size > 0
    assert Path(environment(home, services.api_url or "")["PREFECT_HOME"]).is_relative_to(home)


def test_artifacts_are_served_by_mlflow(home: Path, services: Services) -> None:
    experiment = httpx.post(
        f"{services.mlflow_url}/api/2.0/mlflow/experiments/create", json={"name": "served"}, **let_in(home)
    ).json()
    found = httpx.get(
        f"{services.mlflow_url}/api/2.0/mlflow/experiments/get", params=experiment, **let_in(home)
    ).json()["experiment"]
    assert found["artifact_location"].startswith("mlflow-artifacts:/")


def test_a_second_up_starts_nothing(home: Path, services: Services) -> None:
    again = up(home)
    assert again.started == ()
    assert set(again.parts) == set((running(home) or services).parts)


def test_ups_at_the_same_time_agree(home: Path, services: Services) -> None:
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(up, [home] * 4))
    assert all(set(result.parts) == set(results[0].parts) for result in results)


@pytest.mark.parametrize("name", ["mlflow", "worker"])
def test_a_dead_part_is_started_again_at_its_old_address(home: Path, services: Services, name: str) -> None:
    before = up(home)
    part = before.part(name)
    assert part is not None
    os.kill(part.pid, signal.SIGKILL)
    assert eventually(lambda: part.process() is None)
    assert name not in {part.name for part in (running(home) or before).parts}
    again = up(home)
    replacement = again.part(name)
    assert replacement is not None
    assert again.started == (name,)
    assert (replacement.url, replacement.pid != part.pid) == (part.url, True)


def test_runs_use_the_server_of_up(home: Path, services: Services) -> None:
    with prefect_server(home) as api_url:
        assert api_url == services.api_url


def test_runs_prefer_the_server_that_the_environment_names(
    home: Path, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    with prefect_server(home) as api_url:
        assert api_url == "http://prefect.example/api"


def test_without_up_runs_get_a_private_server_until_they_end(home: Path, services: Services, tmp_path: Path) -> None:
    (tmp_path / "prefect").mkdir()
    with (
        sqlite3.connect(home / "prefect" / "prefect.db") as made,
        sqlite3.connect(tmp_path / "prefect" / "prefect.db") as copy,
    ):
        made.backup(copy)  # spares the 5 s in which a database is created
    with pytest.raises(KeyboardInterrupt), prefect_server(tmp_path) as api_url:
        assert answers(tmp_path, f"{api_url}/health")
        raise KeyboardInterrupt
    assert not answers(tmp_path, f"{api_url}/health")
    assert running(tmp_path) is None
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


def test_private_servers_that_start_at_once_create_one_database(tmp_path: Path) -> None:
    with PrivateServer.start(tmp_path) as one, PrivateServer.start(tmp_path) as other:
        assert answers(tmp_path, f"{one.wait()}/health")
        flow = httpx.post(f"{one.api_url}/flows/", json={"name": "seen by both"}, **let_in(tmp_path)).json()
        assert httpx.get(f"{other.wait()}/flows/{flow['id']}", **let_in(tmp_path)).json()["name"] == "seen by both"


def test_a_private_server_ends_with_its_killed_parent(home: Path, services: Services) -> None:
    code = (
        "import sys, time; from pathlib import Path; from flows.servers.prefect import PrivateServer\n"
        "server = PrivateServer.start(Path(sys.argv[1])); print(server.wait(), flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout
        api_url = parent.stdout.readline().strip()
        [server] = psutil.Process(parent.pid).children()
        assert answers(home, f"{api_url}/health")
        parent.kill()
    assert eventually(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)
    assert not answers(home, f"{api_url}/health")


def test_a_start_that_fails_names_the_log_and_leaves_nothing_running(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database, " * 1000)
    with pytest.raises(StageError, match=r"mlflow.* ended while starting; its log is .*mlflow\.log"):
        up(tmp_path)
    assert "not a database" in (tmp_path / "logs" / "mlflow.log").read_text()
    assert running(tmp_path) is None
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]


def test_a_private_server_that_fails_names_its_log(tmp_path: Path) -> None:
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "prefect.db").write_text("this is no database, " * 1000)
    with pytest.raises(StageError, match=r"ended while starting; its log is .*prefect-private\.log"):
        PrivateServer.start(tmp_path).wait()


def test_down_spares_a_process_that_only_has_the_pid(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True) as other:
        part = Service("mlflow", other.pid, "another process", "http://127.0.0.1:5000", "")
        (tmp_path / "services.json").write_text(json.dumps({"parts": [vars(part)]}))
        assert running(tmp_path) is None
        assert down(tmp_path) == ()
        assert other.poll() is None


def test_the_next_free_port_is_taken() -> None:
    with listen() as taken, listen(taken.number) as following:
        assert taken.number < following.number < taken.number + 100
