"""What both sides of tests/benchmarks/quality.py share: the tokens, the plain training loop and the verdict.

Training time is of all steps, batches and clipping included; before the clock starts the loss is compiled and both
directions are run once without moving a weight. The verdict is bits per byte of the held-out books, in float32.
"""

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.machine.hardware import keep_large_blocks

THREADS = 2


class Corpus:
    """The tokens that quality.py wrote."""

    def __init__(self, folder: str) -> None:
        facts = json.loads(Path(folder, "facts.json").read_bytes())
        self.vocabulary, self.context = facts["vocabulary"], facts["context"]
        self.train = np.load(Path(folder, "train.npy"), mmap_mode="r")
        self.held_out = np.load(Path(folder, "held_out.npy"))
        self.token_bytes = np.load(Path(folder, "token_bytes.npy"))

    def windows(self, starts: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Windows of the training text at those offsets and their next tokens, each (B, T) int64."""
        return as_batch(np.stack([self.train[start : start + self.context + 1] for start in starts]))

    def bits_per_byte(self, loss: Callable[[Tensor, Tensor], Tensor]) -> float:
        """Bits a byte of the held-out windows; `loss` is the mean in nats of (tokens, targets)."""
        nats = written = 0.0
        with torch.no_grad():
            for first in range(0, len(self.held_out), 16):
                tokens_BT, targets_BT = as_batch(self.held_out[first : first + 16])
                nats += loss(tokens_BT, targets_BT).item() * targets_BT.numel()
                written += float(self.token_bytes[targets_BT.numpy()].sum())
        return nats / math.log(2) / written


def as_batch(rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """(B, T + 1) tokens -> tokens and next tokens, each (B, T) int64."""
    both_BT1 = torch.from_numpy(rows.astype(np.int64))
    return both_BT1[:, :-1], both_BT1[:, 1:]


def measure(
    loss: Callable[[Tensor, Tensor], Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rate: Callable[[int], float],
    batch: Callable[[int], tuple[Tensor, Tensor]],
    corpus: Corpus,
    settings: dict[str, Any],
) -> dict[str, float]:
    """Train for settings["steps"] and judge; progress to stderr."""
    torch.set_num_threads(THREADS)
    keep_large_blocks()
    compiled = torch.compile(loss)

    def backward(tokens: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=settings["precision"] == "bf16"):
            value = compiled(tokens, targets)
        value.backward()
        return value.detach()

    began = time.perf_counter()
    for _ in range(3):
        backward(*corpus.windows(range(settings["batch"])))
    optimizer.zero_grad()
    began, compiling = time.perf_counter(), time.perf_counter() - began
    for step in range(settings["steps"]):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        value = backward(*batch(step))
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 200 == 199:
            print(f"step {step + 1} loss {value:.3f} {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    trained = time.perf_counter() - began
    return {"bits": corpus.bits_per_byte(loss), "train_s": trained, "compile_s": compiling}
