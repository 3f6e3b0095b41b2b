"""Who a process is: the boot of its machine and the tick at which it started, which no step of a clock changes."""

from functools import cache
from pathlib import Path

import psutil

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
STATE, STARTED = 0, 19
"""Fields of /proc/PID/stat, counted from the one after the name (proc(5): fields 3 and 22)."""


@cache
def boot() -> str:
    """The boot of this machine; where the kernel gives it no name, the minute at which it happened."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return f"{psutil.boot_time() // 60:.0f}"


def identity(pid: int) -> str | None:
    """What tells a living process from any other one that has had, or will have, its pid; None: it is dead."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return _without_proc(pid) if not Path("/proc/self").exists() else None
    except ProcessLookupError:  # it died while it was looked at
        return None
    return None if fields[STATE] in ("Z", "X") else f"{boot()} {fields[STARTED]}"


def _without_proc(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{boot()} {process.create_time():.0f}"
    except psutil.NoSuchProcess:
        return None
