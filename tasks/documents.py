"""The table of documents that ingest, filter and deduplicate hand on: its columns, files and verdicts.

A file holds about 32 MB of text, and a stage reads and writes one file at a time: that is the batch by which memory
is bounded. Files keep their number through the stages, so one file can be worked on without looking at another.
"""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.store import Artifact

BATCH_BYTES = 32_000_000

SCHEMA = pa.schema([("doc_id", pa.string()), ("text", pa.large_string()), ("source", pa.string())])
VERDICTS = pa.schema([(name, pa.string()) for name in ("doc_id", "stage", "verdict", "reason", "evidence")])


def document_files(artifact: Artifact) -> list[Path]:
    """The files of an artifact's documents, in canonical order."""
    return sorted(artifact.path.glob("documents-*.parquet"))


def read_documents(artifact: Artifact) -> Iterator[pl.DataFrame]:
    """The documents of an artifact in canonical order, one file at a time: doc_id, text, source."""
    for path in document_files(artifact):
        yield pl.read_parquet(path)


class DocumentWriter:
    """Takes documents in canonical order and writes a file whenever a batch of text is full."""

    def __init__(self, folder: Path, batch_bytes: int = BATCH_BYTES) -> None:
        self.folder = folder
        self.batch_bytes = batch_bytes
        self.added = 0
        self.bytes = 0
        self._files = 0
        self._pending: list[tuple[str, str, str]] = []
        self._pending_bytes = 0

    def add(self, doc_id: str, text: str, source: str) -> None:
        size = len(text.encode())
        self.added += 1
        self.bytes += size
        self._pending.append((doc_id, text, source))
        self._pending_bytes += size
        if self._pending_bytes >= self.batch_bytes:
            self.flush()

    def flush(self) -> None:
        if not self._pending:
            return
        columns = [
            pa.array(column, field.type) for column, field in zip(zip(*self._pending, strict=True), SCHEMA, strict=True)
        ]
        write_documents(pa.Table.from_arrays(columns, schema=SCHEMA), self.folder, self._files)
        self._files += 1
        self._pending, self._pending_bytes = [], 0


def write_documents(documents: pl.DataFrame | pa.Table, folder: Path, number: int) -> None:
    """Write the file of documents with this number, also when no document is left in it."""
    path = folder / f"documents-{number:05d}.parquet"
    pq.write_table(as_table(documents, SCHEMA), path, compression="zstd")


def as_table(data: pl.DataFrame | pa.Table, schema: pa.Schema) -> pa.Table:
    """The data as one chunk: Parquet pages follow chunks, and those that polars leaves follow its threads."""
    table = data.to_arrow() if isinstance(data, pl.DataFrame) else data
    return table.cast(schema).combine_chunks()
