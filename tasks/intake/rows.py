"""Rows: what every format is read into before it becomes documents, and the recipe's words for columns."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from models.settings import Settings
from tasks.intake.inventory import Unit

BLOCK = 8_000_000
"""Bytes that a reader holds at a time, more or less."""

ROWS = pa.schema(
    [
        ("path", pa.string()),
        ("row", pa.int64()),
        ("text", pa.large_binary()),
        ("id", pa.large_binary()),
        ("source", pa.large_binary()),
        ("charset", pa.string()),
    ]
)
"""What readers give: `path` as in document ids, `row` null for a file that is one document; bytes are not checked yet,
and `text` is a web page where `charset` says how its server named its encoding."""


class Columns(Settings):
    """Which columns of a table, or fields of a JSON line, mean what. A WARC file has text, url, date and record_id."""

    text: str = Field(default="text", min_length=1, max_length=200)
    """Holds the document."""
    id: str | None = Field(default=None, min_length=1, max_length=200)
    """Names the document, which is then called <source>/<id>; without one it is named by file and row. Text or whole
    numbers; a row that has none, or an empty one, is named by its number."""
    source: str | None = Field(default=None, min_length=1, max_length=200)
    """Says where the document is from, for results by source; without one that is the source's name in the recipe."""

    def wanted(self) -> list[str]:
        """The names of the columns to read, each once: that of the text first."""
        return list(dict.fromkeys(name for name in (self.text, self.id, self.source) if name is not None))


@dataclass(frozen=True)
class FilePart:
    """A unit, or the piece of one that a batch reads."""

    unit: Unit
    group: int | None = None
    """The row group of a Parquet file; None for all of them."""
    start: int = 0
    stop: int | None = None
    """Bytes of a JSON lines file: the lines that begin there. Stop None for its end."""
    row: int = 0
    """The number of the first row in the piece."""


@dataclass(frozen=True)
class Reject:
    """What could not become a document: `path` as in document ids, `row` in that file or None for all of it."""

    path: str
    row: int | None
    reason: str


Read = Iterator[pa.Table | Reject]
"""What a reader gives: tables of ROWS, and what it had to refuse."""


def as_rows(
    part: FilePart,
    numbers: Any,
    text: pa.Array,
    id: pa.Array | None = None,
    source: pa.Array | None = None,
    charset: pa.Array | None = None,
) -> pa.Table:
    """Put columns of equal length into the schema ROWS, under the label of the part's file.

    Args:
        numbers: each row's number in the file; None for a file that is one document.
        text, id, source: strings, bytes or (id and source) whole numbers; dictionaries of them too.
        charset: how servers named the encodings of web pages; None where the text is no web page.
    """
    count = len(text)
    arrays = [
        pa.repeat(pa.scalar(part.unit.label), count),
        pa.array(numbers, pa.int64()),
        *(pa.nulls(count, pa.large_binary()) if array is None else _as_bytes(array) for array in (text, id, source)),
        pa.nulls(count, pa.string()) if charset is None else charset,
    ]
    return pa.Table.from_arrays(arrays, schema=ROWS)


def _as_bytes(array: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if pa.types.is_dictionary(array.type):
        array = pc.cast(array, array.type.value_type)
    if pa.types.is_integer(array.type):
        array = pc.cast(array, pa.string())
    return pc.cast(array, pa.large_binary())


def picked(table: pa.Table | pa.RecordBatch, columns: Columns) -> list[pa.Array | None]:
    """The columns that hold text, id and source."""
    return [None if name is None else table.column(name) for name in (columns.text, columns.id, columns.source)]


def decompressed(stream: IO[bytes], path: str) -> pa.NativeFile:
    """The stream as Arrow reads it, unpacked on the way where the path ends in .gz or .zst."""
    opened = pa.PythonFile(stream, "r")
    codec = {".gz": "gzip", ".zst": "zstd"}.get(path[path.rfind(".") :].lower())
    return pa.CompressedInputStream(opened, codec) if codec else opened
