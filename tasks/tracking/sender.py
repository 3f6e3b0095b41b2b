"""The sender: brings MLflow level with a journal, exactly once, and never makes anyone wait.

Training writes to the journal; one daemon thread here reads what was appended and tells MLflow. A cursor beside the
journal says how far each MLflow has come. It moves after MLflow has answered, so a kill or an outage repeats at
most one batch, and repeating is harmless (`projection.py`). An MLflow that has lost the run, or never had it, is
told everything from the start.

Cost: importing MLflow takes 2 s of processor time and a new SQLite file 1 to 3 s, both on this thread beside the
first stages.
"""

import fcntl
import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from models.files import write_file
from tasks.core.errors import StageError
from tasks.core.journal import Record
from tasks.tracking.projection import Projection, Refusal, is_refusal

RECORDS_A_BATCH = 500
POLL_S = 0.5
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 30.0
ATTEMPTS = 5
"""How often a batch may fail on an MLflow that answers otherwise before its records are tried one by one."""

log = logging.getLogger("nightschool.tracking")


class Sender:
    """Sends a growing journal to MLflow from a daemon thread until `drain`.

    Args:
        journal_path: `<run>.jsonl`; its first record names the experiment. Need not exist yet.
        tracking_uri: `http://host:port` or `sqlite:////absolute/path/mlflow.db`.
    """

    def __init__(self, journal_path: Path, tracking_uri: str) -> None:
        self._feed = _Feed(journal_path, tracking_uri)
        self._last_call = threading.Event()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow sender", daemon=True)

    def start(self) -> "Sender":
        """Start the thread and return this sender."""
        self._thread.start()
        return self

    def drain(self, timeout_s: float) -> int:
        """Send what is left, end the thread, and return the number of records that MLflow has not taken.

        Returns early when two attempts in a row fail: `nightschool sync` sends the rest later.
        """
        self._last_call.set()
        self._thread.join(timeout_s)
        self._abandoned.set()
        return self._feed.count_waiting()

    def _work(self) -> None:
        failures = 0
        while not self._abandoned.is_set():
            ending = self._last_call.is_set()
            try:
                sent = self._feed.send_batch()
                if failures:
                    log.info("MLflow at %s takes records again", self._feed.shown_uri)
                failures = 0
            except Exception as error:
                sent = 0
                failures += 1
                if failures == 2:  # one failure is a hiccup
                    log.warning(
                        "MLflow at %s takes no records (%s); the run goes on and its journal keeps everything",
                        self._feed.shown_uri,
                        self._feed.explain(error),
                    )
            if ending and (failures > 1 or (not failures and not sent)):
                break
            if not sent:
                pause = min(FIRST_RETRY_S * 2**failures, LONGEST_RETRY_S) if failures else POLL_S
                if ending:
                    self._abandoned.wait(FIRST_RETRY_S)
                else:
                    self._last_call.wait(pause)
        self._feed.close()


def sync(journal_path: Path, tracking_uri: str) -> int:
    """Bring MLflow level with a journal now; returns the number of records sent (0: it was level).

    Raises:
        StageError: MLflow does not answer, or another process is sending this journal.
    """
    feed = _Feed(journal_path, tracking_uri)
    total = 0
    failures = 0
    try:
        while True:
            try:
                sent = feed.send_batch()
            except StageError:
                raise
            except Exception as error:
                failures += 1
                if failures > ATTEMPTS + 1 or not feed.is_connected:
                    raise StageError(
                        f"MLflow at {feed.shown_uri} does not take {journal_path.name} ({feed.explain(error)}); "
                        "start it with `nightschool up` and run `nightschool sync` again"
                    ) from error
                time.sleep(FIRST_RETRY_S)
                continue
            total += sent
            if not sent:
                return total
    finally:
        feed.close()


@dataclass(frozen=True)
class _Cursor:
    """The last record that MLflow has: where its line starts, and enough to see that it is still the same record."""

    offset: int = 0
    seq: int = 0
    time: int = 0


