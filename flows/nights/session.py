"""A session: one process at work on a night, with everything it must hold and let go: lease, journal, sender, entry."""

import contextlib
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import yaml

from flows.nights.ledger import Ledger, Night, StageEntry, State, close_journal, home_folder, new_night, now
from flows.recipe import Recipe, load_recipe
from flows.recipe_file import find_recipe
from flows.servers.access import make_home
from flows.servers.connection import connect_tracking
from flows.terminal.view import LogView, Views
from models.files import write_file
from tasks.core.artifact import Artifact
from tasks.core.errors import StageError, UserError
from tasks.core.journal import Held, Journal
from tasks.core.run import Run, View
from tasks.core.stage import context, read_code
from tasks.core.store import Store
from tasks.tracking.sender import Sender, sync

DRAIN_S = 30.0
STATUSES: dict[State, str] = {"done": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
"""What MLflow calls the end of a run."""

view: ContextVar[View | None] = ContextVar("view", default=None)
"""Set by the command line, to show what otherwise (on a worker) only Prefect's page of the run shows."""


@dataclass
class Session:
    """An open night."""

    night: Night
    recipe: Recipe
    run: Run

    def publish(self, report: Artifact, export: Artifact) -> None:
        """Show the report and the lineage graph at the night's own run, and register the exported model."""
        for name in ("report.html", "lineage.html"):
            self.run.journal.append("artifact", "", path=str((report.path / name).resolve()), to="")
        self.run.journal.append(
            "model",
            "export",
            name=self.recipe.name,
            path=str(export.path.resolve()),
            digest=export.digest,
            tags={
                "nightschool.stage": export.stage,
                "nightschool.digest": export.digest,
                "nightschool.run": self.run.id,
            },
        )


@contextmanager
def open_session(recipe_path: Path, keep: frozenset[str], night_id: str | None) -> Iterator[Session]:
    """Begin a night, or go on with one that ended badly, and end it in the ledger and in MLflow however the block
    ends."""
    home = home_folder()
    make_home(home)
    ledger = Ledger(home)
    recipe = load_recipe(recipe_path)
    read_code()
    night = _choose_night(ledger, recipe, find_recipe(recipe_path), night_id)
    with ledger.hold(night) as lease:
        ledger.end_if_killed(night.id, lease.held)
        if night_id is not None:
            require_unfinished(ledger.entry(night_id))
        ledger.write(night, lease.held)
        journal = Journal(ledger.journal_path(night), lease.held)
        sender = Sender(journal.path, connect_tracking(home))
        sender.start()
        terminal, page = view.get(), _prefect_log()
        watcher: View = Views(terminal, page) if terminal else page
        run = Run(night.id, Store(home), journal, watcher, keep)
        _record_start(home, journal, night, recipe)
        token = context.set(run)
        outages = _Said(watcher)
        logging.getLogger("nightschool.tracking").addHandler(outages)
        try:
            yield Session(night, recipe, run)
        except BaseException as error:
            _end(ledger, night, run, "failed" if isinstance(error, Exception) else "killed", error, lease.held)
            raise
        else:
            _end(ledger, night, run, "done", None, lease.held)
        finally:
            context.reset(token)
            _level(ledger, night, sender, watcher)
            logging.getLogger("nightschool.tracking").removeHandler(outages)


class _Said(logging.Handler):
    """Passes the sender's warnings to the view: printed past it, they would tear its live lines."""

    def __init__(self, view: View) -> None:
        super().__init__(logging.WARNING)
        self.view = view

    def emit(self, record: logging.LogRecord) -> None:
        self.view.said("mlflow", record.getMessage())


def _level(ledger: Ledger, night: Night, sender: Sender, view: View) -> None:
    """Let the sender finish, then send what earlier nights could not; an MLflow that is away costs half a minute."""
    left = sender.drain(DRAIN_S)
    _note_in_mlflow(ledger, night, left == 0)
    if left:
        view.said("mlflow", f"{left} records wait in the journal; `nightschool sync` sends them when MLflow answers")
    else:
        _send_missing(ledger, connect_tracking(ledger.home), view)


def _choose_night(ledger: Ledger, recipe: Recipe, path: Path, night_id: str | None) -> Night:
    from prefect.runtime import flow_run

    night = ledger.to_rerun(night_id) if night_id else ledger.by_prefect_run(flow_run.id)
    if night is None:
        night = new_night(recipe.name, path)
    runs = [run for run in night.prefect_runs if run != flow_run.id] + [flow_run.id]
    fresh = {"state": "running", "ended": None, "failed_node": None, "error": None, "in_mlflow": False}
    return night.model_copy(update={**fresh, "prefect_runs": runs})


def _record_start(home: Path, journal: Journal, night: Night, recipe: Recipe) -> None:
    journal.append("start", "", name=night.id, experiment=recipe.name, tags={"nightschool.recipe": night.recipe_path})
    copy = home / "nights" / f"{night.id}.recipe.yaml"
    write_file(copy, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False).encode())
    journal.append("artifact", "", path=str(copy), to="recipe")


