"""The sign of life of a training process: a small file, touched by the work itself, that says what is being done.

No thread beats here: it would beat through a hang. So a phase that is long by nature (compiling, saving) cannot beat
every second; it announces itself instead, and who watches is patient. 0.1 ms a beat.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

Phase = Literal["starting", "compiling", "training", "saving", "evaluating"]
_FILE = "heartbeat"


def beat(work: Path, doing: Phase = "training") -> None:
    """Tell whoever watches that work was just finished, and what comes next."""
    with suppress(OSError):  # a disk that is full is told by who needs it; the file's time may still move
        (work / _FILE).write_text(doing)


def last_beat(work: Path) -> tuple[int | None, Phase]:
    """Time of the last beat, in nanoseconds as the file system tells it (None = never), and what was announced."""
    try:
        said, at = (work / _FILE).read_text(), (work / _FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return None, "starting"
    phase: Phase = next((phase for phase in get_args(Phase) if phase == said), "training")  # caught while written
    return at, phase
