"""Turns shards on disk into the batch of any step, without state: give it a step, get that step's tensors.

Which samples a step sees is arithmetic (models/order/mixture.py), where they lie is known from mapped shards
(models/order/windows.py), and what is hidden in them is a hash (models/order/masking.py). The number of the step is all
the state of reading, and any number of workers and ranks reads the same batches. 16 windows of 1,024 tokens cost 0.2
ms, 0.35 ms from two sources or with a document mask, 0.8 ms with hidden tokens; next to a step of 100 ms a worker is
not needed.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from models.named import ByName
from models.objectives import masked_token, next_token
from models.order.batch import Batch, Drawn
from models.order.examples import Examples
from models.order.mixture import Mixture
from models.order.windows import Windows
from models.spec import FitSpec, LabelledExamples, TokenStream

Collate = Callable[[Drawn, FitSpec], Batch]
COLLATE: ByName[Collate] = {"next_token": next_token.collate, "masked_token": masked_token.collate}
"""What makes a batch of windows, by the objective."""


@dataclass(frozen=True)
class EndWith:
    """Ends a reading process with the training, however that ends.

    torch's own watch looks at the parent, which is the fork server, and that lives as long as a reader does: after a
    SIGKILL of the training both would stay for ever, with 0.6 GB each.
    """

    training: int
    """Process id."""

    def __call__(self, worker: int) -> None:
        """Watch the training from a thread; torch calls it in each reading process, as that starts, with its number."""
        threading.Thread(target=self._wait, daemon=True).start()

    def _wait(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(self.training).wait()
        os._exit(1)


class Steps:
    """Step -> batch: steps are 0, 1, 2 ... over the whole training, epochs included."""

    def __init__(self, spec: FitSpec) -> None:
        """Open the data; a ValueError says what it lacks."""
        self._spec = spec
        self._parts: list[Windows] | Examples
        match spec.data:
            case TokenStream(sources=sources, objective=objective):
                self._collate: Collate = COLLATE[objective.kind]
                self._parts = [
                    Windows(source.shards, spec.model.context_length, source.only, spec.work / "index")
                    for source in sources
                ]
                weights = [source.weight for source in sources]
                self.order = Mixture([part.n for part in self._parts], weights, spec.seed)
            case LabelledExamples(train=train, rows=rows):
                self._parts = Examples(train, rows, spec.model.context_length)
                self.order = Mixture([self._parts.n], [1.0], spec.seed)

    def __reduce__(self) -> tuple[type[Steps], tuple[FitSpec]]:
        """A reader in a process of its own maps the shards itself."""
        return Steps, (self._spec,)

    def __getitem__(self, step: int) -> Batch:
        """The whole batch of a step."""
        return self.read(step * self._spec.batch, self._spec.batch)

    def read(self, start: int, count: int) -> Batch:
        """The samples at positions start .. start + count of the training, one a row."""
        sources, items = self.order.items(start, count)
        if isinstance(self._parts, Examples):
            return self._parts.batch(items.astype(np.int64))
        data = self._spec.data
        assert isinstance(data, TokenStream)
        parts = self._parts
        mine = {number: sources == number for number in np.flatnonzero(np.bincount(sources)).tolist()}

        def gathered(read: Callable[[Windows, NDArray[np.int64]], NDArray[np.int64]]) -> NDArray[np.int64]:
            found = np.empty((count, self._spec.model.context_length + 1), dtype=np.int64)
            for number, rows in mine.items():
                found[rows] = read(parts[number], items[rows].astype(np.int64))
            return found

        drawn = Drawn(
            gathered(Windows.read),
            np.arange(start, start + count, dtype=np.uint64),
            lambda: gathered(Windows.documents),
        )
        return self._collate(drawn, self._spec)

    def loader(self, start: int, stop: int, rank: int = 0, world: int = 1) -> DataLoader[Batch]:
        """What one of `world` processes computes in steps start .. stop: `accumulate` pieces a step, in order.

        All processes' pieces of a step are its batch, and the same for any number of workers. Raises ValueError where
        the batch cannot be cut into equal pieces.
        """
        return DataLoader(
            Pieces(self, self._spec, start, stop, rank, world),
            batch_size=None,
            num_workers=self._spec.workers,
            multiprocessing_context="forkserver" if self._spec.workers else None,  # a forked threaded process may die
            worker_init_fn=EndWith(os.getpid()) if self._spec.workers else None,
            pin_memory=torch.cuda.is_available(),
        )


class Pieces(Dataset[Batch]):
    """One process's share of steps start .. stop, as torch's loader wants it: number -> piece.

    Piece i of rank r of step s holds the batch / (accumulate x world) positions from
    s x batch + i x batch / accumulate + r x batch / (accumulate x world) on: one piece of all ranks is consecutive.
    """

    def __init__(self, steps: Steps, spec: FitSpec, start: int, stop: int, rank: int, world: int) -> None:
        assert 0 <= rank < world
        self._steps = steps
        self._size, rest = divmod(spec.batch, spec.accumulate * world)
        if rest:
            raise ValueError(
                f"batch ({spec.batch}) must be a multiple of accumulate x devices ({spec.accumulate} x {world} = "
                f"{spec.accumulate * world}): every device computes equal pieces."
            )
        self._first = start * spec.accumulate
        self._count = (stop - start) * spec.accumulate
        self._rank, self._world = rank, world

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Batch:
        return self._steps.read(((self._first + number) * self._world + self._rank) * self._size, self._size)
