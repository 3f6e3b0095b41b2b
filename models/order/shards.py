"""Shards on disk as mapped arrays: Arrow IPC files, of which a corpus of any size costs address space, not memory."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.ipc


def map_file(path: Path) -> pa.Buffer:
    """All bytes of the file, mapped, not read."""
    return pa.memory_map(str(path)).read_buffer()


def read_columns(shard: Path, columns: tuple[str, ...], mapped: pa.Buffer) -> list[list[pa.Array]]:
    """The columns of every record batch of the mapped file; each array lies in it, nothing is copied.

    Raises ValueError, naming the shard, where it is no Arrow file or lacks a column.
    """
    try:
        reader = pa.ipc.open_file(mapped)
        places = [reader.schema.get_field_index(column) for column in columns]
        for column, place in zip(columns, places, strict=True):
            if place < 0:
                raise ValueError(
                    f"{shard} has no column {column!r}: it was not written by this version's tokenize stage."
                )
        batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        return [[batch.column(place) for place in places] for batch in batches]
    except pa.ArrowInvalid as error:
        raise ValueError(f"{shard} is not a readable Arrow file ({error}): derive it again.") from error


def read_column(shard: Path, column: str) -> list[pa.Array]:
    """The column's record batches, mapped, not read; a ValueError names a shard that is no Arrow file or lacks it."""
    return [arrays[0] for arrays in read_columns(shard, (column,), map_file(shard))]
