"""The index of all nights: sorted runs from 64-bit keys to documents, and tables of what is known of each document.

A log-structured merge tree (O'Neil et al. 1996) of immutable files. Each night's artifact holds one run; when three
runs no larger than tonight's stand before it, they are merged into it, and index.json no longer names them. No older
artifact is touched, so a kill leaves nothing but an uncommitted folder, and an entry is rewritten once for each factor
of four by which the corpus grows: a night costs what is new, times the logarithm of what is old.

A run is cut by ranges of keys into parts (keys and positions, sorted by key, then position), which are memory-mapped
and searched; who holds an equal key is read from there, what is known of that document from the tables of the artifact
that holds it, a row a document. Disk: 516 bytes a document in its run at 42 keys, 280 bytes in tables, plus its id.
"""

import math
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Family = Literal["words", "bands"]
"""What a run's keys are hashes of: all words of a text, or the values of a band."""
Keys = NDArray[np.uint64]
Positions = NDArray[np.int64]
"""Places of documents in the canonical order of all nights, from 0."""

MERGED_RUNS = 4
"""Runs that become one."""
MERGE_LEVEL = 2
"""Binary digits of size that a level spans: runs of one level differ by less than MERGED_RUNS times."""
FIRST_OF_A_KEY = 64
"""Documents that later ones with the same key are compared with: the earliest. A key that thousands share is that of
boilerplate; comparing all with all would be quadratic, and near-duplicates among them share other keys."""
PART_ENTRIES = 1 << 19
"""Entries that are worked on at a time: about 60 MB with all that is computed from them."""
MOST_PARTS = 256
MOST_DOCUMENTS = 1 << 32
"""In one run, since its positions are of 32 bits."""


class SortedRun(BaseModel):
    """One sorted run: its files lie in the artifact of `night` and cover all documents from `start` to its end."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    night: int
    start: int
    """Position of its first document; those in its files count from here."""
    entries: int
    bits: int
    """It has 2^bits parts, by the leading bits of the key."""


@dataclass(frozen=True)
class DocumentFile:
    """Where the tables of one file of documents lie."""

    folder: Path
    number: int
    """The file's number in its night."""
    start: int
    count: int

    def path(self, table: str) -> Path:
        """The file of these documents' rows in a table."""
        return table_path(self.folder, self.number, table)


def table_path(folder: Path, number: int, table: str) -> Path:
    """The file of the rows of documents-`number`.parquet in a table."""
    return folder / f"{number:05d}.{table}"


def part_path(folder: Path, family: Family, part: int, column: str) -> Path:
    """A column ("keys" or "positions") of a part of a run."""
    return folder / f"{family}-{part:03d}.{column}"


def swallowed_runs(live: Sequence[SortedRun], entries: int) -> int:
    """How many of the last live runs a new run of so many entries is merged with."""
    swallowed = 0
    while True:
        level = _level(entries)
        standing = live[: len(live) - swallowed]
        small = 0
        while small < len(standing) and _level(standing[-1 - small].entries) <= level:
            small += 1
        if small < MERGED_RUNS - 1:
            return swallowed
        entries += sum(run.entries for run in standing[-small:])
        swallowed += small


def part_bits(entries: int) -> int:
    """The number of parts of a run with so many entries, as a power of two."""
    return math.ceil(math.log2(min(max(entries / PART_ENTRIES, 1), MOST_PARTS)))


def key_ranges(part: int, bits: int, entries: int) -> Iterator[tuple[int, int]]:
    """(first, last) keys, both inclusive, that divide a part into ranges of about PART_ENTRIES of its entries."""
    finer = math.ceil(math.log2(max(entries / PART_ENTRIES, 1)))
    width = 1 << (64 - bits - finer)
    for number in range(part << finer, (part + 1) << finer):
        yield number * width, number * width + width - 1


def write_entries(folder: Path, family: Family, keys: Keys, chosen: NDArray[np.int64]) -> None:
    """Write the keys (uint64, shape [rows, keys of each]) of the chosen rows of a batch, divided into buckets."""
    from tasks.similarity.key_sort import into_buckets

    buckets, rows, ends = into_buckets(keys, chosen)
    buckets.tofile(folder / f"{family}.keys")
    rows.tofile(folder / f"{family}.rows")
    ends.tofile(folder / f"{family}.ends")


