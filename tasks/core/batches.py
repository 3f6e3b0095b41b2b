"""Batches: a stage's work in pieces, each done once by whatever engine runs it, and never again after a kill.

A stage over many files asks for `batches` and maps a function over them. Each call writes into a folder of its own,
which is synced and renamed into place with what the function returned; a run that was killed finds it there and goes
on with the next. Results come in the order of the items, so neither the engine nor the number of workers can show
in an artifact. A batch is tens of megabytes: a task costs some 10 ms, and a kill at most one batch a worker.
"""

import json
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from models.files import place_folder, sync, write_file
from tasks.core.digest import canonical
from tasks.core.stage import StageLog

FACTS_FILE = "facts.json"
ASIDE = ".writing-"

Facts = dict[str, Any]
"""What a batch's function returns beside its files: plain JSON values, equal for equal work."""
BatchFunction = Callable[[Any, Path], Facts]
"""Works on one item and writes into an empty folder. Must be importable (or a `functools.partial` of what is), since
it may run in another process or on another machine."""


class Future(Protocol):
    """A batch at work somewhere."""

    def result(self) -> Facts:
        """Wait for the batch and return what its function returned; an error of the function is raised here."""


Submit = Callable[[BatchFunction, Any, Path], Future]
"""How an engine takes a batch: it calls `do_batch` with these somewhere, some time."""


@dataclass(frozen=True)
class DoneBatch:
    """A batch that is done: the folder with its files, and what its function returned."""

    folder: Path
    facts: Facts

    def hand_over(self, name: str, target: Path) -> None:
        """Give the file `name` to the artifact under another path, without copying where the disk allows it."""
        source = self.folder / name
        try:
            os.link(source, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            shutil.copyfile(source, target)


class Batches:
    """What a stage's parameter `batches` offers."""

    def __init__(self, folder: Path, submit: Submit | None = None, log: StageLog | None = None) -> None:
        """Open the folder of a stage's batches.

        Args:
            folder: where finished batches lie; it outlives a kill and is removed when the stage is committed.
            submit: the engine; without it, a thread for each core.
            log: hears how many batches are done.
        """
        self.folder = folder
        self._submit = submit
        self._log = log or StageLog()

    def map(self, name: str, function: BatchFunction, items: Sequence[Any]) -> list[DoneBatch]:
        """Call `function(item, folder)` for each item that is not done yet; results in the order of the items.

        Args:
            name: of this pass over the items, unique in the stage.

        Raises:
            Exception: what the first failing batch raised; the others are finished and kept all the same.
        """
        place = self.folder.absolute() / name
        place.mkdir(parents=True, exist_ok=True)
        for leftover in place.glob(f"{ASIDE}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        folders = [place / f"{number:06d}" for number in range(len(items))]
        if self._submit is not None:
            return self._collect(
                name, folders, [self._submit(function, *work) for work in zip(items, folders, strict=True)]
            )
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            futures = [pool.submit(do_batch, function, *work) for work in zip(items, folders, strict=True)]
            return self._collect(name, folders, futures)

    def _collect(self, name: str, folders: Sequence[Path], futures: Sequence[Future]) -> list[DoneBatch]:
        done = []
        for folder, future in zip(folders, futures, strict=True):
            done.append(DoneBatch(folder, future.result()))
            self._log.progress(len(done), len(folders), f"batches ({name})")
        return done


def do_batch(function: BatchFunction, item: Any, folder: Path) -> Facts:
    """Do one batch unless it is done, and return what its function returned.

    Two workers may hold one batch, if an engine took one of them for dead: the first to finish is kept.
    """
    finished = folder / FACTS_FILE
    if finished.exists():
        return json.loads(finished.read_bytes())
    aside = folder.with_name(f"{ASIDE}{folder.name}-{uuid.uuid4().hex[:8]}")
    aside.mkdir(parents=True)
    try:
        facts = function(item, aside)
        for path in aside.rglob("*"):
            sync(path)
        write_file(aside / FACTS_FILE, canonical(facts))
        if not finished.exists():
            place_folder(aside, folder)
    except OSError:
        if not finished.exists():  # else the other worker renamed its own between our look and our rename
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return json.loads(finished.read_bytes())
