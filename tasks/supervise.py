"""The parent's side of a training: starts the process, feeds its figures to the log, and decides what its end means.

Training is a process of its own because Lightning's signal handlers want a main thread, and because the kernel that
kills the largest process must not take the flow with it. The price is one more start of torch and Lightning (5 s
warm). Works from any thread.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from models.progress import read_reports
from models.spec import FitSpec
from tasks.core.errors import StageError
from tasks.core.stage import StageLog

RESUMABLE = 75
"""The exit code with which models/fit.py says: stopped on request, saved, run me again."""

_POLL_S = 0.5
_GRACE_S = 120.0  # for finishing a step and saving, after SIGTERM


def supervise(spec: FitSpec, log: StageLog, restarts: int = 2, patience_s: float = 900.0) -> None:
    """Run the spec to its end; returns when `spec.out` is complete.

    A process that a signal killed is started again from its last checkpoint, `restarts` times; so is one whose
    heartbeat is silent for `patience_s` seconds (it is killed first). Losses reach `log` from the first step on, also
    those of an earlier call on the same work folder.

    Raises StageError when the process failed, was stopped, ran out of memory, or died too often: the sentence says
    which, and where its output is.
    """
    spec.work.mkdir(parents=True, exist_ok=True)
    (spec.work / "spec.json").write_text(spec.model_dump_json(indent=2))
    feed = _Feed(spec, log)
    while True:
        oom_kills = _oom_kills()
        code = _run(spec, feed, patience_s)
        if code == 0:
            return
        errors = spec.work / "stderr.txt"
        if code == RESUMABLE:
            raise StageError(
                f"The training was stopped and saved at step {feed.step} of {spec.steps}; the same command goes on "
                "from there."
            )
        if code > 0:
            raise StageError(f"The training failed: {_last_line(errors)} (full output: {errors})")
        if _oom_kills() > oom_kills:
            raise StageError(
                f"The training was killed at step {feed.step} because the machine's memory ran out: lower batch "
                f"({spec.batch}) or context_length ({spec.model.context_length}); the same command goes on from the "
                "last checkpoint."
            )
        if restarts == 0:
            raise StageError(
                f"The training was killed by {_signal_name(-code)} at step {feed.step}, again: the same command goes "
                f"on from the last checkpoint (output: {errors})."
            )
        restarts -= 1
        log.info(
            f"The training was killed by {_signal_name(-code)} at step {feed.step}; starting again from its last "
            "checkpoint."
        )


class _Feed:
    """Passes each report, and each line that the training says, to the log once."""

    def __init__(self, spec: FitSpec, log: StageLog) -> None:
        self._spec, self._log = spec, log
        self._offset = 0
        self._said = 0
        self.step = 0

    def restart(self) -> None:
        """A new process writes its own lines."""
        self._said = 0

    def pump(self) -> None:
        """Pass on what is new."""
        said = self._spec.work / "stdout.txt"
        lines = said.read_text(errors="replace").split("\n")[:-1]
        for line in lines[self._said :]:
            self._log.info(line)
        self._said = len(lines)
        for report, offset in read_reports(self._spec.work / "progress.jsonl", self._offset):
            self._offset = offset
            self.step = report.step
            values = {
                "loss": report.loss,
                "learning_rate": report.learning_rate,
                "grad_norm": report.grad_norm,
                "tokens_per_second": report.tokens_per_second,
            }
            self._log.metrics(values, step=report.step, time_ms=report.time)
            self._log.progress(report.step, self._spec.steps, "steps")


def _run(spec: FitSpec, feed: _Feed, patience_s: float) -> int:
    """One process from start to end; its exit code, negative for a signal."""
    feed.restart()
    command = [sys.executable, "-m", "models.fit", str(spec.work / "spec.json"), str(os.getpid())]
    root = str(Path(__file__).resolve().parent.parent)
    environment = {
        # Threads that wait asleep: spinning ones took 3 times as long on 2 cores whenever another process (a server,
        # a browser) wanted one of them.
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
    }
    with (
        (spec.work / "stdout.txt").open("wb") as out,
        (spec.work / "stderr.txt").open("wb") as errors,
        _ended(
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, env=environment)
        ) as child,
    ):
        pulse = _Pulse(spec.work / "heartbeat")
        while True:
            with suppress(subprocess.TimeoutExpired):
                child.wait(_POLL_S)
            feed.pump()
            if child.returncode is not None:
                return child.returncode
            if pulse.silence_s() > patience_s:
                child.kill()
            if not threading.main_thread().is_alive():
                child.send_signal(signal.SIGTERM)  # the interpreter is leaving and waits only for this thread


@contextmanager
def _ended(child: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """However the block ends (Ctrl-C and Prefect's cancellation arrive as exceptions), the child saves and ends."""
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


class _Pulse:
    """Time since the file's last change, on a clock that does not run while the machine is suspended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: int | None = None
        self._since = time.monotonic()

    def silence_s(self) -> float:
        """Seconds without a heartbeat; starting up counts."""
        try:
            changed = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            changed = None
        if changed != self._seen:
            self._seen, self._since = changed, time.monotonic()
        return time.monotonic() - self._since


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "it said nothing"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _oom_kills() -> int:
    """Processes that the kernel has killed for want of memory since it booted; 0 where it does not tell."""
    try:
        counters = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    except OSError:
        return 0
    return int(counters.get("oom_kill", 0))
