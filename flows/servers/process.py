"""A server as a process of ours, locked and on ports that nobody can take.

The listening sockets are opened by the parent and inherited, so a port is ours before the server starts, and a client
may connect from the first millisecond and is answered when the server is up. In front of the application stands the
door (`flows/servers/door.py`), and what the process writes is for its owner only.
"""

import errno
import fcntl
import http.client
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from flows.servers.access import Access
from flows.servers.door import Door
from tasks.core.errors import StageError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

LOOPBACK = "127.0.0.1"
READY_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 10.0


class Port:
    """A port of the loopback interface, held by listening sockets.

    It is held on IPv6 as well, where there is one: browsers try [::1] first for the name of our pages, and whoever
    listened there would be sent links and cookies.
    """

    def __init__(self, number: int = 0) -> None:
        """Raises OSError if the port is taken; 0 stands for any that is free."""
        self.sockets = [_listen(socket.AF_INET, LOOPBACK, number)]
        self.number: int = self.sockets[0].getsockname()[1]
        try:
            self.sockets.append(_listen(socket.AF_INET6, "::1", self.number))
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                self.close()
                raise

    @property
    def url(self) -> str:
        """The server's address for programs."""
        return f"http://{LOOPBACK}:{self.number}"

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What a child process inherits."""
        return tuple(listener.fileno() for listener in self.sockets)

    def close(self) -> None:
        """Give the port back: this process listens on it no more."""
        for listener in self.sockets:
            listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def listen(preferred: int = 0) -> Port:
    """Hold `preferred` or the next free port after it; any free port by default.

    Raises StageError if a hundred ports from the preferred one on are taken.
    """
    for number in range(preferred, preferred + 100) if preferred else [0] * 100:
        try:
            return Port(number)
        except OSError:
            continue
    raise StageError(f"no free port on {LOOPBACK} from {preferred} to {preferred + 99}; end what listens there")


def _listen(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port left minutes ago is free
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


def launch(
    module: str, home: Path, port: Port, log: Path, variables: Mapping[str, str], *, private: bool = False
) -> "subprocess.Popen[bytes]":
    """Start `python -m module home descriptors [private]`; the port is closed here: only the server holds it now.

    A private server's standard input is a pipe, which the kernel closes however this process ends.
    """
    with port:
        return spawn(
            [sys.executable, "-m", module, str(home), ",".join(map(str, port.descriptors)), *["private"] * private],
            log,
            variables,
            stdin=subprocess.PIPE if private else subprocess.DEVNULL,
            cwd=home,
            pass_fds=port.descriptors,
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
            umask=0o077,
        )


def serve(app: "ASGIApp", access: Access, descriptors: str, landing: str = "/") -> None:
    """Be the server of `app` behind the door, on inherited listening sockets, until SIGTERM."""
    import uvicorn

    # No access log: it would grow by a line a request, every night, and name every link.
    door = Door(app, access, landing)
    config = uvicorn.Config(
        door, log_level="warning", access_log=False, proxy_headers=False, timeout_graceful_shutdown=5
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(number)) for number in descriptors.split(",")])


def lets_everybody_in(url: str) -> bool:
    """Whether this URL is answered to somebody who brings nothing."""
    return _ask(url, None, {}) is not None


def answers(home: Path, url: str) -> bool:
    """Whether a GET on this URL of a server of ours is answered with 200 within a second."""
    return fetch(home, url) is not None


def fetch(home: Path, url: str, body: bytes | None = None) -> bytes | None:
    """What a server of ours answers to a GET, or to a POST of JSON, within a second; never asks a proxy."""
    return _ask(url, body, {"Content-Type": "application/json", "Authorization": Access.of(home).authorization})


def _ask(url: str, body: bytes | None, headers: dict[str, str]) -> bytes | None:
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host, timeout=1.0)
    try:
        connection.request("POST" if body else "GET", f"/{path}", body, headers)
        response = connection.getresponse()
        return response.read() if response.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` for the block; the kernel releases it if the process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
