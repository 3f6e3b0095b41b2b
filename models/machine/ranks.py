"""The processes that train together: which of them this is, and how they come to agree.

Everything but the arithmetic is done by the first of them alone (rank 0): claiming the folder, choosing, reporting,
writing results. The others are told, so that no two can decide differently.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1
    """How many there are."""

    @property
    def first(self) -> bool:
        """Whether this process is the one that decides and writes for all of them."""
        return self.rank == 0

    def agree(self, value: T) -> T:
        """The first process's value on all of them; plain JSON values only. All must call it."""
        if self.world == 1:
            return value
        content = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)
        length = torch.tensor(content.numel())
        dist.broadcast(length, 0)
        buffer = content if self.first else torch.empty(int(length), dtype=torch.uint8)
        dist.broadcast(buffer, 0)
        return json.loads(bytes(buffer.tolist()))

    def add(self, numbers: Sequence[float]) -> list[float]:
        """Each number's sum over all processes, the same on all of them; also a meeting point. All must call it."""
        if self.world == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(sums)
        return sums.tolist()


def rank_here() -> Ranks:
    """From the environment that torchrun sets; alone where it does not."""
    return Ranks(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


@contextmanager
def joined() -> Iterator[Ranks]:
    """Be one of the group for the block; alone, it is nothing.

    Tensors of the CPU travel by gloo, those of GPUs by nccl. After an error nobody is waited for: the others may be
    gone, and the process is about to end.
    """
    ranks = rank_here()
    if ranks.world == 1:
        yield ranks
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    yield ranks
    dist.destroy_process_group()


def is_severed(error: Exception) -> bool:
    """Whether the error only says that another process of the group is gone: that one knows the reason."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())
