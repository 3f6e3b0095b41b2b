"""What many tests need: a Prefect server of their own, and the optional real data beside the checkout."""

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis
import psutil
import pytest
import yaml

from tests.tiny import SERVERS, TINY, Commands

# Tests run side by side: a tiny training on one thread takes 8 s, on two contended ones up to 52 s.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
# Tests answer for their own folders: what the developer's shell points at must not be touched.
for name in ("NIGHTSCHOOL_HOME", *SERVERS):
    os.environ.pop(name, None)

# A slow machine is not a failure of the property that is tested.
hypothesis.settings.register_profile("nightschool", deadline=None)
hypothesis.settings.load_profile("nightschool")

PROJECT = Path(__file__).resolve().parent.parent
SHARED_DATA = PROJECT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A private Prefect server, known to this process's environment before Prefect is imported."""
    from flows.servers.prefect import PrivateServer, environment

    home = tmp_path_factory.mktemp("prefect")
    with PrivateServer.start(home) as server:
        variables = environment(home, server.api_url)
        variables.pop("NIGHTSCHOOL_HOME")
        os.environ.update(variables)
        yield server.wait()
        for name in variables:
            os.environ.pop(name, None)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the checkout; a clone without it skips the tests that want it."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the optional data folder ../shared/data is not here")
    return SHARED_DATA


@pytest.fixture
def tiny(tmp_path: Path) -> Commands:
    """A fresh home and the tiny recipe."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(TINY))
    return Commands(tmp_path / "home", recipe)


def note_listeners(parent: psutil.Process, found: dict[int, set[str]]) -> None:
    """Note on which ports a process and its descendants listen, and who, by the module that Python was started with,
    until the process ends."""
    with suppress(psutil.NoSuchProcess):
        while parent.status() != psutil.STATUS_ZOMBIE:
            for process in [parent, *parent.children(recursive=True)]:
                with suppress(psutil.Error):
                    for connection in process.net_connections("inet"):
                        if connection.status == psutil.CONN_LISTEN:
                            found.setdefault(connection.laddr.port, set()).add(process.cmdline()[2])
            time.sleep(0.1)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One finished night of the tiny recipe for the tests of all workers, which only read it: its folder (home,
    tiny.yaml) and its entry."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # each worker has a folder of its own below the run's
    folder = shared / "finished"
    folder.mkdir(exist_ok=True)
    entry = folder / "night.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not entry.exists():
            (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
            process = Commands(folder / "home", folder / "tiny.yaml").start("run", str(folder / "tiny.yaml"), "--json")
            listened: dict[int, set[str]] = {}
            watch = threading.Thread(target=note_listeners, args=(psutil.Process(process.pid), listened))
            watch.start()
            output, errors = process.communicate(timeout=300)
            watch.join()
            assert process.returncode == 0, errors
            (folder / "listened.json").write_text(json.dumps({port: sorted(who) for port, who in listened.items()}))
            entry.write_text(output)
    return folder, json.loads(entry.read_text())
