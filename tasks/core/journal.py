"""The journal: the append-only local record of a run, from which MLflow is fed and can be rebuilt.

One JSON object a line, numbered from 1. A record is in the operating system's hands when `append` returns, and on
the disk within a second or at `flush`: a killed process loses nothing, a power cut at most the last second. A line
torn by a full disk or a power cut is cut off when the journal is opened again.
"""

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SYNC_S = 1.0
log = logging.getLogger("nightschool.journal")
Held = Callable[[], AbstractContextManager[None]]
"""A block in which this process alone may write."""


@dataclass(frozen=True)
class Record:
    """One line: its number, when (milliseconds since 1970), what kind, on which node, and the rest of its fields."""

    seq: int
    time: int
    kind: str
    node: str
    payload: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, line: bytes) -> "Record":
        """The record that a whole line holds; ValueError or KeyError if it holds none."""
        fields = json.loads(line)
        seq, at, kind, node = (fields.pop(name) for name in ("seq", "time", "kind", "node"))
        return cls(seq, at, kind, node, fields)


class Journal:
    """A journal opened for appending; safe to use from several threads of one process."""

    def __init__(self, path: Path, held: Held = nullcontext) -> None:
        """Open a journal, and cut off a torn last line.

        Args:
            held: in which each line is written; raises if this process may not write any more (Lease.held).
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._held = held
        self._lock = threading.Lock()
        with held():
            self._file = open(path, "ab")  # noqa: SIM115 - open as long as the journal
            whole, self._seq = _whole_lines(path)
            self._file.truncate(whole)
        self._synced = time.monotonic()

    def append(self, kind: str, node: str = "", **payload: Any) -> int:
        """Write one record and return its number.

        Raises OSError when the disk is full, and what `held` raises; the record is then not written.
        """
        with self._lock, self._held():
            record = {
                "seq": self._seq + 1,
                "time": time.time_ns() // 1_000_000,
                "kind": kind,
                "node": node,
                **payload,
            }
            start = self._file.tell()
            try:
                self._file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
                self._file.flush()
            except OSError:
                self._discard(start)
                raise
            self._seq += 1
            if time.monotonic() - self._synced > SYNC_S:
                self._sync()
            return self._seq

    def flush(self) -> None:
        """Return when everything appended so far is on the disk."""
        with self._lock:
            self._sync()

    def close(self) -> None:
        """Bring everything to the disk and close the file; a second call does nothing."""
        with self._lock:
            if not self._file.closed:
                self._sync()
                self._file.close()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _discard(self, start: int) -> None:
        """Drop what a failed write left in the buffer and in the file, so that the next record begins on a line of
        its own."""
        descriptor = os.dup(self._file.fileno())
        os.ftruncate(descriptor, start)
        with contextlib.suppress(OSError):  # the buffer that could not be written is what we give up here
            self._file.close()
        self._file = os.fdopen(descriptor, "ab")
        os.ftruncate(descriptor, start)


def read_journal(path: Path, after: int = 0) -> Iterator[Record]:
    """Records with a number above `after`, in order.

    A line that is still being written is left for the next read; one that is no record is named in a warning and passed
    over.
    """
    if not path.exists():
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                record = Record.parse(line)
            except (ValueError, KeyError, TypeError, AttributeError):
                log.warning("line %d of the journal %s is no record; it is passed over", number, path)
                continue
            if record.seq > after:
                yield record


def _whole_lines(path: Path) -> tuple[int, int]:
    """Bytes up to the end of the last whole line, and that line's number."""
    whole = seq = 0
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            seq += 1
    return whole, seq
