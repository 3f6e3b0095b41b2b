"""Windows of a stream of tokens that lies in mapped shards: which tokens, and where documents meet in them.

Windows are cut from one stream over all documents of a source: no token is dropped at a document's end and none is
padding; the price is that a window may begin inside a document (Brown et al. 2020 pack alike).

Where the tokens of a window lie is known from the *runs* (models/order/stretches.py). 16 windows of 1,024 tokens cost
0.1 ms to read, and 0.2 ms more where their documents are asked for; a shard is mapped when it is first read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.order.shards import map_file
from models.order.stretches import runs_of


class Windows:
    """Consecutive windows of the documents of one source, or of all."""

    def __init__(self, shards: Sequence[Path], length: int, only: str | None = None, index: Path | None = None) -> None:
        """Map the shards.

        Args:
            shards: Arrow IPC files with a column `tokens` (lists of integers) and, where `only` is given, `source`.
            length: tokens of a window.
            only: take only documents of this source.
            index: a folder in which what was found in many shards is kept for the next opening; need not exist.

        Raises ValueError where a shard cannot be read, no document is of the source, or the tokens make no window.
        """
        self.length = length
        self._shards = tuple(shards)
        self._mapped: dict[int, pa.Buffer] = {}
        found = runs_of(self._shards, only, index)
        self._dtype = found.dtype
        self._shard, self._documents, self._offset_bytes, self._token_bytes, self._ends = found.table
        self.tokens = int(self._ends[-1]) if self._ends.size else 0
        self.n = max(0, (self.tokens - 1) // length)
        """Windows in the stream; the last token of a window is only a target."""
        if self.n == 0:
            of = f" of source {only!r}" if only is not None else ""
            raise ValueError(
                f"The corpus has {self.tokens} tokens{of} and one window needs {length + 1}: add documents or shorten "
                "context_length."
            )

    @property
    def runs(self) -> int:
        """Stretches of neighbouring tokens: what the memory grows with."""
        return len(self._ends)

    def read(self, windows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens w * length .. (w + 1) * length + 1 of the stream for every window w; shape (windows, length + 1)."""
        out = np.empty((len(windows), self.length + 1), dtype=np.int64)
        for row, column, run, offset, count in self._pieces(windows):
            out[row, column : column + count] = self._tokens(run, offset, count)
        return out

    def documents(self, windows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """The number, from 0 in each window, of the document of every token that `read` gives; the same shape."""
        wide = self.length + 1
        begins = np.zeros(len(windows) * wide, dtype=np.int64)
        for row, column, run, offset, count in self._pieces(windows):
            offsets = self._list_offsets(run)
            first = int(offsets[0]) + offset
            low, high = offsets.searchsorted(np.array((first, first + count), dtype=np.int32))
            begins[offsets[low:high].astype(np.int64) + (row * wide + column - first)] = 1
        begins[::wide] = 0
        return begins.reshape(-1, wide).cumsum(axis=1)

    def _pieces(self, windows: Sequence[int] | NDArray[np.int64]) -> Iterator[tuple[int, int, int, int, int]]:
        """What windows are put together from: row, column, run, first token of the run, tokens."""
        starts = np.asarray(windows, dtype=np.int64) * self.length
        runs = np.searchsorted(self._ends, starts, side="right")
        for row, (start, run) in enumerate(zip(starts.tolist(), runs.tolist(), strict=True)):
            column = 0
            while column <= self.length:
                begin = int(self._ends[run - 1]) if run else 0
                offset = start + column - begin
                count = min(self.length + 1 - column, int(self._ends[run]) - begin - offset)
                yield row, column, run, offset, count
                column += count
                run += 1

    def _tokens(self, run: int, offset: int, count: int) -> NDArray[np.integer]:
        place = int(self._token_bytes[run]) + offset * self._dtype.itemsize
        return np.frombuffer(self._bytes(int(self._shard[run])), self._dtype, count, place)

    def _list_offsets(self, run: int) -> NDArray[np.int32]:
        """Where the run's documents begin among the record batch's tokens, and where the last ends."""
        count = int(self._documents[run]) + 1
        return np.frombuffer(self._bytes(int(self._shard[run])), np.int32, count, int(self._offset_bytes[run]))

    def _bytes(self, shard: int) -> pa.Buffer:
        if shard not in self._mapped:
            self._mapped[shard] = map_file(self._shards[shard])
        return self._mapped[shard]
