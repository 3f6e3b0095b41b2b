"""The table of documents that ingest, filter and deduplicate hand on: its columns, files and verdicts.

A file holds about 32 MB of text, and a stage reads and writes one file at a time: that is the batch by which memory
is bounded. Files keep their number through the stages, so one file can be worked on without looking at another.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tasks.core.artifact import Artifact

BATCH_BYTES = 32_000_000
ROWS_HELD = 1000
COMPRESSION = "zstd"
"""How every Parquet file is compressed that a stage leaves."""

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
        self.files: list[tuple[int, int]] = []
        """Documents and bytes of text of each file written."""
        self._rows: list[tuple[str, str, str]] = []
        self._pending: list[pa.Table] = []
        self._pending_bytes = 0

    def add(self, doc_id: str, text: str, source: str) -> None:
        """Take one document. Whoever has columns gives tables: rows cost 80 times as much."""
        self._rows.append((doc_id, text, source))
        if len(self._rows) == ROWS_HELD:
            self._take_rows()

    def add_table(self, documents: pa.Table) -> None:
        """Take the documents of a table of SCHEMA."""
        self._take_rows()
        self._take(documents)

    def flush(self) -> None:
        """Write what is left."""
        self._take_rows()
        self._write()

    def _take_rows(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            self._take(as_documents(rows))

    def _take(self, documents: pa.Table) -> None:
        ends = np.cumsum(pc.binary_length(documents["text"]).to_numpy())
        first = 0
        while first < len(ends):
            before = int(ends[first - 1]) if first else 0
            full = int(np.searchsorted(ends, before + self.batch_bytes - self._pending_bytes)) + 1
            piece = documents[first:full]
            self._pending.append(piece)
            self._pending_bytes += int(ends[min(full, len(ends)) - 1]) - before
            if self._pending_bytes >= self.batch_bytes:
                self._write()
            first = full

    def _write(self) -> None:
        if self._pending:
            documents = pa.concat_tables(self._pending)
            write_documents(documents, self.folder / documents_file(len(self.files)))
            self.files.append((documents.num_rows, self._pending_bytes))
        self._pending, self._pending_bytes = [], 0


def as_documents(rows: Sequence[tuple[str, str, str]]) -> pa.Table:
    """A table of SCHEMA, of at least one row."""
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def write_documents(documents: pl.DataFrame | pa.Table, path: Path) -> None:
    """Write a file of documents, also when none is left in it."""
    # Texts differ: a dictionary of them and their extremes cost a sixth of the time and find nothing.
    pq.write_table(
        as_table(documents, SCHEMA), path, compression=COMPRESSION, use_dictionary=["source"], write_statistics=False
    )


def documents_file(number: int) -> str:
    """The name of the file of documents with this number."""
    return f"documents-{number:05d}.parquet"


def write_rows(data: pl.DataFrame | pa.Table, schema: pa.Schema, path: Path) -> None:
    """Write any other table that a stage leaves: verdicts, rejects, hits, predictions."""
    pq.write_table(as_table(data, schema), path, compression=COMPRESSION)


def as_table(data: pl.DataFrame | pa.Table, schema: pa.Schema) -> pa.Table:
    """The data as one chunk: Parquet pages follow chunks, and those that polars leaves follow its threads."""
    table = data.to_arrow() if isinstance(data, pl.DataFrame) else data
    return table.cast(schema).combine_chunks()


def text_buffers(texts: pa.LargeStringArray) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The UTF-8 bytes that a column of texts lies in, and where in them each begins (shape [texts + 1]), uncopied.

    Both are read-only: one type for numba whoever made the column, so that one version of a kernel is compiled.
    """
    data, offsets = np.empty(0, dtype=np.uint8), np.zeros(1, dtype=np.int64)
    if len(texts):
        _, where, what = texts.buffers()
        offsets = np.frombuffer(where, dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
        data = np.frombuffer(what or b"", dtype=np.uint8)
    for array in (offsets, data):
        array.setflags(write=False)
    return data, offsets
