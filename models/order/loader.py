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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.order.masking import hide
from models.order.mixture import Mixture
from models.order.shards import read_column
from models.order.windows import Windows
from models.spec import FitSpec, LabelledExamples, MaskedToken, TokenStream


class Batch(NamedTuple):
    """What one step, or one piece of it, learns from; all int64."""

    tokens_BT: Tensor
    """What the model sees, right-padded with zeros."""
    targets: Tensor
    """What it shall say: the next tokens, shape (B, T); the hidden tokens, (B, K); or one class a sequence, (B,)."""
    lengths_B: Tensor
    """Tokens that are no padding."""
    picked_BK: Tensor | None = None
    """Where the hidden tokens stand, ascending; only for masked tokens."""
    documents_BT: Tensor | None = None
    """Of each token, the number of its document within the window, from 0; only with a document mask."""


class Examples:
    """Labelled token sequences of mapped shards, cut to the model's context."""

    def __init__(self, path: Path, rows: Sequence[int] | None, longest: int) -> None:
        self.longest = longest
        tokens = read_column(path, "tokens")
        self._tokens = pa.chunked_array(tokens)
        self._labels = np.concatenate([part.to_numpy() for part in read_column(path, "label")])
        self.rows = np.arange(len(self._labels)) if rows is None else np.asarray(rows, dtype=np.int64)
        self.n = len(self.rows)
        if self.n == 0:
            raise ValueError(f"{path} gives no examples to learn from or to judge by.")
        if self.rows.min() < 0 or self.rows.max() >= len(self._labels):
            raise ValueError(f"A row of the label budget is outside the {len(self._labels)} rows of {path}.")

    @property
    def labels(self) -> NDArray[np.int64]:
        """The classes of the chosen rows, shape (n,)."""
        return self._labels[self.rows].astype(np.int64)

    def read(self, index: int) -> NDArray[np.int64]:
        """Tokens of the index-th chosen row; at least one."""
        tokens = self._tokens[int(self.rows[index])].values.to_numpy()[: self.longest]
        return tokens.astype(np.int64) if tokens.size else np.zeros(1, dtype=np.int64)

    def batch(self, indices: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The chosen rows, padded to the longest of them."""
        sequences = [self.read(int(index)) for index in indices]
        lengths = [sequence.size for sequence in sequences]
        tokens_BT = torch.zeros((len(sequences), max(lengths)), dtype=torch.int64)
        for row, sequence in enumerate(sequences):
            tokens_BT[row, : sequence.size] = torch.from_numpy(sequence)
        targets_B = torch.from_numpy(self.labels[np.asarray(indices)])
        return Batch(tokens_BT, targets_B, torch.tensor(lengths))


@dataclass(frozen=True)
class EndWith:
    """Ends a reading process with the training, however that ends.

    torch's own watch looks at the parent, which is the fork server, and that lives as long as a reader does: after a
    SIGKILL of the training both would stay for ever, with 0.6 GB each.
    """

    training: int
    """Process id."""

    def __call__(self, worker: int) -> None:
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
                if isinstance(objective, MaskedToken) and objective.mask_token >= spec.model.vocabulary:
                    raise ValueError(
                        f"mask_token ({objective.mask_token}) is no token of a vocabulary of {spec.model.vocabulary}."
                    )
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
        masked = isinstance(data.objective, MaskedToken)
        tokens = np.empty((count, self._spec.model.context_length + 1), dtype=np.int64)
        documents = np.empty_like(tokens) if masked or data.document_mask else None
        for number in np.flatnonzero(np.bincount(sources)).tolist():
            mine = sources == number
            windows = items[mine].astype(np.int64)
            tokens[mine] = self._parts[number].read(windows)
            if documents is not None:
                documents[mine] = self._parts[number].documents(windows)
        lengths_B = torch.full((count,), self._spec.model.context_length)
        documents_BT = torch.from_numpy(documents[:, :-1]) if documents is not None and data.document_mask else None
        if not isinstance(data.objective, MaskedToken):
            tokens_BT1 = torch.from_numpy(tokens)
            return Batch(tokens_BT1[:, :-1], tokens_BT1[:, 1:], lengths_B, None, documents_BT)
        assert documents is not None
        positions_B = np.arange(start, start + count, dtype=np.uint64)
        ends_BT = documents[:, 1:] != documents[:, :-1]
        hidden = hide(
            tokens[:, :-1], ends_BT, positions_B, data.objective, self._spec.model.vocabulary, self._spec.seed
        )
        seen_BT, picked_BK, targets_BK = map(torch.from_numpy, hidden)
        return Batch(seen_BT, targets_BK, lengths_B, picked_BK, documents_BT)

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
