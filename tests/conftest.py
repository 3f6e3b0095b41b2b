"""What many tests need: a Prefect server of their own, and the optional real data beside the checkout."""

import json
import os
import sys
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
from xdist.scheduler import LoadFileScheduling

from tests.prefect_database import copy_database, with_database
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


LONG = ("tests/browser/", "tests/chaos/", "tests/flows/", "tests/tasks/training/")
"""Whole nights, servers and trainings as processes: minutes a file."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is long begins first: begun last, it would leave the other workers idle."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


class Together(LoadFileScheduling):  # type: ignore[misc]
    """Gives each worker whole files, and the whole folder where they share servers."""

    def _split_scope(self, nodeid: str) -> str:
        return "browser" if nodeid.startswith("tests/browser/") else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Together:
    return Together(config, log)


def folder_of_the_run(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder that all workers of this run of pytest share."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # each worker has a folder of its own below the run's
    (shared / name).mkdir(exist_ok=True)
    return shared / name


@pytest.fixture(scope="session")
def prefect_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of Prefect's for homes of all workers (`with_database`): its creation costs 5 s."""
    from flows.servers.prefect import PrivateServer
    from flows.servers.process import locked

    folder = folder_of_the_run(tmp_path_factory, "created")
    with locked(folder / "lock"):
        if not (folder / "prefect.db").exists():
            with PrivateServer.start(folder / "home") as server:
                server.wait()
            copy_database(folder / "home" / "prefect" / "prefect.db", folder / "prefect.db")
    return folder / "prefect.db"


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Iterator[str]:
    """A private Prefect server, known to this process's environment and to Prefect, if another test imported it."""
    from flows.servers.prefect import PrivateServer, environment

    home = with_database(tmp_path_factory.mktemp("prefect"), prefect_database)
    with PrivateServer.start(home) as server:
        variables = environment(home, server.api_url)
        variables.pop("NIGHTSCHOOL_HOME")
        os.environ.update(variables)
        read_prefect_settings_again()
        yield server.wait()
        for name in variables:
            os.environ.pop(name, None)
        read_prefect_settings_again()


def read_prefect_settings_again() -> None:
    """Prefect reads the environment when it is imported; knowing no server, it would start one for each process."""
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


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


@pytest.fixture
def ready(tiny: Commands, prefect_database: Path) -> Commands:
    """The same, where nothing is in the home but Prefect's database."""
    with_database(tiny.home, prefect_database)
    return tiny


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
    from flows.servers.process import locked

    folder = folder_of_the_run(tmp_path_factory, "finished")
    entry = folder / "night.json"
    with locked(folder / "lock"):
        if not entry.exists():
            (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
            process = Commands(folder / "home", folder / "tiny.yaml").start("run", str(folder / "tiny.yaml"), "--json")
            listened: dict[int, set[str]] = {}
            watch = threading.Thread(target=note_listeners, args=(psutil.Process(process.pid), listened))
            watch.start()
            try:
                output, errors = process.communicate(timeout=500)
            finally:
                process.kill()  # of no effect once it has ended
            watch.join()
            assert process.returncode == 0, errors
            (folder / "listened.json").write_text(json.dumps({port: sorted(who) for port, who in listened.items()}))
            entry.write_text(output)
    return folder, json.loads(entry.read_text())
