"""How a training process ended, told to its parent by a small file: `outcome.json` in the work folder.

The exit code cannot tell it where there are several processes: torchrun's own is 1 whatever theirs were. Light: the
parent reads it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from models.files import create_file

_FILE = "outcome.json"


@dataclass(frozen=True)
class Outcome:
    """The end of a training process."""

    kind: Literal["finished", "stopped", "failed"]
    """stopped: on request, and saved."""
    rank: int
    """The rank of the process that tells it."""
    sentence: str = ""
    """Why it failed."""


def tell(work: Path, outcome: Outcome) -> None:
    """Leave the outcome unless another process of the group did: the first to fail pulls the others down."""
    create_file(work / _FILE, json.dumps(asdict(outcome)).encode())


def told(work: Path) -> Outcome | None:
    """The outcome, or None: the process is at work, or it died without a word."""
    try:
        return Outcome(**json.loads((work / _FILE).read_bytes()))
    except FileNotFoundError:
        return None


def forget(work: Path) -> None:
    """Before a start: an earlier process's outcome says nothing about this one's."""
    (work / _FILE).unlink(missing_ok=True)
