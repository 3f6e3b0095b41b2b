"""How long the quickstart takes from an empty home, how much memory, and how much of it is not work.

    uv run python -m tests.benchmarks.quickstart
    uv run python -m tests.benchmarks.quickstart --without-bf16      # this processor plays one that has AVX2 only

As root it empties the page cache before it begins, as on a newcomer's machine. Overhead is all that is neither a
stage's work nor training: Prefect's server and tasks, MLflow, imports, and, inside the three training stages, the time
until the first step's figures arrive. Exits with 1 where a goal is missed.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from models.machine.hardware import machine_name
from tasks.core.journal import read_journal

OLDER = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
"""What makes torch and oneDNN treat a newer processor as one without AVX-512 and bf16 units."""
CACHES = Path("/proc/sys/vm/drop_caches")
COMMAND = [sys.executable, "-m", "flows.cli"]
TRAININGS = ("pretrain", "finetune", "finetune-scratch")


def run_quickstart(home: Path, processor: dict[str, str]) -> tuple[dict[str, Any], float, int, float]:
    """The night's entry, wall seconds, the most memory (bytes) that the process tree held at one time, and the seconds
    that its trainings spent on choosing their arithmetic.

    Memory is the proportional set size, so that pages shared between processes count once.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as said:
        variables = {**os.environ, **processor, "NIGHTSCHOOL_HOME": str(home)}
        process = subprocess.Popen([*COMMAND, "quickstart", "--json"], env=variables, stdout=output, stderr=said)
        tree, most = psutil.Process(process.pid), 0
        while process.poll() is None:
            most = max(most, memory(tree))
            time.sleep(0.5)
        wall = time.monotonic() - started
        said.seek(0)
        lines = said.read()
        if process.returncode:
            sys.exit(lines)
        output.seek(0)
        return json.load(output), wall, most, sum(map(float, re.findall(r"Timing took ([\d.]+) s", lines)))


def memory(tree: psutil.Process) -> int:
    """Proportional set size of a process and all its descendants, in bytes."""
    total = 0
    try:
        for process in [tree, *tree.children(recursive=True)]:
            total += process.memory_full_info().pss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0  # one of them ended while we looked: the next look counts
    return total


def start_times(journal: Path) -> dict[str, float]:
    """Seconds from the start of each training stage to its first step."""
    began: dict[str, int] = {}
    first: dict[str, int] = {}
    for record in read_journal(journal):
        if record.kind == "start":
            began[record.node] = record.time
        elif record.kind == "metrics" and record.payload["step"] == 1:
            first[record.node] = record.payload["at"]
    return {node: (first[node] - began[node]) / 1000 for node in TRAININGS}


def help_seconds() -> float:
    """Median of seven `--help`s."""
    times = []
    for _ in range(7):
        started = time.perf_counter()
        subprocess.run([*COMMAND, "--help"], stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def empty_page_cache() -> str:
    """Let the system forget the files that it holds in memory, where it lets us; says whether it did."""
    try:
        os.sync()
        CACHES.write_text("3")
    except OSError:
        return "page cache as it was"
    return "cold page cache"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without-bf16", action="store_true", help="play a processor that has AVX2 only")
    processor = OLDER if parser.parse_args().without_bf16 else {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "home")
        cache = empty_page_cache()
        night, wall, most, timing = run_quickstart(home, processor)
        again, wall_again, _, _ = run_quickstart(home, processor)
        starts = start_times(home / "journals" / f"{night['id']}.jsonl")
    overhead = wall - sum(stage["seconds"] for stage in night["stages"]) + sum(starts.values())
    reused = all(stage["action"] == "reused" for stage in again["stages"])
    same = [stage["digest"] for stage in night["stages"]] == [stage["digest"] for stage in again["stages"]]
    rows = [
        (f"quickstart from an empty home, {cache}", f"{wall / 60:.1f} min", "8 min", wall <= 480),
        ("most memory of all processes", f"{most / 2**30:.2f} GiB", "6 GB", most <= 6e9),
        ("of that time, choosing the arithmetic", f"{timing:.1f} s", "5 s", timing <= 5),
        ("of that time, Prefect, MLflow and process starts", f"{overhead:.0f} s", "60 s", overhead <= 60),
        (
            "run again, all reused with equal digests",
            f"{wall_again:.1f} s",
            "15 s",
            wall_again < 15 and reused and same,
        ),
        ("nightschool --help", f"{(seconds := help_seconds()):.2f} s", "0.4 s", seconds < 0.4),
    ]
    table = Table("what", "measured", "goal", "met", box=None)
    for what, measured, goal, met in rows:
        table.add_row(what, measured, goal, "yes" if met else "NO")
    Console().print(f"{machine_name()}{', as one with AVX2 only' if processor else ''}")
    Console().print(table)
    times = ", ".join(f"{stage['node']} {stage['seconds']:.0f}" for stage in night["stages"])
    Console().print(f"seconds by stage: {times}; of which start of training: {sum(starts.values()):.0f}", style="dim")
    sys.exit(0 if all(met for *_, met in rows) else 1)


if __name__ == "__main__":
    main()
