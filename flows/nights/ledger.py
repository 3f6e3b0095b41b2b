"""The ledger: one entry a night, in exactly one state, so that a morning (or a rerun) knows where it stands.

Entries are JSON files replaced atomically. A night that says `running` while nobody holds its lease was killed; whoever
looks next settles it.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from models.files import write_file
from tasks.core.errors import UserError
from tasks.core.journal import Journal, read_journal
from tasks.core.lease import holder, take
from tasks.core.versions import version_of

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
        """All nights, the oldest first; those whose process is dead are settled as killed."""
        entries = sorted((self.home / "nights").glob("*.json"))
        return [self._settled(Night.model_validate_json(path.read_bytes())) for path in entries]

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

    def write(self, night: Night) -> None:
        """Put the night's entry on the disk, atomically, in place of the one that stood there."""
        folder = self.home / "nights"
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / f"{night.id}.json", night.model_dump_json(indent=1).encode())

    @contextlib.contextmanager
    def hold(self, night: Night) -> Iterator[None]:
        """Hold the night's lease for the block: while it is held, the night is not taken for dead."""
        with take(self._lease(night)):
            yield

    def journal_path(self, night: Night) -> Path:
        """The file that the night's records are appended to; it need not exist yet."""
        return self.home / "journals" / f"{night.id}.jsonl"

    def _lease(self, night: Night) -> Path:
        return self.home / "leases" / f"night-{night.id}"

    def _settled(self, night: Night) -> Night:
        if night.state != "running" or holder(self._lease(night)) is not None:
            return night
        settled = night.model_copy(
            update={"state": "killed", "ended": now(), "error": "its process was killed or the machine went down"}
        )
        close_journal(self.journal_path(night), "KILLED")
        self.write(settled)
        return settled


def new_night(recipe: str, recipe_path: Path) -> Night:
    """A night that begins now; its id sorts by time and is unique."""
    id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    return Night(id=id, recipe=recipe, recipe_path=str(recipe_path), state="running", started=now())


def close_journal(path: Path, status: str) -> None:
    """End what a dead process left open in its journal, so that MLflow does not show it as running for ever."""
    open_nodes: dict[str, None] = {}
    for record in read_journal(path):
        if record.kind == "start":
            open_nodes[record.node] = None
        elif record.kind == "end":
            open_nodes.pop(record.node, None)
    journal = Journal(path)
    for node in reversed(open_nodes):
        journal.append("end", node, status=status)
    journal.close()


def now() -> str:
    """The time in UTC as ISO 8601 with whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def home_folder() -> Path:
    """Where everything lies: NIGHTSCHOOL_HOME, or `.nightschool` in the current folder."""
    return Path(os.environ.get("NIGHTSCHOOL_HOME") or ".nightschool").expanduser().absolute()
