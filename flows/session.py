"""A session: one process at work on a night, with everything it must hold and let go: lease, journal, sender, entry."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import yaml

from flows.ledger import Ledger, Night, StageEntry, close_journal, home_folder, new_night, now
from flows.recipe import Recipe, find_recipe, load_recipe
from flows.services import tracking_uri
from flows.view import LogView
from tasks.core.journal import Journal
from tasks.core.run import Run, View
from tasks.core.stage import context
from tasks.core.store import Artifact, Store, write_atomic
from tasks.core.tracking import Sender

DRAIN_S = 30.0

view: ContextVar[View | None] = ContextVar("view", default=None)
"""Set by the command line; without it (on a worker) lines go to Prefect's logger."""


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
    ledger = Ledger(home)
    recipe = load_recipe(recipe_path)
    night = _choose_night(ledger, recipe, find_recipe(recipe_path), night_id)
    with ledger.hold(night):
        ledger.write(night)
        journal = Journal(ledger.journal_path(night))
        uri = tracking_uri(home)
        sender = Sender(journal.path, uri)
        sender.start()
        run = Run(night.id, Store(home), journal, view.get() or _prefect_log(), keep)
        _record_start(home, journal, night, recipe)
        token = context.set(run)
        try:
            yield Session(night, recipe, run)
        except BaseException as error:
            state = "failed" if isinstance(error, Exception) else "killed"
            _end(ledger, night, run, state, error)
            raise
        else:
            _end(ledger, night, run, "done", None)
        finally:
            context.reset(token)
            left = sender.drain(DRAIN_S)
            if left:
                run.view.said("mlflow", f"{left} records wait in the journal for {uri}; `nightschool sync` sends them")


def _choose_night(ledger: Ledger, recipe: Recipe, path: Path, night_id: str | None) -> Night:
    from prefect.runtime import flow_run

    night = ledger.to_rerun(night_id) if night_id else ledger.by_prefect_run(flow_run.id)
    if night is None:
        night = new_night(recipe.name, path)
    runs = [run for run in night.prefect_runs if run != flow_run.id] + [flow_run.id]
    fresh = {"state": "running", "ended": None, "failed_node": None, "error": None, "prefect_runs": runs}
    return night.model_copy(update=fresh)


def _record_start(home: Path, journal: Journal, night: Night, recipe: Recipe) -> None:
    journal.append("start", "", name=night.id, experiment=recipe.name, tags={"nightschool.recipe": night.recipe_path})
    copy = home / "nights" / f"{night.id}.recipe.yaml"
    write_atomic(copy, yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False).encode())
    journal.append("artifact", "", path=str(copy), to="recipe")


def _end(ledger: Ledger, night: Night, run: Run, state: str, error: BaseException | None) -> None:
    """Write how the night ended. On a full disk the journal may refuse: the entry then stays `running` and is
    settled later."""
    night.state = state  # type: ignore[assignment]
    night.ended = now()
    night.stages = [StageEntry(**vars(outcome)) for outcome in run.outcomes]
    night.failed_node = run.failed_node
    night.error = str(error) or type(error).__name__ if error else None
    times = {f"seconds/{outcome.node}": outcome.seconds for outcome in run.outcomes}
    run.journal.append("metrics", "", values=times, step=0, at=time.time_ns() // 1_000_000)
    run.journal.close()
    close_journal(run.journal.path, {"done": "FINISHED", "failed": "FAILED", "killed": "KILLED"}[state])
    ledger.write(night)


def _prefect_log() -> LogView:
    from prefect import get_run_logger

    return LogView(get_run_logger())
