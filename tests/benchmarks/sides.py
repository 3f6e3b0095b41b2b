"""Compares whole processes: each side in an environment of its own, all in turn, medians of several rounds.

The sides of one round run one after the other (A B C, A B C, ...), so that a machine that slows down slows all of them.
Wall time and CPU time are of the process and its descendants; memory is the largest sum of their proportional set
sizes, so that pages shared between processes count once.
"""

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.benchmarks.quickstart import memory

ENVIRONMENTS = Path(os.environ.get("NIGHTSCHOOL_BENCHMARKS", Path.home() / ".cache" / "nightschool-benchmarks"))
LOOK_S = 0.2
"""Between two looks at a side's memory."""
SELDOM_S = 2.0
"""The same for trainings: a look takes some 20 ms of a core, which a training on all cores waits for."""


@dataclass(frozen=True)
class Measured:
    """One run of one side."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    facts: dict[str, Any]
    """The JSON object on the last line that the side printed."""


@dataclass
class Side:
    """One competitor: a command whose last line of output is a JSON object of facts."""

    name: str
    command: Sequence[str]
    variables: Mapping[str, str] = field(default_factory=dict)
    runs: list[Measured] = field(default_factory=list)

    def median(self, figure: str) -> float:
        """Median of `wall_s`, `cpu_s` or `peak_bytes` over the runs."""
        return statistics.median(getattr(run, figure) for run in self.runs)

    @property
    def facts(self) -> dict[str, Any]:
        """What the last run printed."""
        return self.runs[-1].facts


def environment(name: str, requirements: Sequence[str]) -> str:
    """The Python of a virtual environment with these pinned requirements, made with uv at first use."""
    folder = ENVIRONMENTS / name
    record = folder / "requirements.json"
    python = folder / "bin" / "python"
    if not record.exists() or json.loads(record.read_text()) != list(requirements):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        subprocess.run(["uv", "venv", "--quiet", "--clear", "--python", version, str(folder)], check=True)
        subprocess.run(["uv", "pip", "install", "--quiet", "--python", str(python), *requirements], check=True)
        record.write_text(json.dumps(list(requirements)))
    return str(python)


def run_side(side: Side, look_s: float = LOOK_S) -> Measured:
    """Run a side once; what it prints goes nowhere but for the last line, and all of it to stderr if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            list(side.command), env={**os.environ, **side.variables}, stdout=output, stderr=subprocess.STDOUT
        )
        tree, peak = psutil.Process(process.pid), 0
        seen: dict[tuple[int, float], float] = {}
        while process.poll() is None:
            peak = max(peak, memory(tree))
            seen |= processor_times(tree)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(look_s)
        wall = time.perf_counter() - started
        output.seek(0)
        said = output.read()
    if process.returncode:
        sys.exit(f"{said}\n{side.name} failed with exit code {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    reaped = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Measured(wall, max(reaped, sum(seen.values())), peak, json.loads(said.strip().splitlines()[-1]))


def processor_times(tree: psutil.Process) -> dict[tuple[int, float], float]:
    """CPU seconds of each process of the tree so far: some peers start processes that nobody waits for, and the kernel
    then counts them for nobody."""
    times = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in [tree, *tree.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                used = process.cpu_times()
                times[process.pid, process.create_time()] = used.user + used.system
    return times


def compare(sides: Sequence[Side], rounds: int, look_s: float = LOOK_S) -> None:
    """Run all sides in turn, `rounds` times, and keep what was measured with each; a line a run on stderr."""
    for number in range(rounds):
        for side in sides:
            measured = run_side(side, look_s)
            side.runs.append(measured)
            figures = f"{measured.wall_s:8.1f} s wall {measured.cpu_s:8.1f} s CPU {measured.peak_bytes / 1e6:8.0f} MB"
            print(f"round {number + 1}  {side.name:<28} {figures}  {measured.facts}", file=sys.stderr)
