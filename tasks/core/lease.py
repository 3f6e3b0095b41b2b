"""A lease: at most one process works on a thing, a dead one is succeeded, and a stale one is refused at the door.

The holder renews the lease every few seconds. Another process takes it over when the holder is dead (same machine:
its pid is gone, seen at once) or silent for longer than `TTL_S` (another machine, or a frozen process). Each takeover
raises the fencing token; `confirm` compares tokens under the lock, so a holder that was frozen, succeeded and thawed
cannot commit.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from models.files import write_file
from tasks.core.errors import StageError

TTL_S = 30.0
RENEWAL_S = TTL_S / 6


class Lease:
    """A held lease on `path`; made by `take`, renewed by a daemon thread until `release`."""

    def __init__(self, path: Path, token: int) -> None:
        self.path = path
        self.token = token
        self._ended = threading.Event()
        self._renewal = threading.Thread(target=self._renew, name=f"lease {path.name[:12]}", daemon=True)
        self._renewal.start()

    def confirm(self) -> None:
        """Raise StageError unless this lease is still the newest."""
        with _locked(self.path):
            self._check(_read(self.path))

    def release(self) -> None:
        """End the lease, keeping its token so that the next holder's is higher.

        A full disk may refuse the record; the lease then ends with this process.
        """
        self._ended.set()
        self._renewal.join()
        with contextlib.suppress(OSError), _locked(self.path):
            held = _read(self.path)
            if held.get("token") == self.token:
                _write(self.path, {"token": self.token})

    def _check(self, held: dict[str, Any]) -> None:
        if held.get("token") != self.token:
            raise StageError(
                f"the lease {self.path.name[:12]} was taken over by process {held.get('pid')} on {held.get('host')} "
                "while this one was silent; nothing was committed here, follow the other run instead"
            )

    def _renew(self) -> None:
        while not self._ended.wait(RENEWAL_S):
            try:
                with _locked(self.path):
                    self._check(_read(self.path))
                    _write(self.path, _claim(self.token))
            except (StageError, OSError):
                return  # `confirm` says it where it can be acted upon


def try_take(path: Path) -> Lease | None:
    """The lease if it is free, expired or left by a dead process; None while a living process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        held = _read(path)
        if is_alive(held):
            return None
        token = int(held.get("token", 0)) + 1
        _write(path, _claim(token))
    return Lease(path, token)


@contextmanager
def take(path: Path) -> Iterator[Lease]:
    """Wait for the lease, hold it for the block, and release it however the block ends."""
    while (lease := try_take(path)) is None:
        time.sleep(0.2)
    try:
        yield lease
    finally:
        lease.release()


def holder(path: Path) -> dict[str, Any] | None:
    """Who holds the lease now ({"pid", "host", ...}), or None when it is free or its holder is dead."""
    held = _read(path)
    return held if is_alive(held) else None


def is_alive(held: dict[str, Any]) -> bool:
    """Whether a claim still counts: recent, and, if made on this machine, by a process that still runs."""
    if "pid" not in held or time.time() - held["renewed"] > TTL_S:
        return False
    if held["host"] != socket.gethostname():
        return True
    try:
        # Clock corrections shift creation times a little; pids do not come round within two seconds.
        return abs(psutil.Process(held["pid"]).create_time() - held["born"]) < 2
    except psutil.NoSuchProcess:
        return False


def _claim(token: int) -> dict[str, Any]:
    born = psutil.Process().create_time()
    return {
        "token": token,
        "pid": os.getpid(),
        "born": born,
        "host": socket.gethostname(),
        "renewed": time.time(),
    }


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path.with_suffix(".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _write(path: Path, claim: dict[str, Any]) -> None:
    write_file(path, json.dumps(claim).encode(), durable=False)
