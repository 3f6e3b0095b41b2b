"""The Prefect server as a process of ours: started early on a port nobody can take, awaited late, gone with its parent.

Why not `prefect server start`: its port is chosen before it is bound (3 to 9 s later, so two nights that start at
once collide), it outlives a killed parent, and it lets everybody in. Here it is Prefect's own application under
uvicorn, on sockets of ours and behind the door. Ready after 3.0 s, of which 2.8 s are Prefect's imports, and after
8.5 s where the database is yet to be created (2 idle cores): start it first, wait for it last.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from flows.servers.access import Access
from flows.servers.process import LOOPBACK, READY_TIMEOUT_S, STOP_TIMEOUT_S, Port, answers, listen, locked, serve
from flows.servers.process import launch as launch_server
from tasks.core.errors import StageError

if TYPE_CHECKING:
    from prefect.server.database import PrefectDBInterface

POOL = "nightschool"
"""The work pool of our deployments, which the worker of `up` serves."""


def environment(home: Path, api_url: str, *, ours: bool = True) -> dict[str, str]:
    """Variables for a process that runs or schedules flows; they only count if set before Prefect is imported.

    Prefect's files stay inside `home`, nothing is sent to anybody, the terminal stays ours (Prefect writes warnings
    there and everything else to the run's page), loopback addresses never go through a proxy, and the home's secret
    goes to a server of this home (`ours`) only.
    """
    home = home.resolve()
    direct = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), LOOPBACK, "localhost"]))
    return {
        "NIGHTSCHOOL_HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": api_url,
        **Access.of(home).prefect_variables(ours=ours),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",  # a missing server is an error, not a second server
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
        "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
        "PREFECT_CLI_PROMPT": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "NO_PROXY": direct,
        "no_proxy": direct,
    }


def launch(home: Path, port: Port, log: Path, *, private: bool) -> "subprocess.Popen[bytes]":
    """Start a Prefect server that serves `port`.

    A private server has neither UI nor scheduler and ends as soon as its standard input is closed, which the kernel
    does however this process ends. (PR_SET_PDEATHSIG would do so on Linux only, and already when the thread that
    started the server ends.) Any other server is left running.
    """
    home = home.resolve()
    served = {
        **environment(home, f"{port.url}/api"),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": Access.of(home).page(port.url),
        "PREFECT_SERVER_UI_API_URL": "/api",  # relative: the pages also work through a tunnel
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home / "prefect" / "ui"),  # not into the installed package
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }
    if private:
        # Only the server of `up` registers the types of blocks: two servers that do so at once fail on each other.
        served["PREFECT_SERVER_REGISTER_BLOCKS_ON_START"] = "false"
        served["PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION"] = "false"
    return launch_server(__name__, home, port, log, served, private=private)


class PrivateServer:
    """A Prefect server for one run, over the same database as that of `nightschool up`, which later shows the run."""

    def __init__(self, home: Path, process: "subprocess.Popen[bytes]", api_url: str, log: Path) -> None:
        self.api_url = api_url
        self._home = home
        self._process = process
        self._log = log

    @classmethod
    def start(cls, home: Path) -> Self:
        """Return at once; `api_url` is final, and requests to it are answered as soon as the server is up."""
        log = home / "logs" / "prefect-private.log"
        port = listen()
        return cls(home, launch(home, port, log, private=True), f"{port.url}/api", log)

    def wait(self, timeout: float = READY_TIMEOUT_S) -> str:
        """Return the API's URL once it answers; raise StageError if the server dies or `timeout` seconds pass."""
        deadline = time.monotonic() + timeout
        while not answers(self._home, f"{self.api_url}/health"):
            died = self._process.poll() is not None
            if died or time.monotonic() > deadline:
                self.stop()
                how = "ended while starting" if died else f"did not answer within {timeout:.0f} s"
                raise StageError(f"the private Prefect server {how}; its log is {self._log}")
            time.sleep(0.05)
        return self.api_url

    def stop(self) -> None:
        """End the server after it has been told everything that this process still held back for it."""
        if self._process.poll() is None:
            _flush_prefect_client()
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _flush_prefect_client() -> None:
    """Send the task states and log lines that Prefect would otherwise send at the interpreter's exit: too late."""
    with ThreadPoolExecutor(1) as thread:  # where a loop is running, `drain_all` would only give back a coroutine
        if "prefect.events.worker" in sys.modules:
            from prefect.events.worker import EventsWorker

            thread.submit(EventsWorker.drain_all, timeout=5).result()
        if "prefect.logging.handlers" in sys.modules:
            from prefect.logging.handlers import APILogWorker

            thread.submit(APILogWorker.drain_all, timeout=5).result()


def run(home: Path, descriptors: str, private: bool) -> None:
    """Be the server, on inherited listening sockets, until SIGTERM."""
    if private:
        threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()

    os.environ.pop("PREFECT_SERVER_API_AUTH_STRING", None)  # the door asks, for pages and programs alike
    from prefect.server.api.server import create_app
    from prefect.server.database import provide_database_interface

    # SQLite's migrations are no transaction: two servers that create the same database at once would break it.
    with locked(home / "prefect" / "migration.lock"):
        asyncio.run(_prepare(provide_database_interface(), None if private else pool_template(home)))
    app = create_app(ephemeral=private, final=True)
    for folder in (home / "prefect" / "ui").rglob("*/"):
        folder.chmod(0o700)  # Prefect copies its pages with the modes of the installed package
    serve(app, Access.of(home), descriptors)


def pool_template(home: Path) -> dict[str, Any]:
    """What a deployment may say about the process of its runs: the folder, and no command, environment or label.

    The worker ignores what the job configuration does not name; the schema tells whoever asks for more.
    """
    variables = {
        "working_dir": {"type": "string", "description": "The folder in which a run is executed."},
        "env": {
            "type": "object",
            "description": "The worker's own environment holds; its home may be named.",
            "properties": {"NIGHTSCHOOL_HOME": {"enum": [str(home)]}},
            "additionalProperties": False,
        },
    }
    return {
        "job_configuration": {"working_dir": "{{ working_dir }}"},
        "variables": {"type": "object", "properties": variables, "additionalProperties": False},
    }


async def _prepare(database: "PrefectDBInterface", template: dict[str, Any] | None) -> None:
    """Create or migrate the database, and make the work pool what it has to be before anybody is answered."""
    await database.create_db()
    if template is None:
        return
    from prefect.server import models, schemas

    workers: Any = models.workers  # a decorator hides from mypy that these are coroutines
    async with database.session_context(begin_transaction=True) as session:
        pool = await workers.read_work_pool_by_name(session=session, work_pool_name=POOL)
        if pool is None:
            made = schemas.actions.WorkPoolCreate(name=POOL, type="process", base_job_template=template)
            await workers.create_work_pool(session=session, work_pool=made)
        elif pool.base_job_template != template:
            change = schemas.actions.WorkPoolUpdate(base_job_template=template)
            await workers.update_work_pool(session=session, work_pool_id=pool.id, work_pool=change)


def _end_with_parent() -> None:
    """Wait for the end of standard input, then leave: politely first, so that the last records are written."""
    while os.read(0, 1024):  # not sys.stdin: its lock, held here, would crash the interpreter's exit
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_TIMEOUT_S)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], sys.argv[3:] == ["private"])
