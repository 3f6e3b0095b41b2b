"""Turns shards on disk into the batch of any step, without state: give it a step, get that step's tensors.

Shards are memory-mapped Arrow IPC files, so a corpus of any size costs address space, not memory, and the tokens are
copied once, into the batch. Windows are cut from one stream over all shards: no token is dropped at a document's end
and none is padding; the price is that a window may begin inside a document (Brown et al. 2020 pack alike).
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
import pyarrow.ipc
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from models.order import Order
from models.spec import FitSpec, LabelledExamples, TokenStream


class Batch(NamedTuple):
    """What one step learns from; `targets` are the next tokens, the tokens that are hidden, or one class a sequence."""

    tokens_BT: Tensor
    """int64, right-padded with zeros."""
    targets: Tensor
    """int64, shape (B, T), (B, K) or (B,)."""
    lengths_B: Tensor
    """int64, tokens that are no padding."""
    picked_BK: Tensor | None = None
    """int64, ascending: the positions that a masked model predicts."""
    documents_BT: Tensor | None = None
    """int64, the number of each token's document within the window; None = all of the window is seen."""


def read_column(shard: Path, column: str) -> list[pa.Array]:
    """The column's record batches, mapped, not read; a ValueError names a shard that is no Arrow file or lacks it."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(shard)))
        place = reader.schema.get_field_index(column)
        if place < 0:
            raise ValueError(f"{shard} has no column {column!r}: it was not written by this version's tokenize stage.")
        return [reader.get_batch(i).column(place) for i in range(reader.num_record_batches)]
    except pa.ArrowInvalid as error:
        raise ValueError(f"{shard} is not a readable Arrow file ({error}): derive it again.") from error


class Windows:
    """Consecutive windows of a token stream that lies in several mapped shards."""

    def __init__(self, shards: Sequence[Path], length: int) -> None:
        self.length = length
        parts = [part.flatten() for shard in shards for part in read_column(shard, "tokens")]
        self._parts: list[NDArray[np.integer]] = [part.to_numpy(zero_copy_only=True) for part in parts if len(part)]
        self._ends = np.cumsum([part.size for part in self._parts], dtype=np.int64)
        tokens = int(self._ends[-1]) if self._parts else 0
        self.tokens = tokens
        self.n = max(0, (tokens - 1) // length)
        """Windows in the stream; the last token of a window is only a target."""
        if self.n == 0:
            raise ValueError(
                f"The corpus has {tokens} tokens and one window needs {length + 1}: add documents or shorten "
                "context_length."
            )

    def read(self, window: int) -> NDArray[np.int64]:
        """Tokens window * length .. (window + 1) * length + 1 of the stream; shape (length + 1,)."""
        start = window * self.length
        out = np.empty(self.length + 1, dtype=np.int64)
        filled = 0
        part = int(np.searchsorted(self._ends, start, side="right"))
        while filled < out.size:
            tokens = self._parts[part]
            offset = start + filled - (int(self._ends[part]) - tokens.size)
            piece = tokens[offset : offset + out.size - filled]
            out[filled : filled + piece.size] = piece
            filled += piece.size
            part += 1
        return out

    def batch(self, windows: Sequence[int] | NDArray[np.int64]) -> Batch:
        """The chosen windows and, as targets, the same shifted by one."""
        tokens_BT1 = torch.from_numpy(np.stack([self.read(int(window)) for window in windows]))
        return Batch(tokens_BT1[:, :-1], tokens_BT1[:, 1:], torch.full((len(windows),), self.length))


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


class Steps(Dataset[Batch]):
    """Step -> batch, as torch's loader wants it: steps are 0, 1, 2 ... over the whole training, epochs included."""

    def __init__(self, spec: FitSpec) -> None:
        self._spec = spec
        self._source: Windows | Examples
        match spec.data:
            case TokenStream(sources=sources):
                self._source = Windows(sources[0].shards, spec.model.context_length)
            case LabelledExamples(train=train, rows=rows):
                self._source = Examples(train, rows, spec.model.context_length)
        self.order = Order(self._source.n, spec.seed)

    def __reduce__(self) -> tuple[type[Steps], tuple[FitSpec]]:
        """A reader in a process of its own maps the shards itself."""
        return Steps, (self._spec,)

    def __getitem__(self, step: int) -> Batch:
        items = self.order.items(step * self._spec.batch, self._spec.batch)
        return self._source.batch(items.astype(np.int64))

    def loader(self, start: int, stop: int) -> DataLoader[Batch]:
        """Batches of steps start .. stop, in order, the same for any number of workers."""
        return DataLoader(
            self,
            batch_size=None,
            sampler=range(start, stop),
            num_workers=self._spec.workers,
            multiprocessing_context="forkserver" if self._spec.workers else None,  # a forked threaded process may die
            worker_init_fn=EndWith(os.getpid()) if self._spec.workers else None,
            pin_memory=torch.cuda.is_available(),
        )
