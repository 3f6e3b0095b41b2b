"""A night that can be frozen at any moment, with leases that run out in a second.

One stage runs under a night's lease, as flows/nights/session.py runs them all.
"""

import os
import time
from pathlib import Path

from flows.nights.ledger import Ledger, Night, close_journal, now
from models.settings import Settings
from tasks.core import lease as leases
from tasks.core.journal import Journal
from tasks.core.run import Run
from tasks.core.stage import Metrics, StageLog, stage
from tasks.core.store import Store
from tests.plain import PlainRun, opened

STEPS = 20


class Slowly(Settings):
    """How the stage works."""

    pause: float = 0.02
    """Seconds between two steps."""


@stage(version=1)
def slowly(settings: Slowly, out: Path, work: Path, log: StageLog) -> Metrics:
    """Write a file a step, and keep in `work` how far it is."""
    for step in range(1, STEPS + 1):
        (out / f"{step:02d}.txt").write_text(str(step))
        (work / f"done-{os.getpid()}").write_text(str(step))
        log.metrics({"loss": 1.0 / step}, step=step, time_ms=step)
        time.sleep(settings.pause)
    return {"steps": STEPS}


class FencedRun(PlainRun):
    """A run without Prefect, whose journal is written under the night's lease."""

    def __init__(self, night: str, store: Store, journal: Journal) -> None:
        super().__init__(store.home)
        Run.__init__(self, night, store, journal, self.view, submit=None)


def main(home: Path, night_id: str) -> None:
    """Run the night; prints a line when it has begun and one when it has ended well."""
    leases.TTL_S, leases.RENEWAL_S = 1.0, 0.2
    ledger = Ledger(home)
    night = Night(id=night_id, recipe="r", recipe_path="r.yaml", state="running", started=now())
    with ledger.hold(night) as lease:
        print("begun", flush=True)
        ledger.end_if_killed(night.id, lease.held)
        ledger.write(night, lease.held)
        journal = Journal(ledger.journal_path(night), lease.held)
        journal.append("start", "", name=night.id, pid=os.getpid())
        run = FencedRun(night.id, Store(home), journal)
        with opened(run):
            slowly.run(Slowly())
        close_journal(journal.path, "FINISHED", lease.held)
        ledger.write(night.model_copy(update={"state": "done", "error": f"by {os.getpid()}"}), lease.held)
    print("done", flush=True)
