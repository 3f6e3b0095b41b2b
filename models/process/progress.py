"""The training's own record, one JSON line a step: what the parent tails, what losses.parquet is made of.

A step is reported once in its life: a resumed training repeats steps bit by bit, so a repetition says nothing new.
Light (standard library only), since the supervising parent reads it too.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Report:
    """One finished step."""

    step: int
    """Counted from 1."""
    loss: float
    """Nats."""
    learning_rate: float
    grad_norm: float
    """Before clipping."""
    tokens_per_second: float
    """The speed of this step, over all processes, padding included."""
    time: int
    """Milliseconds since 1970."""
    skipped: bool = False
    """Whether the step moved nothing, for its loss or its gradient stood out."""


class Progress(Protocol):
    """Where a training reports its steps."""

    last_step: int

    def append(self, report: Report) -> None:
        """Take the report of a step that is finished; a step that was reported before says nothing new."""

    def sync(self) -> None:
        """Bring all reports to the disk; called before a checkpoint is written. Raises OSError when it refuses."""

    def close(self) -> None:
        """End the record; called once, when the training ends, however it does."""


class NoProgress:
    """The record of processes that leave reporting to the first of their group."""

    def __init__(self, last_step: int) -> None:
        self.last_step = last_step

    def append(self, report: Report) -> None:
        """Only count."""
        self.last_step = max(self.last_step, report.step)

    def sync(self) -> None:
        """Nothing is written here."""

    def close(self) -> None:
        """Nothing is open here."""


class ProgressFile:
    """Append-only writer; opening it cuts off a line that a kill left half-written."""

    def __init__(self, path: Path) -> None:
        self.last_step = 0
        whole = 0
        if path.exists():
            for report, offset in read_reports(path):
                if report.step != self.last_step + 1:
                    break
                self.last_step, whole = report.step, offset
            os.truncate(path, whole)
        self._file = path.open("ab", buffering=0)
        self._unwritten = b""

    def append(self, report: Report) -> None:
        """Write the report unless its step was reported before the kill; other processes see it at once.

        A disk that refuses it is told by `sync`, before a checkpoint, not here: nothing is lost while this process
        lives, and the line is written as soon as there is room.
        """
        if report.step <= self.last_step:
            return
        assert report.step == self.last_step + 1, f"step {report.step} after {self.last_step}"
        self._unwritten += json.dumps(asdict(report)).encode() + b"\n"
        with suppress(OSError):
            self._write()
        self.last_step = report.step

    def sync(self) -> None:
        """Bring all reports to the disk: before a checkpoint that relies on them. Raises OSError when it refuses."""
        self._write()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Sync and close."""
        try:
            self.sync()
        finally:
            self._file.close()

    def _write(self) -> None:
        while self._unwritten:
            self._unwritten = self._unwritten[self._file.write(self._unwritten) :]


def parse(line: bytes) -> Report | None:
    """The line's report, or None for one that is torn or foreign."""
    if not line.endswith(b"\n"):
        return None
    try:
        return Report(**json.loads(line))
    except (ValueError, TypeError):
        return None


def read_reports(path: Path, offset: int = 0) -> Iterator[tuple[Report, int]]:
    """Whole lines from a byte offset on, each with the offset behind it; a torn last line is left for the next call."""
    if not path.exists():
        return
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            report = parse(line)
            if report is None:
                return
            offset += len(line)
            yield report, offset


def now_ms() -> int:
    """Wall-clock time in milliseconds since 1970."""
    return time.time_ns() // 1_000_000
