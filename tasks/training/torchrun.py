"""How a training is started: alone, or by torchrun as a group of processes on this machine, each with its device."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from models.spec import FitSpec

GRACE_S = 120
"""Seconds in which a process that was asked to stop finishes its step and saves, before it is killed."""


def processes_for(spec: FitSpec) -> int:
    """As many as the spec names; else one a GPU, as far as they can share the batch equally, or one."""
    if spec.machine.devices:
        return spec.machine.devices
    count = max(1, _gpus())
    while (spec.batch // spec.accumulate) % count:
        count -= 1
    return count


def command(spec: FitSpec, processes: int) -> list[str]:
    """What to execute; the training ends when this process, which is named in it, does."""
    training = ["models.fit", str(spec.work / "spec.json"), str(os.getpid())]
    if processes == 1:
        return [sys.executable, "-m", *training]
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"),
        *("--nproc-per-node", str(processes), "--max-restarts", "0", "--shutdown-timeout", str(GRACE_S)),
        *("--module", *training),
    ]


def environment(processes: int, given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What the training sees: this package first, threads that suit several processes, no door to the network."""
    root = str(Path(__file__).resolve().parent.parent.parent)
    several = {
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // processes)),  # torchrun would say 1
        "GLOO_SOCKET_IFNAME": "lo",
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # DDP's advice against what models/learn/trainer.py does on purpose
    }
    return {
        **(several if processes > 1 else {}),
        **given,
        "PYTHONPATH": os.pathsep.join(filter(None, (root, given.get("PYTHONPATH")))),
    }


def _gpus() -> int:
    """Counted by the driver's own tool: importing torch for it would cost this process 2 s."""
    if shutil.which("nvidia-smi") is None:
        return 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() and name.strip() != "-1"])
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
