"""The Prefect server as a process of ours: started early on a port nobody can take, awaited late, gone with its parent.

Why not `prefect server start`: its port is chosen before it is bound (3 to 9 s later, so two nights that start at
once collide), and it outlives a killed parent. Here the listening socket is opened by the parent and inherited, so a
client may connect from the first millisecond and is answered when the server is up; the rest is Prefect's own
application under uvicorn. Ready after 3.0 s, of which 2.8 s are Prefect's imports, and after 8.5 s where the database
is yet to be created (2 idle cores): start it first, wait for it last.
"""

import asyncio
import fcntl
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tasks.core.errors import StageError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = "127.0.0.1"
POOL = "nightschool"
"""The work pool of our deployments, which the worker of `up` serves."""
READY_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 10.0


def environment(home: Path, api_url: str) -> dict[str, str]:
    """Variables for a process that runs or schedules flows; they only count if set before Prefect is imported.

    Prefect's files stay inside `home`, nothing is sent to anybody, the terminal stays ours (Prefect writes warnings
    there and everything else to the run's page), and loopback addresses never go through a proxy.
    """
    home = home.resolve()
    direct = ",".join(filter(None, [os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), LOOPBACK, "localhost"]))
    return {
        "NIGHTSCHOOL_HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": api_url,
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


def listen(preferred: int = 0) -> socket.socket:
    """A listening loopback socket on `preferred` or the next free port after it; on any free port by default.

    Raises StageError if a hundred ports from the preferred one on are taken.
    """
    for port in range(preferred, preferred + 100):
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port left minutes ago is free
        try:
            listener.bind((LOOPBACK, port))
            listener.listen(128)
        except OSError:
            listener.close()
        else:
            return listener
    raise StageError(f"no free port on {LOOPBACK} from {preferred} to {preferred + 99}; end what listens there")


def launch(home: Path, listener: socket.socket, log: Path, *, private: bool) -> "subprocess.Popen[bytes]":
    """Start a Prefect server that serves `listener`, which is closed here: from now on only the server holds it.

    A private server has neither UI nor scheduler and ends as soon as its standard input is closed, which the kernel
    does however this process ends. (PR_SET_PDEATHSIG would do so on Linux only, and already when the thread that
    started the server ends.) Any other server is left running.
    """
    api_url = f"http://{LOOPBACK}:{listener.getsockname()[1]}/api"
    served = {
        **environment(home, api_url),
        "PREFECT_SERVER_UI_API_URL": "/api",  # relative: the pages also work through a tunnel
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home.resolve() / "prefect" / "ui"),  # not into the installed package
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }
    if private:
        # Only the server of `up` registers the types of blocks: two servers that do so at once fail on each other.
        served["PREFECT_SERVER_REGISTER_BLOCKS_ON_START"] = "false"
        served["PREFECT_SERVER_MEMOIZE_BLOCK_AUTO_REGISTRATION"] = "false"
    with listener:
        return spawn(
            [sys.executable, "-m", __name__, str(home.resolve()), str(listener.fileno()), "private" if private else ""],
            log,
            served,
            stdin=subprocess.PIPE if private else subprocess.DEVNULL,
            pass_fds=(listener.fileno(),),
        )


def spawn(
    command: list[str],
    log: Path,
    variables: Mapping[str, str],
    *,
    stdin: int = subprocess.DEVNULL,
    cwd: Path | None = None,
    pass_fds: tuple[int, ...] = (),
) -> "subprocess.Popen[bytes]":
    """Start a server process in a session of its own, so that Ctrl-C in the terminal does not reach it first."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env={**os.environ, **variables},
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
        )


def answers(url: str) -> bool:
    """Whether a GET on this loopback URL is answered with 200 within a second."""
    return fetch(url) is not None


def fetch(url: str, body: bytes | None = None) -> bytes | None:
    """What a loopback URL answers to a GET, or to a POST of JSON, within a second; never asks a proxy."""
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=1.0)
    try:
        connection.request("POST" if body else "GET", f"/{path}", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.read() if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


class PrivateServer:
    """A Prefect server for one run, over the same database as that of `nightschool up`, which later shows the run."""

    def __init__(self, process: "subprocess.Popen[bytes]", api_url: str, log: Path) -> None:
        self.api_url = api_url
        self._process = process
        self._log = log

    @classmethod
    def start(cls, home: Path) -> Self:
        """Return at once; `api_url` is final, and requests to it are answered as soon as the server is up."""
        log = home / "logs" / "prefect-private.log"
        listener = listen()
        api_url = f"http://{LOOPBACK}:{listener.getsockname()[1]}/api"
        return cls(launch(home, listener, log, private=True), api_url, log)

    def wait(self, timeout: float = READY_TIMEOUT_S) -> str:
        """Return the API's URL once it answers; raise StageError if the server dies or `timeout` seconds pass."""
        deadline = time.monotonic() + timeout
        while not answers(f"{self.api_url}/health"):
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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` for the block; the kernel releases it if the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def serve(home: Path, descriptor: int, private: bool) -> None:
    """Be the server, on an inherited listening socket, until SIGTERM."""
    if private:
        threading.Thread(target=_end_with_parent, name="end with parent", daemon=True).start()

    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.server.database import provide_database_interface

    # SQLite's migrations are no transaction: two servers that create the same database at once would break it.
    with locked(home / "prefect" / "migration.lock"):
        asyncio.run(provide_database_interface().create_db())
    app = _confined(create_app(ephemeral=private, final=True))
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


def _confined(app: "ASGIApp") -> "ASGIApp":
    """Forbid Prefect's pages to call anybody but this server: they ask Amplitude for a session whatever we set."""

    async def confined(scope: "Scope", receive: "Receive", send: "Send") -> None:
        async def send_with_policy(message: "Message") -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", b"connect-src 'self'")
                message["headers"] = [*message.get("headers", []), policy]
            await send(message)

        await app(scope, receive, send_with_policy)

    return confined


def _end_with_parent() -> None:
    """Wait for the end of standard input, then leave: politely first, so that the last records are written."""
    while os.read(0, 1024):  # not sys.stdin: its lock, held here, would crash the interpreter's exit
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_TIMEOUT_S)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "private")
