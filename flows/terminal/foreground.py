"""Runs a night in the foreground of a terminal: server, environment, flow, and a sentence if it fails."""

import logging
import os
import shutil
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from flows.nights.ledger import Ledger, Night, home_folder
from flows.recipe_file import read_recipe_file
from flows.servers.access import make_home
from flows.servers.connection import existing_api_url, is_ours
from flows.servers.prefect import PrivateServer, environment
from flows.terminal.console import Console
from tasks.core.errors import StageError
from tasks.core.run import is_disk_full

FULL_BYTES = 1 << 20
"""A disk with less than this is full: Prefect's server then answers with errors that do not say so."""


class NightFailed(Exception):
    """A night ended badly; the message says how in one sentence, `night` is its entry, `log` holds the traceback."""

    def __init__(self, message: str, night: Night, log: Path) -> None:
        super().__init__(message)
        self.night = night
        self.log = log


def run_night(recipe: Path, console: Console, keep: list[str] | None = None, night_id: str | None = None) -> Night:
    """Check a recipe, run it in this process and return the night's entry.

    Prefect's server takes 3 to 9 s to answer, so it is started first and awaited after the imports. In a home that has
    no database yet the checks come before it: one that is being created must not be cut short by a slip of the pen.

    Raises:
        UserError: the recipe or a source is wrong, and no night was begun.
        NightFailed: a stage failed or the run was interrupted.
    """
    home = home_folder()
    has_database = (home / "prefect" / "prefect.db").exists()
    read_recipe_file(recipe)
    if not has_database:
        check_recipe(recipe)
    make_home(home)
    ledger = Ledger(home)
    known = {night.id for night in ledger.nights()}
    api_url = existing_api_url(home)
    server = None if api_url else PrivateServer.start(home)
    with server or nullcontext():
        if has_database:
            check_recipe(recipe)
        if server:
            os.environ.update(environment(home, server.api_url))
        elif api_url:
            os.environ.update(environment(home, api_url, ours=is_ours(home, api_url)))
        # The terminal is ours: what Prefect would print there stands on the run's page and in our own lines.
        os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
        logging.raiseExceptions = False  # else a log line that Prefect's server refuses prints a traceback
        from flows.nights.nightly import nightly
        from flows.nights.session import view
        from flows.terminal.view import TerminalView

        if server:
            server.wait()
        with TerminalView(console) as terminal, _interruptible():
            view.set(terminal)
            try:
                finished = nightly(str(recipe), keep, night_id)
            except BaseException as error:
                raise _failure(ledger, known, night_id, error) from error
    return next(night for night in ledger.nights() if night.id == finished)


def check_recipe(recipe: Path) -> None:
    """Raise UserError for all that can be known to be wrong before anything runs.

    A slip of the pen is told first, before what takes a second to import.
    """
    read_recipe_file(recipe)
    from flows.checks import checked_recipe

    checked_recipe(recipe)


def _failure(ledger: Ledger, known: set[str], night_id: str | None, error: BaseException) -> BaseException:
    """The failure of this command's night; the error itself if it struck before a night began."""
    no_space = None
    if is_disk_full(error) or shutil.disk_usage(ledger.home).free < FULL_BYTES:
        no_space = f"no space is left in {ledger.home}; free some or point NIGHTSCHOOL_HOME at a larger disk"
    nights = [night for night in ledger.nights() if night.id == night_id or night.id not in known]
    if not nights:
        return StageError(no_space) if no_space else error
    night = nights[-1]
    log = ledger.home / "logs" / f"night-{night.id}.log"
    with suppress(OSError):  # on a full disk the sentence must do
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("".join(traceback.format_exception(error)))
    where = f"the stage {night.failed_node}" if night.failed_node else "the night"
    if isinstance(error, Exception):
        return NightFailed(f"{where} failed: {no_space or _one_line(error)}", night, log)
    return NightFailed(f"{where} was interrupted", night, log)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    named = text if type(error).__module__.startswith("tasks.") else f"{type(error).__name__}: {text}"
    return named if len(named) <= 400 else named[:397] + "..."


@contextmanager
def _interruptible() -> Iterator[None]:
    """Make SIGTERM, and a terminal that is closed, end the run in order, as Ctrl-C does.

    Stages clean up, training saves, MLflow hears of it.
    """

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
