"""Finds where the tokens of a corpus lie, as runs: stretches of neighbouring tokens in one record batch of a shard.

There is one run a record batch where all documents are taken, else one for each group of neighbouring documents of the
source. A run costs 40 bytes, nothing grows with tokens. Opening looks at each record batch's description (0.19 ms a
shard of eight), and at every document's source only where one source is asked for (0.3 s more, since pyarrow then
imports pandas). A range for every document instead would cost 12 bytes for some 2,000 of text: 6 GB for a terabyte.

A terabyte in the shards of the tokenize stage is 30,000 files, 6 s to open. What was found in many shards is therefore
kept in a file, mapped when it is used: then the next process looks at their sizes and times of change alone (0.2 s),
and memory does not grow with the corpus (`python -m tests.benchmarks.resume`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.files import written_aside
from models.order.shards import map_file, read_columns

MANY = 256
"""Shards from which on it pays to keep what was found."""

_LISTED = 20  # names in an error


class Runs(NamedTuple):
    """Runs in the order of the stream."""

    table: NDArray[np.int64]
    """Shape (5, runs): number of the shard; documents; bytes of the file at which their list offsets begin, and their
    tokens; tokens of the stream up to the run's end."""
    dtype: np.dtype[np.integer]
    """The type of a token."""


def runs_of(shards: Sequence[Path], only: str | None, index: Path | None) -> Runs:
    """The runs of the documents whose source is `only` (None = of all); of many shards, kept in the folder `index`.

    Raises ValueError where a shard cannot be read or mapped, or no document is of the source.
    """
    if index is None or len(shards) < MANY:
        return find_runs(shards, only)
    key = _key(shards, only)
    for kept in index.glob(f"{key}-*.npy"):
        return Runs(np.load(kept, mmap_mode="r"), np.dtype(kept.stem.removeprefix(f"{key}-")))
    found = find_runs(shards, only)
    with contextlib.suppress(OSError):  # a full disk: the next process finds the runs again
        index.mkdir(parents=True, exist_ok=True)
        with written_aside(index / f"{key}-{found.dtype.name}.npy") as file:
            np.save(file, found.table)
    return found


def find_runs(shards: Sequence[Path], only: str | None) -> Runs:
    """The same, from the shards themselves."""
    runs: list[NDArray[np.int64]] = []
    names: set[str] = set()
    dtype: np.dtype[np.integer] | None = None
    for number, shard in enumerate(shards):
        mapped = map_file(shard)
        columns = read_columns(shard, ("tokens",) if only is None else ("tokens", "source"), mapped)
        for tokens, *sources in columns:
            of_shard = _token_type(shard, tokens)
            if not len(tokens.values):
                continue
            if dtype is not None and of_shard != dtype:
                raise ValueError(f"{shard} holds ids of {of_shard}, the shards before it {dtype}: tokenize them alike.")
            dtype = of_shard
            whole = _whole(number, shard, mapped, tokens)
            if only is None:
                runs.append(whole)
            else:
                names.update(map(str, sources[0].unique().to_pylist()))
                runs.append(_stretches(whole, mapped, dtype, *_neighbours(sources[0], only)))
    if only is not None and only not in names:
        listed = ", ".join(sorted(names)[:_LISTED]) or "none"
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        raise ValueError(f"No document is of the source {only!r}; the sources are {listed}{more}.")
    table = np.concatenate(runs, axis=1) if runs else np.empty((5, 0), dtype=np.int64)
    table[4] = np.cumsum(table[4])
    return Runs(table, dtype or np.dtype(np.uint16))


def _key(shards: Sequence[Path], only: str | None) -> str:
    """A hash of the files as they are: changed when one of them is."""
    digest = hashlib.sha256(repr(only).encode())
    for shard in shards:
        found = os.stat(shard)
        digest.update(f"{shard}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def _token_type(shard: Path, lists: pa.Array) -> np.dtype[np.integer]:
    if not (pa.types.is_list(lists.type) and pa.types.is_integer(lists.type.value_type)):
        raise ValueError(f"{shard} holds no lists of token ids but {lists.type}: tokenize it again.")
    return np.dtype(str(lists.type.value_type))


def _whole(number: int, shard: Path, mapped: pa.Buffer, lists: pa.Array) -> NDArray[np.int64]:
    """The run that is a whole record batch, its tokens instead of its end; shape (5, 1).

    Its list offsets begin with 0, as Arrow writes every file, and are not looked at: that would read one page of disk
    more for each.
    """
    _, offsets, _, tokens = lists.buffers()
    places = [buffer.address - mapped.address for buffer in (offsets, tokens)]
    if not all(0 <= place < mapped.size for place in places):
        raise ValueError(f"{shard} is compressed and cannot be mapped: write it without compression.")
    return np.array([[number], [len(lists)], [places[0]], [places[1]], [len(lists.values)]], dtype=np.int64)


def _stretches(
    whole: NDArray[np.int64],
    mapped: pa.Buffer,
    dtype: np.dtype[np.integer],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
) -> NDArray[np.int64]:
    """The runs of a record batch's rows low .. high, of those that hold a token."""
    number, documents, offset_bytes, token_bytes, _ = whole[:, 0].tolist()
    offsets = np.frombuffer(mapped, np.int32, documents + 1, offset_bytes)
    first, last = offsets[low].astype(np.int64), offsets[high].astype(np.int64)
    places = (offset_bytes + offsets.itemsize * low, token_bytes + dtype.itemsize * first)
    return np.stack((np.full(low.size, number), high - low, *places, last - first))[:, last > first]


def _neighbours(sources: pa.Array, only: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First rows of the groups of neighbours that are of the source, and the rows after their last."""
    chosen = pc.indices_nonzero(pc.equal(sources, only))
    rows = np.frombuffer(chosen.buffers()[1], np.uint64, len(chosen)).astype(np.int64)
    return rows[np.diff(rows, prepend=-2) > 1], rows[np.diff(rows, append=len(sources) + 1) > 1] + 1
