"""What stays up between nights: a Prefect server, an MLflow server and a worker, known by home/services.json.

`up` starts them side by side and detached, `down` ends exactly them: a process is ours only if its pid and its
creation time are the recorded ones. The first `up` of a home takes 10 s, later ones 7 s, one that finds all up
0.04 s (`time nightschool up`, 2 cores); nearly all of it is the import of Prefect and MLflow.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from flows.servers import mlflow, prefect
from flows.servers.access import Access, make_home
from flows.servers.prefect import POOL, environment
from flows.servers.process import (
    READY_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Port,
    answers,
    fetch,
    lets_everybody_in,
    listen,
    locked,
    spawn,
)
from models.files import write_file
from tasks.core.errors import StageError
from tasks.core.processes import identity

PREFECT_PORT = 4200
MLFLOW_PORT = 5000
CLOCK_SLACK_S = 2.0
"""Clock corrections shift creation times by less than this; no pid comes round so soon."""
RELEASE_S = 1.0
"""How long `up` waits for the port of a part that has just been killed, in seconds."""
RUN_GRACE_S = 30.0
"""How long `down` waits for a flow run to write its checkpoint, in seconds."""


@dataclass(frozen=True)
class Service:
    """One process of `up`."""

    name: str
    """"prefect", "mlflow" or "worker"."""
    pid: int
    born: str
    """Tells the process from a later one with the same pid (tasks/core/processes.py)."""
    url: str
    """Where programs find it; for the worker, the server that it works for. Browsers: `Services.pages`."""
    log: str

    def process(self) -> psutil.Process | None:
        """The process, if it is alive and still the one that was started."""
        try:
            return psutil.Process(self.pid) if identity(self.pid) == self.born else None
        except psutil.NoSuchProcess:
            return None


@dataclass(frozen=True)
class Services:
    """The living parts of `up`."""

    home: Path
    parts: tuple[Service, ...]
    started: tuple[str, ...] = ()
    """Names of the parts that this call of `up` had to start; empty if everything was up."""

    @property
    def prefect_url(self) -> str | None:
        """Where programs find Prefect's server, or None if it is dead."""
        return self._url("prefect")

    @property
    def api_url(self) -> str | None:
        """What PREFECT_API_URL has to be, or None if the server is dead."""
        return f"{self.prefect_url}/api" if self.prefect_url else None

    @property
    def mlflow_url(self) -> str | None:
        """The MLflow tracking URI, or None if the server is dead."""
        return self._url("mlflow")

    @property
    def pages(self) -> dict[str, str]:
        """What a person opens in a browser, by the name of the part; `make_link` lets the browser in."""
        access = Access.of(self.home)
        landings = {"prefect": "", "mlflow": mlflow.LANDING}
        return {part.name: access.page(part.url) + landings[part.name] for part in self.parts if part.name in landings}

    def make_link(self) -> str:
        """A link that lets one browser into the pages of both servers, and works once."""
        assert self.prefect_url
        return Access.of(self.home).make_link(int(self.prefect_url.rpartition(":")[2]))

    @property
    def clients_file(self) -> Path:
        """A shell script that lets `prefect` and `mlflow` commands in."""
        return Access.of(self.home).clients_file

    def part(self, name: str) -> Service | None:
        """The living part of this name."""
        return next((part for part in self.parts if part.name == name), None)

    def _url(self, name: str) -> str | None:
        part = self.part(name)
        return part.url if part else None


def running(home: Path) -> Services | None:
    """The parts of `up` that are alive, or None if none is."""
    alive = tuple(part for part in _read(home) if part.process())
    return Services(home, alive) if alive else None


def up(home: Path) -> Services:
    """Start what is not running and return when all of it answers.

    Ports are 4200 and 5000, or the next free ones; a restarted part gets its old port back if it can. A server that
    has to be started ends all browser sessions, since its port may have been somebody else's in the meantime.
    Raises StageError if a part dies or does not answer in time; what this call started is ended then.
    """
    home = home.resolve()
    make_home(home)
    access = Access.of(home)
    with locked(home / "services.lock"):
        before = {part.name: part for part in _read(home)}
        end_unlocked(before.values())
        parts = {name: part for name, part in before.items() if part.process()}
        started: list[str] = []

        def start(name: str, part: Service) -> None:
            # Recorded before it answers, so that `down` finds it even if this process is killed in between.
            parts[name] = part
            started.append(name)
            _write(home, parts.values())

        try:
            if not {"prefect", "mlflow"} <= parts.keys():
                access.revoke()
            if "prefect" not in parts:
                start("prefect", _start_prefect(home, _port(before.get("prefect"), PREFECT_PORT)))
            if "mlflow" not in parts:
                start("mlflow", _start_mlflow(home, _port(before.get("mlflow"), MLFLOW_PORT)))
            if "worker" in parts and parts["worker"].url != parts["prefect"].url:
                _end_parts(parts.pop("worker"))
            if "worker" not in parts:
                start("worker", _start_worker(home, parts["prefect"].url))
            _await_all(home, parts.values())
        except BaseException:
            for name in started:
                _end_parts(parts.pop(name))
            _write(home, parts.values())
            raise
        access.write_clients_file(parts["prefect"].url, parts["mlflow"].url)
        return Services(home, tuple(parts.values()), tuple(started))


