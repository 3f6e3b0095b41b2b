"""Which columns a table has, from its first bytes: whether a recipe names the right ones can be told before a night.

What cannot be told (a file that cannot be read, a format without columns) is left to the stage, which judges each file.
"""

import csv
import io
import json
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from tasks.intake.places import is_url, open_file
from tasks.intake.rows import decompressed

HEAD_BYTES = 1 << 20
LINES = 20
"""JSON lines that are looked at: fields may be left out of some."""
FILES = 8
"""Files that are looked at, evenly spread over a source."""


def columns_of(path: str) -> set[str] | None:
    """The names of a local file's columns, or of the fields of its first lines; None where that cannot be told."""
    if is_url(path):
        return None
    name = path.lower()
    try:
        if name.endswith(".parquet"):
            return set(pq.read_schema(path).names)
        if name.endswith(".arrow"):
            with closing(open_file(path)) as stream, pa.ipc.open_stream(stream) as reader:
                return set(reader.schema.names)
        if name.endswith((".csv", ".csv.gz")):
            return set(next(csv.reader(io.StringIO(_head(path), newline="")), ())) or None
        if name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
            return _fields(_head(path))
    except (OSError, ValueError, csv.Error, RecursionError, pa.ArrowException):
        return None
    return None


def lacking(paths: list[str], wanted: list[str]) -> tuple[str, str, set[str]] | None:
    """A column that none of the files looked at has, with the name and the columns of one of them; None where one has
    them all, or where that cannot be told."""
    spread = paths[:: max(1, len(paths) // FILES)]
    first: tuple[str, str, set[str]] | None = None
    for path in spread:
        names = columns_of(path)
        missing = [] if names is None else [name for name in wanted if name not in names]
        if names is None or not missing:
            return None
        first = first or (missing[0], Path(path).name, names)
    return first


def _head(path: str) -> str:
    with closing(open_file(path)) as stream:
        return bytes(decompressed(stream, path).read(HEAD_BYTES)).decode("utf-8-sig", "ignore")


def _fields(text: str) -> set[str] | None:
    """The fields of the first lines that can be read; the last may be cut off."""
    found: set[str] = set()
    for line in text.split("\n")[:LINES]:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if not isinstance(value, dict):
            return None
        found.update(value)
    return found or None
