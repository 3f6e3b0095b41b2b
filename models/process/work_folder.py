"""Decides whether this process may train in a work folder, and keeps with which of the machine's choices.

One process (or group of them) at a time, one training for ever: a resume under other settings, on other data, or with
another number of threads (sums of floats depend on how they are divided) would end in other bits without saying so.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models.files import write_file
from models.machine.hardware import Arithmetic
from models.machine.ranks import Ranks
from models.spec import FitSpec

_PATIENCE_S = 120.0
_FILE = "training.json"


@dataclass(frozen=True)
class Bits:
    """What the machine decides and the bits depend on: chosen at the first start, kept by every resume."""

    precision: Arithmetic
    compiled: bool
    threads: int
    """Threads of each process."""
    world: int
    """Processes that add up their gradients. Not kept: a resume with another number is the same training but for
    rounding."""


@dataclass(frozen=True)
class Claim:
    """A work folder that is this process's own for the moment."""

    spec: FitSpec
    ranks: Ranks
    begun: Bits | None
    """With which choices the training was begun; None = it begins now."""

    def keep(self, bits: Bits, machine: dict[str, Any]) -> Bits:
        """Record the choices of the first process, with facts about the machine for who reads; returns them."""
        bits = Bits(**self.ranks.agree(asdict(bits)))
        if self.ranks.first:
            record = {"identity": self.spec.identity(), "bits": asdict(bits), "machine": machine}
            write_file(self.spec.work / _FILE, json.dumps(record).encode())
        return bits


@contextmanager
def claim(spec: FitSpec, ranks: Ranks) -> Iterator[Claim]:
    """Hold `spec.work` for the block, by the first process for all; the kernel gives a dead holder's lock back.

    An orphan of a killed run may need a moment to save and leave: it is waited for, up to two minutes.

    Raises ValueError when another process holds the folder, or another training was begun there.
    """
    with _held(spec.work) if ranks.first else nullcontext():
        begun = _begun(spec) if ranks.first else None
        told = ranks.agree(asdict(begun) if begun else None)
        yield Claim(spec, ranks, Bits(**told) if told else None)


@contextmanager
def _held(work: Path) -> Iterator[None]:
    with (work / "lock").open("w") as file:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ValueError(f"Another process is training in {work}: end it first.") from None
                time.sleep(0.1)
        yield


def _begun(spec: FitSpec) -> Bits | None:
    """The choices with which this training was begun, if it was; another's folder is refused."""
    record = spec.work / _FILE
    if not record.exists():
        return None
    begun = json.loads(record.read_text())
    identity = spec.identity()
    changed = sorted(name for name in identity | begun["identity"] if identity.get(name) != begun["identity"].get(name))
    if "data.digest" in changed:
        raise ValueError(
            f"The training in {spec.work} was begun on other data (digest {begun['identity'].get('data.digest')}, now "
            f"{spec.data.digest}) and cannot go on with these: remove that folder to begin anew."
        )
    if changed:
        raise ValueError(
            f"The training in {spec.work} was begun with other settings ({', '.join(changed)}) and cannot go on with "
            "these: remove that folder to begin anew."
        )
    return Bits(**begun["bits"])
