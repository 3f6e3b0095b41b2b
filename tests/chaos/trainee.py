"""A training process that dies where a test wants it to, and writes down which windows it saw.

The processes are forked from one that has imported torch and Lightning already (multiprocessing's fork server),
because a start costs 5 s and a trial 1 s. What runs in them is the whole of `python -m models.fit`; the faults come
from outside of it: Python's audit events of the checkpoints' folder, and the calls that have none.
"""

import hashlib
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from models.process.progress import read_reports
from models.spec import FitSpec

server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["models.fit", "tests.chaos.trainee"])

AUDITED = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.fsync")


@dataclass(frozen=True)
class Faults:
    """What goes wrong in one process."""

    die_at_event: int | None = None
    """SIGKILL just before that event in the checkpoints' folder, counted from 0."""
    not_a_number_at: tuple[int, ...] = ()
    """Steps, counted from 1, whose windows give a loss that is no number, in every process."""
    largest_file: int | None = None
    """Bytes: the disk refuses to let a file grow beyond."""
    step_s: float = 0.0
    """Every step takes at least so long."""


NONE = Faults()


def start(spec: FitSpec, faults: Faults = NONE) -> BaseProcess:
    spec.work.mkdir(parents=True, exist_ok=True)
    file = spec.work / "spec.json"
    file.write_text(spec.model_dump_json())
    process = server.Process(target=_train, args=(file, faults))
    process.start()
    return process


def finish(spec: FitSpec, faults: Faults = NONE) -> None:
    process = start(spec, faults)
    process.join(180)
    assert process.exitcode == 0, log(spec)


def log(spec: FitSpec) -> str:
    return (spec.work / "log.txt").read_text()


def kill_at(spec: FitSpec, step: int, delay: float, number: int = signal.SIGKILL, faults: Faults = NONE) -> Any:
    """Start, send the signal a moment after that many steps were reported in all, and return the exit code."""
    process = start(spec, faults)
    progress = spec.work / "progress.jsonl"
    while process.is_alive() and sum(1 for _ in read_reports(progress)) < step:
        time.sleep(0.005)
    time.sleep(delay)
    if process.is_alive():
        assert process.pid is not None
        os.kill(process.pid, number)
    process.join(60)
    return process.exitcode


def windows_in_order(spec: FitSpec) -> list[str]:
    """A hash of the windows that each step reads."""
    from models.order.loader import Steps

    batches = Steps(spec)
    return [_name(batches[step]) for step in range(spec.steps)]


def windows_seen(spec: FitSpec) -> list[list[str]]:
    """Hashes of the windows that each process's steps computed."""
    lines = [line.split() for line in (spec.work / "seen.txt").read_text().splitlines()]
    return [[name for owner, name in lines if owner == process] for process in dict.fromkeys(o for o, _ in lines)]


def events(spec: FitSpec) -> list[str]:
    """What all processes did in the checkpoints' folder, in order."""
    return (spec.work / "events.txt").read_text().splitlines()


def _name(batch: Any) -> str:
    return hashlib.sha256(batch.tokens_BT.numpy().tobytes()).hexdigest()[:16]


def _train(spec_file: Path, faults: Faults) -> None:
    """What `python -m models.fit spec.json` does."""
    import models.fit

    descriptor = os.open(spec_file.parent / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    multiprocessing.set_start_method("fork", force=True)  # the default of a process that is not forked itself
    spec = FitSpec.model_validate_json(spec_file.read_bytes())
    _watch_the_windows(spec, faults)
    _watch_the_checkpoints(spec, faults.die_at_event)
    if faults.largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (faults.largest_file, resource.RLIM_INFINITY))
    sys.exit(models.fit.main([str(spec_file)]))


def _watch_the_windows(spec: FitSpec, faults: Faults) -> None:
    """Hand the training its loss, compiled or not, in a wrapper that first tells a file which windows are read, and
    gives no number for the chosen ones."""
    import models.fit
    from models.learn.training import Training
    from models.order.loader import Steps

    batches = Steps(spec)
    marked = {_name(batches[step - 1]) for step in faults.not_a_number_at}
    seen = os.open(spec.work / "seen.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def watched(spec: FitSpec, model: Any, loss: Callable[..., Any], *others: Any) -> Training:
        def told(model: Any, batch: Any) -> Any:
            name = _name(batch)
            os.write(seen, f"{os.getpid()} {name}\n".encode())
            time.sleep(faults.step_s)
            return loss(model, batch) * float("nan") if name in marked else loss(model, batch)

        return Training(spec, model, told, *others)

    models.fit.Training = watched  # type: ignore[assignment, attr-defined]


def _watch_the_checkpoints(spec: FitSpec, fatal: int | None) -> None:
    """Write down every event in the folder of checkpoints, and die just before the fatal one, or in its middle."""
    import models.learn.tensors

    told = os.open(spec.work / "events.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    count = 0

    def happens(event: str, name: str, half: Callable[[], None] = lambda: None) -> None:
        nonlocal count
        if count == fatal:
            half()
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        os.write(told, f"{event} {name}\n".encode())

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in AUDITED or not arguments:
            return
        within_a_folder_that_is_removed = event in ("os.remove", "os.rmdir") and arguments[1] >= 0
        if within_a_folder_that_is_removed or "/checkpoints" in str(arguments[0]):
            happens(event, Path(str(arguments[0])).name)

    def fsync(descriptor: int) -> None:  # it has no audit event
        sys.audit("os.fsync", os.readlink(f"/proc/self/fd/{descriptor}"))
        real_fsync(descriptor)

    def save_file(tensors: Any, file: Path, header: Any = None) -> None:  # it is not written by Python
        def half() -> None:
            real_save_file(tensors, file, header)
            os.truncate(file, file.stat().st_size // 2)

        happens("half", file.name, half)
        real_save_file(tensors, file, header)

    real_fsync, os.fsync = os.fsync, fsync  # type: ignore[assignment]
    real_save_file, models.learn.tensors.save_file = models.learn.tensors.save_file, save_file  # type: ignore[assignment, attr-defined]
    sys.addaudithook(audit)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder and of those in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