def down(home: Path) -> tuple[str, ...]:
    """End what `up` started and return the names of the parts that were alive.

    Flow runs are told first and have half a minute to write a checkpoint; then the worker, then the servers, so
    that the last states are still recorded. Browsers and shells that were let in are locked out.
    """
    home = home.resolve()
    if not home.is_dir():
        return ()
    with locked(home / "services.lock"):
        parts = _read(home)
        alive = tuple(part.name for part in parts if part.process())
        _end(_flow_runs(home) if parts else [], grace=RUN_GRACE_S)
        for names in (["worker"], ["prefect", "mlflow"]):
            _end_parts(*(part for part in parts if part.name in names))
        Access.of(home).revoke()
        (home / "services.json").unlink(missing_ok=True)
    return alive


def _start_prefect(home: Path, port: Port) -> Service:
    log = home / "logs" / "prefect.log"
    return _service("prefect", prefect.launch(home, port, log, private=False), port.url, log)


def _start_mlflow(home: Path, port: Port) -> Service:
    log = home / "logs" / "mlflow.log"
    return _service("mlflow", mlflow.launch(home, port, log), port.url, log)


def _start_worker(home: Path, prefect_url: str) -> Service:
    log = home / "logs" / "worker.log"
    command = [sys.executable, "-m", "prefect", "worker", "start"]
    command += ["--pool", POOL, "--type", "process", "--name", POOL]
    variables = {
        **environment(home, f"{prefect_url}/api"),
        "PREFECT_WORKER_QUERY_SECONDS": "3",  # not 10: somebody who clicks on Retry watches
    }
    return _service("worker", spawn(command, log, variables, cwd=home), prefect_url, log)


def _service(name: str, process: "subprocess.Popen[bytes]", url: str, log: Path) -> Service:
    return Service(name, process.pid, identity(process.pid) or "", url, str(log))


def _port(before: Service | None, preferred: int) -> Port:
    """The port that a part had, or the next free one; the kernel lets go of it some 0.1 s after it shows a killed
    process as dead."""
    number = int(before.url.rpartition(":")[2]) if before else preferred
    deadline = time.monotonic() + (RELEASE_S if before else 0)
    while time.monotonic() < deadline:
        try:
            return Port(number)
        except OSError:
            time.sleep(0.02)
    return listen(number)


def _await_all(home: Path, parts: Iterable[Service]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    # A dead part is not asked: whoever has its port by now must not get the secret.
    while waiting := [part for part in parts if not (part.process() and _is_ready(home, part))]:
        if dead := next((part for part in waiting if not part.process()), None):
            raise StageError(f"the {dead.name} part of `up` ended while starting; its log is {dead.log}")
        if time.monotonic() > deadline:
            late = waiting[0]
            raise StageError(
                f"the {late.name} part of `up` did not answer within {READY_TIMEOUT_S:.0f} s; its log is {late.log}"
            )
        time.sleep(0.05)


def _is_ready(home: Path, part: Service) -> bool:
    if part.name == "prefect":
        return answers(home, f"{part.url}/api/health")
    if part.name == "mlflow":
        return answers(home, f"{part.url}/health")
    workers = json.loads(fetch(home, f"{part.url}/api/work_pools/{POOL}/workers/filter", b"{}") or b"[]")
    heartbeats = [worker["last_heartbeat_time"] for worker in workers if worker["last_heartbeat_time"]]
    process = part.process()
    began = process.create_time() if process else float("inf")
    return any(datetime.fromisoformat(heartbeat).timestamp() > began for heartbeat in heartbeats)


def end_unlocked(parts: Iterable[Service]) -> None:
    """End servers that an earlier version of this program started, and their worker, which knows no secret."""
    doors = {"prefect": "/api/health", "mlflow": "/health"}
    servers = [part for part in parts if part.name in doors and part.process()]
    if any(lets_everybody_in(part.url + doors[part.name]) for part in servers):
        _end_parts(*parts)


def _flow_runs(home: Path) -> list[psutil.Process]:
    """Flow runs that a worker of this home started: each leads a session of its own and outlives a killed worker."""
    runs = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            is_run = process.cmdline()[1:3] == ["-m", "prefect.engine"]
            if is_run and process.environ().get("PREFECT_HOME") == str(home / "prefect"):
                runs.append(process)
    return runs


def _end_parts(*parts: Service) -> None:
    _end([process for part in parts if (process := part.process())])


def _end(processes: list[psutil.Process], grace: float = STOP_TIMEOUT_S) -> None:
    """SIGTERM to these processes, `grace` seconds, SIGKILL to what is left of them and of their descendants."""
    family = set(processes)
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            family.update(process.children(recursive=True))
            process.terminate()
    _, left = psutil.wait_procs(family, grace)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, STOP_TIMEOUT_S)


def _read(home: Path) -> list[Service]:
    try:
        return [_of_today(part) for part in json.loads((home / "services.json").read_bytes())["parts"]]
    except FileNotFoundError:
        return []


def _of_today(part: dict[str, Any]) -> Service:
    """A service as it was written; one of an older Nightschool was known by its time of creation."""
    if "created" in part:
        created, part["born"] = part.pop("created"), ""
        with suppress(psutil.NoSuchProcess):
            if abs(psutil.Process(part["pid"]).create_time() - created) < CLOCK_SLACK_S:
                part["born"] = identity(part["pid"]) or ""
    return Service(**part)


def _write(home: Path, parts: Iterable[Service]) -> None:
    content = json.dumps({"parts": [asdict(part) for part in parts]}, indent=2)
    write_file(home / "services.json", content.encode())
