"""Decides whether this process may train in a work folder, and with which of the machine's choices.

One process at a time, one training for ever: a resume under other settings, on other data, or with another number of
threads (sums of floats depend on how they are divided) would end in other bits without saying so.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from models.hardware import Arithmetic, choose_precision
from models.spec import FitSpec

_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Bits:
    """What the machine decides and the bits depend on: chosen at the first start, kept by every resume."""

    precision: Arithmetic
    threads: int


@contextmanager
def claim(spec: FitSpec, say: Callable[[str], None]) -> Iterator[Bits]:
    """Hold `spec.work` for the block; the kernel gives a dead holder's lock back.

    An orphan of a killed run may need a moment to save and leave: it is waited for, up to two minutes.

    Raises ValueError when another process holds the folder, or another training was begun there.
    """
    with (spec.work / "lock").open("w") as file:
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ValueError(f"Another process is training in {spec.work}: end it first.") from None
                time.sleep(0.1)
        yield _settle(spec, say)


def _settle(spec: FitSpec, say: Callable[[str], None]) -> Bits:
    """Choose arithmetic and threads, or take those with which this training was begun; refuse another's folder."""
    record: Path = spec.work / "training.json"
    identity = spec.identity()
    if not record.exists():
        precision, reason = choose_precision(spec.machine.precision)
        say(f"Computes in {precision}: {reason}.")
        bits = Bits(precision, torch.get_num_threads())
        aside = record.with_suffix(".writing")
        with aside.open("w") as file:
            json.dump({"identity": identity, "bits": asdict(bits)}, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(record)
        return bits
    begun = json.loads(record.read_text())
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
