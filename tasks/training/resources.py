"""What a training takes of the machine, sampled from outside: processors, memory, GPUs.

Under the names of MLflow's own sampler, so that the figures stand in its "System metrics" tab; that one would count
the whole machine, from inside the process whose work it would slow.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import psutil

_MEGA = 1e6


class Resources:
    """Samples one process and all below it."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._used: dict[int, float] = {}
        self._at = time.monotonic()
        self._gpus = shutil.which("nvidia-smi") is not None

    def sample(self) -> dict[str, float]:
        """Since the last sample: the share of this machine's processors; now: memory. Empty when the process is gone.

        Memory is resident memory summed over the processes; what they share counts in each.
        """
        used: dict[int, float] = {}
        resident = 0
        for process in family(self._pid):
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    resident += process.memory_info().rss
                used[process.pid] = times.user + times.system
            except psutil.NoSuchProcess:
                continue
        now = time.monotonic()
        seconds = sum(max(0.0, total - self._used.get(pid, 0.0)) for pid, total in used.items())
        share = seconds / max(now - self._at, 1e-9) / (os.cpu_count() or 1)
        self._used, self._at = used, now
        if not used:
            return {}
        return {
            "system/cpu_utilization_percentage": round(min(100.0, 100 * share), 1),
            "system/system_memory_usage_megabytes": round(resident / _MEGA, 1),
            "system/system_memory_usage_percentage": round(100 * resident / psutil.virtual_memory().total, 2),
            **(_of_gpus() if self._gpus else {}),
        }


def family(pid: int) -> list[psutil.Process]:
    """The process and all below it, as far as they still live."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _of_gpus() -> dict[str, float]:
    fields = "index,utilization.gpu,memory.used,power.draw"
    try:
        asked = subprocess.run(
            ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (subprocess.SubprocessError, OSError):
        return {}
    return parse_gpus(asked.stdout)


def parse_gpus(lines: str) -> dict[str, float]:
    """Rows of `nvidia-smi` (index, percent busy, MiB used, watts) under MLflow's names; what it does not know is left
    out."""
    found: dict[str, float] = {}
    for line in lines.splitlines():
        index, *values = (field.strip() for field in line.split(","))
        names = ("utilization_percentage", "memory_usage_megabytes", "power_usage_watts")
        for name, value, factor in zip(names, values, (1.0, (1 << 20) / _MEGA, 1.0), strict=False):
            try:
                found[f"system/gpu_{index}_{name}"] = round(float(value) * factor, 1)
            except ValueError:
                continue  # [N/A]
    return found
