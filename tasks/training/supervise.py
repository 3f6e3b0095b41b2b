"""The parent's side of a training: starts it, feeds its figures to the log, and decides what its end means.

Training is a process of its own because Lightning's signal handlers want a main thread, and because the kernel that
kills the largest process must not take the flow with it. The price is one more start of torch and Lightning (5 s
warm). Works from any thread.
"""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from models.files import write_file
from models.machine.out_of_memory import how_to_fit
from models.process import outcome
from models.spec import FitSpec
from tasks.core.errors import StageError
from tasks.core.stage import StageLog
from tasks.training.hanging import HangWatch
from tasks.training.progress_log import ProgressLog
from tasks.training.resources import Resources, family
from tasks.training.torchrun import GRACE_S, command, environment, processes_for

_POLL_S = 0.5
_SAMPLED_EVERY_S = 10.0


@dataclass(frozen=True)
class _Death:
    """An end that the training did not tell itself."""

    how: str
    """As in "was killed by SIGKILL"."""
    output: Path
    """Where its last words are, if any."""
    memory: bool
    """Whether the kernel killed for want of memory meanwhile."""


def supervise(spec: FitSpec, log: StageLog, restarts: int = 2, patience_s: float = 900.0) -> None:
    """Run the spec to its end; returns when `spec.out` is complete.

    A training that died is started again from its last checkpoint, `restarts` times without a new checkpoint between
    two deaths. So is one that hangs: it is killed when its heartbeat is silent for 20 times its median step, at least a
    minute, or, while it starts, compiles, saves or evaluates, for `patience_s` seconds. With more than one device it
    runs under torchrun, and what befalls one process ends and restarts all of them. Losses reach `log` from the first
    step on, also those of an earlier call on the same work folder.

    Raises StageError when the training failed, was stopped, ran out of memory, or died too often: the sentence says
    which, and where its output is.
    """
    spec.work.mkdir(parents=True, exist_ok=True)
    write_file(spec.work / "spec.json", spec.model_dump_json(indent=2).encode())
    processes = processes_for(spec)
    progress = ProgressLog(spec, log, processes)
    left, saved = restarts, _last_saved(spec)
    while True:
        death = _run(spec, progress, processes, patience_s, log)
        end = outcome.told(spec.work)
        if end and end.kind == "finished":
            return
        if end and end.kind == "stopped":
            raise StageError(
                f"The training was stopped and saved at step {progress.step} of {spec.steps}; the same command goes on "
                "from there."
            )
        if end:
            errors = _errors(spec, processes, end.rank)
            raise StageError(f"The training failed: {end.sentence.rstrip('.')} (full output: {errors})")
        if death.memory:
            raise StageError(
                f"The training was killed at step {progress.step} because the machine's memory ran out: "
                f"{how_to_fit(spec, processes, gpu=False)}; the same command goes on from the last checkpoint."
            )
        if (now := _last_saved(spec)) > saved:
            left, saved = restarts, now
        if left == 0:
            raise StageError(
                f"The training {death.how} at step {progress.step}, again: the same command goes on from the last "
                f"checkpoint (output: {death.output})."
            )
        left -= 1
        log.info(f"The training {death.how} at step {progress.step}; starting again from its last checkpoint.")


def _run(spec: FitSpec, progress: ProgressLog, processes: int, patience_s: float, log: StageLog) -> _Death:
    """The training from start to end, and how it looks from outside."""
    progress.restart()
    outcome.forget(spec.work)
    oom_kills = _oom_kills()
    hung: str | None = None
    with (
        (spec.work / "stdout.txt").open("wb") as out,
        (spec.work / "stderr.txt").open("wb") as errors,
        _ended(
            subprocess.Popen(
                command(spec, processes),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                env=environment(processes),
            )
        ) as child,
    ):
        watch, resources, sampled = HangWatch(spec.work), Resources(child.pid), time.monotonic()
        while True:
            with suppress(subprocess.TimeoutExpired):
                child.wait(_POLL_S)
            progress.pump()
            if child.returncode is not None:
                break
            if time.monotonic() - sampled > _SAMPLED_EVERY_S:
                sampled = time.monotonic()
                if values := resources.sample():
                    log.metrics(values)
            if not hung and (hung := watch.too_long(progress.median_step_s, patience_s)):
                log.info(f"The training {hung}; killing it.")
                _kill(child)
            if not threading.main_thread().is_alive():
                child.send_signal(signal.SIGTERM)  # the interpreter is leaving and waits only for this thread
    said = _errors(spec, processes, 0) if processes > 1 else spec.work / "stderr.txt"
    how = hung or _how_it_died(child.returncode, spec.work / "stderr.txt", said)
    return _Death(how, said, _oom_kills() > oom_kills)


@contextmanager
def _ended(child: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """However the block ends (Ctrl-C and Prefect's cancellation arrive as exceptions), the child saves and ends."""
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(GRACE_S + 10)
            except subprocess.TimeoutExpired:
                _kill(child)
                child.wait()


def _kill(child: subprocess.Popen[bytes]) -> None:
    """All of the family: torchrun, when killed, would leave the trainings themselves behind."""
    for process in family(child.pid):
        with suppress(ProcessLookupError):
            process.kill()


def _last_saved(spec: FitSpec) -> str:
    """Name of the newest checkpoint: what tells progress that lasts from steps done over and over."""
    return max((path.name for path in (spec.work / "checkpoints").glob("step-*")), default="")


def _errors(spec: FitSpec, processes: int, rank: int) -> Path:
    return spec.work / ("stderr.txt" if processes == 1 else f"stderr-{rank}.txt")


def _how_it_died(code: int, launcher: Path, said: Path) -> str:
    """In words; torchrun's own report names the signal that ended one of its processes."""
    if code < 0:
        return f"was killed by {_signal_name(-code)}"
    if named := re.search(r"exitcode\s*: -(\d+)", launcher.read_text(errors="replace")):
        return f"was killed by {_signal_name(int(named[1]))}"
    return f"ended ({_last_line(said if said.exists() else launcher)})"


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "it said nothing"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _oom_kills() -> int:
    """Processes that the kernel has killed for want of memory: on this machine since it booted, and in this process's
    control group, whose limit may be lower (a container's); 0 where the kernel does not tell."""
    counted = 0
    for path in (Path("/proc/vmstat"), *_memory_events()):
        with suppress(OSError, ValueError):
            counters = dict(line.split() for line in path.read_text().splitlines())
            counted += int(counters.get("oom_kill", 0))
    return counted


def _memory_events() -> list[Path]:
    """The counters of the control group (version 2), seen from the host or from inside a container."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                group = Path("/sys/fs/cgroup") / line.removeprefix("0::").lstrip("/")
                return [group / "memory.events"]
    return []
