"""The ledger: one entry a night, in exactly one state, so that a morning (or a rerun) knows where it stands.

Entries are JSON files, replaced whole by whoever holds the night's lease and by nobody else. A night that says
`running` while nobody holds its lease was killed: it is shown so, and settled by the next process that works on nights.
"""

import contextlib
import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ValidationError

from models.files import write_file
from tasks.core.errors import UserError
from tasks.core.journal import Held, Journal, read_journal
from tasks.core.lease import Lease, holder, take, try_take
from tasks.core.versions import version_of

log = logging.getLogger("nightschool.ledger")
State = Literal["running", "done", "failed", "killed"]


class StageEntry(BaseModel):
    """How one stage of a night ended."""

    node: str
    stage: str
    action: str
    digest: str
    seconds: float


class Night(BaseModel):
    """One night's entry."""

    id: str
    recipe: str
    """Name of the recipe, which is also the MLflow experiment."""
    recipe_path: str
    state: State
    started: str
    ended: str | None = None
    stages: list[StageEntry] = []
    failed_node: str | None = None
    error: str | None = None
    in_mlflow: bool = False
    """Whether MLflow has been seen to hold all of the night's journal."""
    prefect_runs: list[str] = []
    """Ids of the Prefect flow runs that worked on this night; a retry in Prefect keeps its id and finds its night
    by it."""


class Ledger:
    """The nights below one home folder."""

    def __init__(self, home: Path) -> None:
        """Raises UserError where a newer Nightschool has written in the home."""
        version_of(home)
        self.home = home

    def nights(self) -> list[Night]:
        """All nights, the oldest first; those whose process is dead are shown as killed. Nothing is written.

        An entry that cannot be read is named in a warning, and the others are returned.
        """
        entries = sorted((self.home / "nights").glob("*.json"))
        return [self._as_it_stands(night) for path in entries if (night := self._read(path)) is not None]

    def entry(self, id: str) -> Night | None:
        """What the ledger says of a night, whether its process lives or not."""
        return self._read(self._file(id))

    def settle(self, night: Night) -> None:
        """Write down that a night was killed, and end its journal, unless somebody works on it or has settled it."""
        entry = self.entry(night.id)
        if entry is None or entry.state != "running" or (lease := try_take(self._lease(night))) is None:
            return
        try:
            self.end_if_killed(night.id, lease.held)
        finally:
            lease.release()

    def end_if_killed(self, id: str, held: Held) -> None:
        """The same, by a process that holds the night's lease."""
        night = self.entry(id)
        if night is not None and night.state == "running":
            close_journal(self.journal_path(night), "KILLED", held)
            self.write(_killed(night), held)

    def to_rerun(self, id: str | None = None) -> Night:
        """The night named `id`, or the last one if it did not end well.

        Raises:
            UserError: there is no such night, it is running, or it ended well.
        """
        nights = [night for night in self.nights() if id in (None, night.id)]
        if not nights:
            raise UserError(
                f"no night {id or ''} in {self.home}; `nightschool run RECIPE` starts one".replace("  ", " ")
            )
        night = nights[-1]
        if night.state == "running":
            raise UserError(f"night {night.id} is running; see `nightschool status`")
        if night.state == "done":
            raise UserError(
                f"night {night.id} ended well, so there is nothing to rerun; start a new one with `nightschool run`"
            )
        return night

    def by_prefect_run(self, prefect_run: str) -> Night | None:
        """The night that a Prefect flow run works on, if it has begun one."""
        return next((night for night in self.nights() if prefect_run in night.prefect_runs), None)

    def write(self, night: Night, held: Held = nullcontext) -> None:
        """Put the night's entry on the disk, atomically, in place of the one that stood there."""
        folder = self.home / "nights"
        folder.mkdir(parents=True, exist_ok=True)
        with held():
            write_file(self._file(night.id), night.model_dump_json(indent=1, exclude={"in_mlflow"}).encode())

    def mark_in_mlflow(self, night: Night, is_level: bool) -> None:
        """Keep, beside the night's entry, whether MLflow has been seen to hold all of its journal."""
        if is_level:
            self._mark(night.id).touch()
        else:
            self._mark(night.id).unlink(missing_ok=True)

    @contextlib.contextmanager
    def hold(self, night: Night) -> Iterator[Lease]:
        """Hold the night's lease for the block: while it is held, the night is not taken for dead, and this process
        alone writes of it."""
        with take(self._lease(night)) as lease:
            yield lease

    def journal_path(self, night: Night) -> Path:
        """The file that the night's records are appended to; it need not exist yet."""
        return self.home / "journals" / f"{night.id}.jsonl"

    def _lease(self, night: Night) -> Path:
        return self.home / "leases" / f"night-{night.id}"

    def _file(self, id: str) -> Path:
        return self.home / "nights" / f"{id}.json"

    def _mark(self, id: str) -> Path:
        return self.home / "nights" / f"{id}.in-mlflow"

    def _read(self, path: Path) -> Night | None:
        try:
            night = Night.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.warning("the night's entry %s cannot be read (%s); restore it or remove it", path, reason_of(error))
            return None
        return night.model_copy(update={"in_mlflow": night.in_mlflow or self._mark(night.id).exists()})

    def _as_it_stands(self, night: Night) -> Night:
        is_dead = night.state == "running" and holder(self._lease(night)) is None
        return _killed(night) if is_dead else night


def _killed(night: Night) -> Night:
    said = "its process was killed or the machine went down"
    return night.model_copy(update={"state": "killed", "ended": night.ended or now(), "error": said})


def reason_of(error: Exception) -> str:
    """The first line of an error."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def new_night(recipe: str, recipe_path: Path) -> Night:
    """A night that begins now; its id sorts by time and is unique."""
    id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    return Night(id=id, recipe=recipe, recipe_path=str(recipe_path), state="running", started=now())


def close_journal(path: Path, status: str, held: Held = nullcontext) -> None:
    """End what a dead process left open in its journal, so that MLflow does not show it as running for ever."""
    open_nodes: dict[str, None] = {}
    for record in read_journal(path):
        if record.kind == "start":
            open_nodes[record.node] = None
        elif record.kind == "end":
            open_nodes.pop(record.node, None)
    journal = Journal(path, held)
    for node in reversed(open_nodes):
        journal.append("end", node, status=status)
    journal.close()


def now() -> str:
    """The time in UTC as ISO 8601 with whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def home_folder() -> Path:
    """Where everything lies: NIGHTSCHOOL_HOME, or `.nightschool` in the current folder."""
    return Path(os.environ.get("NIGHTSCHOOL_HOME") or ".nightschool").expanduser().absolute()