class _Feed:
    """One journal on its way to one MLflow; connected on demand, used by one thread."""

    def __init__(self, journal_path: Path, tracking_uri: str) -> None:
        name = f"{journal_path.stem}.{hashlib.sha256(tracking_uri.encode()).hexdigest()[:12]}"
        self._journal_path = journal_path
        self._tracking_uri = tracking_uri
        self._secret = "".join(urlsplit(tracking_uri).netloc.rpartition("@")[:2])
        self._cursor_path = journal_path.with_name(f"{name}.cursor")
        self._lock_path = journal_path.with_name(f"{name}.lock")
        self._cursor = _Cursor()
        self._projection: Projection | None = None
        self._file: BinaryIO | None = None
        self._lock: BinaryIO | None = None
        self._failed_batches = 0

    @property
    def shown_uri(self) -> str:
        """The tracking URI without user and password."""
        return self._tracking_uri.replace(self._secret, "", 1)

    def explain(self, error: Exception) -> str:
        """An error's first line, without user and password."""
        line = (str(error).splitlines() or [type(error).__name__])[0][:300]
        return line.replace(self._secret, "") if self._secret else line

    @property
    def is_connected(self) -> bool:
        return self._projection is not None

    def send_batch(self) -> int:
        """Send the next records and move the cursor; returns how many, 0 when MLflow is level with the journal.

        Raises whatever stands in the way; call again later. A record that is malformed in itself, so that MLflow takes
        others of its run and not this one, is named in the log and passed over.
        """
        if self._projection is None and not self._connect():
            return 0
        assert self._projection is not None and self._file is not None
        start = self._file.tell()
        batch = list(_read(self._file, RECORDS_A_BATCH))
        if not batch:
            return 0
        try:
            self._send([record for _, record in batch])
        except Exception:
            self._file.seek(start)
            self._failed_batches += 1
            if not self._projection.answers():
                self._failed_batches = 0
                self.close()
            raise
        self._failed_batches = 0
        offset, last = batch[-1]
        self._save(_Cursor(offset, last.seq, last.time))
        return len(batch)

    def count_waiting(self) -> int:
        """Records in the journal that MLflow has not confirmed."""
        if not self._journal_path.exists():
            return 0
        with open(self._journal_path, "rb") as file:
            _seek_after(file, self._load())
            return sum(line.endswith(b"\n") for line in file)

    def close(self) -> None:
        """Let go of the connection and of the right to send."""
        self._projection = None
        for file in (self._file, self._lock):
            if file is not None:
                file.close()
        self._file = self._lock = None

    def _connect(self) -> bool:
        """Open the journal and MLflow; False while the journal has no first record."""
        if not self._journal_path.exists():
            return False
        self._lock = open(self._lock_path, "wb")  # noqa: SIM115 - held until `close`, as is the journal
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file = open(self._journal_path, "rb")  # noqa: SIM115
            first = next(_read(self._file, 1), None)
            if first is None:
                self.close()
                return False
            projection = Projection(self._journal_path.stem, first[1].payload["experiment"], self._tracking_uri)
            if projection.is_new:
                self._save(_Cursor())
            _seek_after(self._file, self._load())
            self._projection = projection
        except BlockingIOError:
            self.close()
            raise StageError(f"another process is sending {self._journal_path.name}") from None
        except Exception:
            self.close()
            raise
        return True

    def _send(self, records: list[Record]) -> None:
        assert self._projection is not None
        try:
            self._projection.apply(records)
            return
        except Exception as error:
            stubborn = self._failed_batches >= ATTEMPTS
            if not (stubborn or is_refusal(error)):
                raise
        for record in records:
            try:
                self._projection.apply([record])
            except Exception as error:
                passing = isinstance(error, Refusal) or self._projection.takes(record.node)
                if not passing or not (is_refusal(error) or stubborn):
                    raise
                log.warning(
                    "MLflow refuses record %d (%s of %s): %s; it stays in the journal %s",
                    record.seq,
                    record.kind,
                    record.node or "the run",
                    self.explain(error),
                    self._journal_path,
                )

    def _load(self) -> _Cursor:
        try:
            return _Cursor(**json.loads(self._cursor_path.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return _Cursor()

    def _save(self, cursor: _Cursor) -> None:
        """Atomic but not synced: a cursor lost to a power cut costs one harmless repetition."""
        write_file(self._cursor_path, json.dumps(asdict(cursor)).encode(), durable=False)


def _read(file: BinaryIO, limit: int, strict: bool = False) -> Iterator[tuple[int, Record]]:
    """Whole lines from here on, each with the byte at which it starts. The journal's own reader starts at its first
    line, which a follower of a long night cannot afford twice a second.

    Args:
        strict: whether a line that is no record raises; else it is named in the log and passed over.
    """
    read = 0
    while read < limit:
        offset = file.tell()
        line = file.readline()
        if not line.endswith(b"\n"):
            file.seek(offset)
            return
        try:
            record = Record.parse(line)
        except (ValueError, KeyError, TypeError, AttributeError):
            if strict:
                raise
            log.warning("the line at byte %d of %s is no record; it is passed over", offset, file.name)
            continue
        read += 1
        yield offset, record


def _seek_after(file: BinaryIO, cursor: _Cursor) -> None:
    """Go behind the cursor's record, or to the start when another stands there: a power cut may take the journal's
    last second after MLflow has seen it."""
    file.seek(cursor.offset)
    try:
        found = next(_read(file, 1, strict=True), None)
    except (ValueError, KeyError, TypeError, AttributeError):  # the middle of some other line
        found = None
    if cursor.seq == 0 or found is None or (found[1].seq, found[1].time) != (cursor.seq, cursor.time):
        file.seek(0)
