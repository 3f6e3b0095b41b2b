"""A lease: at most one process works on a thing, a dead one is succeeded, and a stale one is refused at the door.

The holder renews the lease every few seconds. Another process takes it over when the holder is dead (same machine: seen
at once) or silent for longer than `TTL_S` (another machine, or a frozen process). Each takeover raises the fencing
token. Whoever writes under a lease does so in `held()`: the token is compared and the write is done under one lock, so
that a holder that was frozen, succeeded and thawed writes no further byte, at whatever moment it froze. The price: one
that froze in the middle of such a write is not succeeded before it goes on or is ended; who waits for it is told so.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.files import write_file
from tasks.core.errors import StageError
from tasks.core.processes import boot, identity

TTL_S = 30.0
RENEWAL_S = TTL_S / 6
Claim = dict[str, Any]
"""What a lease's file says: token, and of a held one pid, born, host and the time of its last renewal."""


class Lease:
    """A held lease on `path`; made by `take`, renewed by a daemon thread until `release`."""

    def __init__(self, path: Path, token: int) -> None:
        self.path = path
        self.token = token
        self._ended = threading.Event()
        self._renewal = threading.Thread(target=self._renew, name=f"lease {path.name[:12]}", daemon=True)
        self._renewal.start()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Nobody can take the lease over during the block. Raises StageError if somebody has."""
        with _locked(self.path):
            self._check(_read(self.path))
            yield

    def confirm(self) -> None:
        """Raise StageError unless this lease is still the newest."""
        with self.held():
            pass

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

    def _check(self, held: Claim) -> None:
        if held.get("token") != self.token:
            raise StageError(
                f"the lease {self.path.name[:12]} was taken over by process {held.get('pid')} on {held.get('host')} "
                "while this one was silent; nothing more is written here, follow the other run instead"
            )

    def _renew(self) -> None:
        while not self._ended.wait(RENEWAL_S):
            try:
                with self.held():
                    _write(self.path, _claim(self.token))
            except StageError:
                return  # `held` says it where it can be acted upon
            except OSError:
                continue  # a disk that is full now may have room before the lease runs out


def try_take(path: Path) -> Lease | None:
    """The lease if it is free, expired or left by a dead process; None while a living process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(path, wait=False):
            held = _read(path)
            if is_alive(held):
                return None
            token = int(held.get("token", 0)) + 1
            _write(path, _claim(token))
    except BlockingIOError:  # somebody writes under it, or takes it, at this moment
        return None
    return Lease(path, token)


@contextmanager
def take(path: Path, waits_for: Callable[[Claim], None] = lambda claim: None) -> Iterator[Lease]:
    """Wait for the lease, hold it for the block, and release it however the block ends.

    Args:
        waits_for: hears once, if somebody else holds it, who.
    """
    told = False
    while (lease := try_take(path)) is None:
        if not told and "pid" in (claim := _read(path)):
            told = True
            waits_for(claim)
        time.sleep(0.2)
    try:
        yield lease
    finally:
        lease.release()


def holder(path: Path) -> Claim | None:
    """Who holds the lease now ({"pid", "host", ...}), or None when it is free or its holder is dead."""
    held = _read(path)
    return held if is_alive(held) else None


def is_alive(held: Claim) -> bool:
    """Whether a claim still counts: recent, and, if made on this machine, by a process that still runs.

    On one machine time is that of its boot, which no step of the clock changes; between two it is the clock's.
    """
    if "pid" not in held:
        return False
    if not isinstance(held["born"], str):  # a program of before this form; it renews by the clock
        return bool(time.time() - held["renewed"] < TTL_S)
    here = held["host"] == socket.gethostname()
    if here and held["born"].partition(" ")[0] != boot():
        return False  # the machine went down since
    now = _since_boot() if here else time.time()
    if now - held["renewed" if here else "renewed_at"] > TTL_S:
        return False
    return not here or identity(held["pid"]) == held["born"]


def _claim(token: int) -> Claim:
    pid = os.getpid()
    return {
        "token": token,
        "pid": pid,
        "born": identity(pid),
        "host": socket.gethostname(),
        "renewed": _since_boot(),
        "renewed_at": time.time(),
    }


def _since_boot() -> float:
    """Seconds, those of sleep included; where the system does not count them, those of the clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.time()


@contextmanager
def _locked(path: Path, wait: bool = True) -> Iterator[None]:
    with open(path.with_suffix(".lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


def _read(path: Path) -> Claim:
    try:
        claim: Claim = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return claim


def _write(path: Path, claim: Claim) -> None:
    write_file(path, json.dumps(claim).encode(), durable=False)
