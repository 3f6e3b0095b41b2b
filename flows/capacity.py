"""What this machine has for a training, asked without importing torch, and whether a model can fit.

The estimate is a lower bound: what it refuses cannot run, what it lets pass may still be too large.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

from models.named import ByName
from models.spec import ForeignConfig, ModelConfig
from models.text.scaling_rules import all_weights

BYTES_A_WEIGHT = 12
"""In float32: the weight, its gradient, and at least one number that the optimizer remembers."""
BYTES_AN_ACTIVATION = 2
"""In bf16, the smallest type that is computed with."""
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Capacity:
    """What there is to compute with."""

    processors: int
    memory: int
    """Bytes, as far as this process may use them."""
    gpus: tuple[int, ...]
    """Bytes of memory of each."""
    compiles: bool
    """Whether a model could be compiled here."""


@lru_cache(1)
def this_machine() -> Capacity:
    """What is here; 10 ms without a GPU."""
    gpus = _gpus()
    named = os.environ.get("CXX")
    compiler = any(shutil.which(name) for name in ((named,) if named else ("g++", "clang++")))
    return Capacity(os.cpu_count() or 1, min(psutil.virtual_memory().total, *_limits()), gpus, bool(gpus) or compiler)


def least_bytes(model: ModelConfig | ForeignConfig, windows: int, sharded_over: int = 1) -> tuple[int, int] | None:
    """What one process of a training needs at least: for the weights, and for the activations of so many windows at
    once; None for a family of which nobody knows it.

    Args:
        model: what is trained.
        windows: computed together.
        sharded_over: processes that divide the weights among themselves.
    """
    needs = NEEDS.get(model.family)
    return None if needs is None else needs(model, windows, sharded_over)


def _of_transformer(model: ModelConfig, windows: int, sharded_over: int) -> tuple[int, int]:
    """The input of every block is kept, and the logits."""
    tokens = windows * model.context_length
    logits = model.vocabulary if model.attention == "causal" else 0
    activations = BYTES_AN_ACTIVATION * tokens * (model.layers * model.width + logits)
    return BYTES_A_WEIGHT * all_weights(model) // sharded_over, activations


NEEDS: ByName[Callable[[Any, int, int], tuple[int, int]]] = {"transformer": _of_transformer}
"""What a training needs of memory, by family."""


def in_words(count: int) -> str:
    """Bytes as a person says them, such as 24 GB."""
    for unit in ("", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:,.0f} {unit}".strip()
        count /= 1000  # type: ignore[assignment]
    return f"{count:,.0f} PB"


def _limits() -> list[int]:
    found = []
    for file in CGROUP_LIMITS:
        try:
            found.append(int(file.read_text()))
        except (OSError, ValueError):  # not here, or "max"
            continue
    return found or [1 << 62]


def _gpus() -> tuple[int, ...]:
    """As tasks/training/torchrun.py counts them, with their memory."""
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    sizes = [int(line) << 20 for line in listed.stdout.split() if line.isdecimal()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and sizes:
        named = [name for name in visible.split(",") if name.strip() and name.strip() != "-1"]
        return (max(sizes),) * min(len(named), len(sizes))
    return tuple(sizes)