def require_unfinished(entry: Night | None) -> None:
    """Raise UserError if a night that was to be gone on with has ended well while this process waited for it."""
    if entry is not None and entry.state == "done":
        raise UserError(f"night {entry.id} has ended well meanwhile, so there is nothing to go on with")


def _end(ledger: Ledger, night: Night, run: Run, state: State, error: BaseException | None, held: Held) -> None:
    """Write how the night ended. On a full disk the error that says so matters more than its record: the entry then
    stays `running` and is settled later. A night that another process has taken over is that one's to end."""
    night.state = state
    night.ended = now()
    night.stages = [StageEntry(**vars(outcome)) for outcome in run.outcomes]
    night.failed_node = run.failed_node
    night.error = None if error is None else str(error) if isinstance(error, Exception) else "it was interrupted"
    times = {f"seconds/{outcome.node}": outcome.seconds for outcome in run.outcomes}
    with contextlib.suppress(OSError, StageError) if error else contextlib.nullcontext():
        run.journal.append("metrics", "", values=times, step=0, at=time.time_ns() // 1_000_000)
        run.journal.close()
        close_journal(run.journal.path, STATUSES[state], held)
        ledger.write(night, held)


def _prefect_log() -> LogView:
    from prefect import get_run_logger

    return LogView(get_run_logger())


def sync_all(ledger: Ledger) -> dict[str, int]:
    """Bring MLflow level with every night's journal; returns the number of records sent, by night.

    Raises:
        StageError: MLflow does not answer.
    """
    uri = connect_tracking(ledger.home)
    return {night.id: _sync(ledger, night, uri) for night in _ended(ledger)}


def _ended(ledger: Ledger) -> list[Night]:
    """The nights that no process works on; those that were killed are settled."""
    ended = [night for night in ledger.nights() if night.state != "running"]
    for night in ended:
        if night.state == "killed":
            ledger.settle(night)
    return ended


def _send_missing(ledger: Ledger, uri: str, view: View) -> None:
    """Send what earlier nights could not: those that were killed, or ran while MLflow was away."""
    for night in _ended(ledger):
        if not night.in_mlflow:
            try:
                _sync(ledger, night, uri)
            except StageError as error:
                view.said("mlflow", str(error))
                return


def _sync(ledger: Ledger, night: Night, uri: str) -> int:
    path = ledger.journal_path(night)
    sent = sync(path, uri) if path.exists() else 0
    _note_in_mlflow(ledger, night, True)
    return sent


def _note_in_mlflow(ledger: Ledger, night: Night, is_level: bool) -> None:
    if night.state != "running" and night.in_mlflow != is_level:
        night.in_mlflow = is_level
        with contextlib.suppress(OSError):  # a full disk has been reported by the stage that met it
            ledger.mark_in_mlflow(night, is_level)
