"""Windows of a stream of tokens that lies in mapped shards: which tokens, and where documents meet in them.

Windows are cut from one stream over all documents of a source: no token is dropped at a document's end and none is
padding; the price is that a window may begin inside a document (Brown et al. 2020 pack alike).

The stream is a list of *runs*, each a stretch of neighbouring tokens in one record batch: one run a record batch where
all documents are taken, else one for each group of neighbouring documents of the source. A run costs 28 bytes and a
shard that was read a mapping; nothing grows with tokens. Opening looks at each record batch's description
(0.19 ms a shard of eight), and at every document's source only where one source is asked for. Keeping a range for every
document instead would cost 12 bytes for some 2,000 of text, 1 GB on disk for 160.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.shards import map_file, read_columns

_LISTED = 20  # names in an error


class Windows:
    """Consecutive windows of the documents of one source, or of all."""

    def __init__(self, shards: Sequence[Path], length: int, only: str | None = None) -> None:
        """Map the shards.

        Args:
            shards: Arrow IPC files with a column `tokens` (lists of integers) and, where `only` is given, `source`.
            length: tokens of a window.
            only: take only documents of this source.

        Raises ValueError where a shard cannot be read, no document is of the source, or the tokens make no window.
        """
        self.length = length
        self._shards = tuple(shards)
        self._mapped: dict[int, pa.Buffer] = {}
        self._dtype: np.dtype[np.integer] | None = None
        self._find_runs(only)
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
        begins = np.zeros((len(windows), self.length + 1), dtype=np.int64)
        for row, column, run, offset, count in self._pieces(windows):
            ends = self._list_offsets(run)
            first = offset + int(ends[0])
            low, high = np.searchsorted(ends, np.array([first, first + count], dtype=ends.dtype))
            begins[row, column + ends[low:high] - first] = 1
        begins[:, 0] = 0
        return np.cumsum(begins, axis=1)

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
        assert self._dtype is not None
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

    def _find_runs(self, only: str | None) -> None:
        """Arrays over the runs: shard, documents, bytes of the file at which list offsets and tokens begin, ends."""
        runs: list[NDArray[np.int64]] = []
        names: set[str] = set()
        for number, shard in enumerate(self._shards):
            mapped = map_file(shard)
            columns = read_columns(shard, ("tokens",) if only is None else ("tokens", "source"), mapped)
            parts = [part for part in columns if self._holds_tokens(shard, part[0])]
            whole = np.array([self._whole(number, mapped, part[0]) for part in parts], dtype=np.int64).reshape(-1, 5)
            if only is None:
                runs.append(whole)
                continue
            for run, (_, sources) in zip(whole, parts, strict=True):
                names.update(map(str, sources.unique().to_pylist()))
                runs.append(self._stretches(run, mapped, *_neighbours(sources, only)))
        if only is not None and only not in names:
            listed = ", ".join(sorted(names)[:_LISTED]) or "none"
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            raise ValueError(f"No document is of the source {only!r}; the sources are {listed}{more}.")
        together = np.concatenate(runs) if runs else np.empty((0, 5), dtype=np.int64)
        self._shard, self._documents = together[:, 0].astype(np.int32), together[:, 1].astype(np.int32)
        self._offset_bytes, self._token_bytes = together[:, 2].copy(), together[:, 3].copy()
        self._ends = np.cumsum(together[:, 4])

    def _stretches(
        self, run: NDArray[np.int64], mapped: pa.Buffer, low: NDArray[np.int64], high: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The runs that hold a record batch's rows low .. high, of those that hold a token."""
        assert self._dtype is not None
        number, documents, offset_bytes, token_bytes, _ = run.tolist()
        offsets = np.frombuffer(mapped, np.int32, documents + 1, offset_bytes)
        first, last = offsets[low].astype(np.int64), offsets[high].astype(np.int64)
        shard = np.full(low.size, number)
        places = (offset_bytes + offsets.itemsize * low, token_bytes + self._dtype.itemsize * first)
        return np.stack((shard, high - low, *places, last - first), axis=1)[last > first]

    @staticmethod
    def _holds_tokens(shard: Path, lists: pa.Array) -> bool:
        if not (pa.types.is_list(lists.type) and pa.types.is_integer(lists.type.value_type)):
            raise ValueError(f"{shard} holds no lists of token ids but {lists.type}: tokenize it again.")
        return len(lists.values) > 0

    def _whole(self, number: int, mapped: pa.Buffer, lists: pa.Array) -> tuple[int, int, int, int, int]:
        """The run that is a whole record batch. Its list offsets begin with 0, as Arrow writes every IPC file, and are
        not looked at: that would read one page of disk more for each."""
        shard = self._shards[number]
        dtype = np.dtype(lists.type.value_type.to_pandas_dtype())
        if self._dtype is not None and dtype != self._dtype:
            raise ValueError(f"{shard} holds ids of {dtype}, the shards before it {self._dtype}: tokenize them alike.")
        self._dtype = dtype
        _, offsets, _, tokens = lists.buffers()
        places = [buffer.address - mapped.address for buffer in (offsets, tokens)]
        if not all(0 <= place < mapped.size for place in places):
            raise ValueError(f"{shard} is compressed and cannot be mapped: write it without compression.")
        return number, len(lists), places[0], places[1], len(lists.values)


def _neighbours(sources: pa.Array, only: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First rows of the groups of neighbours that are of the source, and the rows after their last."""
    chosen = pc.equal(sources, only).fill_null(False).to_numpy(zero_copy_only=False)
    edges = np.diff(chosen.astype(np.int8), prepend=0, append=0)
    return np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