def read_entries(file: DocumentFile, family: Family, first: int, last: int) -> tuple[Keys, Positions]:
    """What `write_entries` wrote, with keys in a range, by position within a key."""
    ends = np.fromfile(file.folder / f"{family}.ends", dtype=np.int64)
    low, high = ends[first >> 56], ends[(last >> 56) + 1]
    keys = np.fromfile(file.folder / f"{family}.keys", np.uint64, high - low, offset=8 * low)
    rows = np.fromfile(file.folder / f"{family}.rows", np.uint32, high - low, offset=4 * low)
    if last - first + 1 < 1 << 56:
        inside = (keys >= np.uint64(first)) & (keys <= np.uint64(last))
        keys, rows = keys[inside], rows[inside]
    return keys, rows + np.int64(file.start)


def read_run(
    folder: Path, family: Family, run: SortedRun, first: int, last: int
) -> Iterator[tuple[Keys, NDArray[np.uint32]]]:
    """The (sorted) entries of a run with keys in a range, memory-mapped, a part at a time; positions count from
    the run's start."""
    for part in range(first >> (64 - run.bits), (last >> (64 - run.bits)) + 1):
        keys = mapped(part_path(folder, family, part, "keys"), np.uint64)
        positions = mapped(part_path(folder, family, part, "positions"), np.uint32)
        low = np.searchsorted(keys, np.uint64(first), "left")
        high = np.searchsorted(keys, np.uint64(last), "right")
        yield keys[low:high], positions[low:high]


def find_entries(
    folder: Path, family: Family, run: SortedRun, keys: Keys, first: int, last: int
) -> tuple[Keys, Positions]:
    """The entries of a run that have one of the given (sorted, distinct) keys, all of which lie in the range."""
    found_keys, found_positions = [], []
    for run_keys, run_positions in read_run(folder, family, run, first, last):
        low = np.searchsorted(run_keys, keys, "left")
        hits = np.flatnonzero(run_keys[np.minimum(low, len(run_keys) - 1)] == keys) if len(run_keys) else low[:0]
        low = low[hits]
        counts = np.searchsorted(run_keys, keys[hits], "right") - low
        inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        found_keys.append(np.repeat(keys[hits], counts))
        found_positions.append(run_positions[np.repeat(low, counts) + inside] + np.int64(run.start))
    return np.concatenate(found_keys), np.concatenate(found_positions)


def sort_entries(keys: Keys, positions: Positions, first: int, last: int) -> tuple[Keys, Positions]:
    """Sort by key; entries of one key stay in their order. Linear for keys that are hashes within a range."""
    from tasks.similarity.key_sort import sort_range

    width = (last - first + 1).bit_length() - 1
    digits = min(max(len(keys).bit_length() - 3, 1), width)
    return sort_range(keys, positions, np.uint64(first), np.uint64(width - digits), digits)


def take_rows(files: Sequence[DocumentFile], table: str, dtype: Any, positions: Positions) -> NDArray[Any]:
    """The rows of a table at the given positions, of `dtype` (its shape is the row's).

    One file is mapped at a time and let go, so that memory holds what is returned and not what was looked at.
    """
    kind = np.dtype(dtype)
    taken = np.empty((len(positions), *kind.shape), dtype=kind.base)
    for file, places in by_file(files, positions):
        rows = mapped(file.path(table), kind.base).reshape(-1, *kind.shape)
        taken[places] = rows[positions[places] - file.start]
    return taken


def take_ids(files: Sequence[DocumentFile], positions: Positions) -> pa.Array:
    """The ids of the documents at the given positions."""
    chunks, places = [pa.array([], pa.string())], [np.empty(0, dtype=np.int64)]
    for file, asked in by_file(files, positions):
        with pa.memory_map(str(file.path("ids"))) as source:
            ids = pa.ipc.open_file(source).read_all()["doc_id"].combine_chunks()
            chunks.append(ids.take(pa.array(positions[asked] - file.start)))
        places.append(asked)
    back = np.argsort(np.concatenate(places))
    return pa.concat_arrays(chunks).take(pa.array(back))


def by_file(files: Sequence[DocumentFile], positions: Positions) -> Iterator[tuple[DocumentFile, NDArray[np.int64]]]:
    """Each file that holds some of the positions, with the indices of these, by position."""
    if not len(positions):
        return
    order = np.argsort(positions, kind="stable")
    starts = np.array([file.start for file in files])
    holders = np.searchsorted(starts, positions[order], "right") - 1  # of files that start alike, the last is not empty
    begins = np.flatnonzero(np.diff(holders, prepend=-1))
    for begin, end in zip(begins, [*begins[1:], len(order)], strict=True):
        yield files[holders[begin]], order[begin:end]


def mapped(path: Path, dtype: Any) -> NDArray[Any]:
    """A file of numbers as a read-only array, memory-mapped for as long as the array lives."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return np.empty(0, dtype=dtype)
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=dtype)


def _level(entries: int) -> int:
    return max(entries - 1, 0).bit_length() // MERGE_LEVEL
