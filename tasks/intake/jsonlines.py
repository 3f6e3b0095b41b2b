"""JSON lines: blocks of whole lines, parsed by Arrow's C++ at 320 MB/s and core, where `json.loads` makes 90.

Only a block that holds a bad line is parsed line by line, to name that line. Arrow knows objects, not lines, so the
number of objects in a block is compared with that of its lines.
"""

import json
import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json

from tasks.intake.places import open_file
from tasks.intake.rows import BLOCK, Columns, FilePart, Read, Reject, as_rows, decompressed, picked

LINE_LIMIT = 256_000_000
FILLED_LINE = re.compile(rb".*\S.*")


def read_jsonl(part: FilePart, columns: Columns) -> Read:
    """Read the lines that begin in this piece of a JSON lines file, one row each; lines that are none are rejected."""
    row = part.row
    for block in _lines(part):
        yield from _read_lines(part, row, block, columns)
        row += block.count(b"\n")


def count_lines(part: FilePart) -> int:
    """How many lines begin in this piece of a JSON lines file."""
    return sum(block.count(b"\n") + (not block.endswith(b"\n")) for block in _lines(part))


def _lines(part: FilePart) -> Iterator[bytes]:
    """Whole lines, some 8 MB at a time: those that begin in the part's range of bytes."""
    with closing(open_file(part.unit.path)) as stream:
        left = part.unit.size if part.stop is None else part.stop
        if part.start:  # the line that holds the byte before is not ours
            stream.seek(part.start - 1)
            left -= part.start - 1 + len(stream.readline())
        source = decompressed(stream, part.unit.path) if part.stop is None else stream
        rest = b""
        while data := source.read(BLOCK if part.stop is None else max(0, min(BLOCK, left))):
            left -= len(data)
            end = data.rfind(b"\n") + 1
            if end:
                yield rest + data[:end]
            rest = data[end:] if end else rest + data
            if len(rest) > LINE_LIMIT:
                raise pa.ArrowInvalid(f"a line is longer than {LINE_LIMIT // 1_000_000} MB")
        if rest and part.stop is not None:  # it begins here and ends behind
            rest += stream.readline()
        if rest:
            yield rest


def _read_lines(part: FilePart, row: int, block: bytes, columns: Columns) -> Read:
    block = block.removeprefix(b"\xef\xbb\xbf") if row == 0 else block
    table = _parsed(block, columns)
    if table is not None and not table[columns.text].null_count:
        lines = block.count(b"\n") + (not block.endswith(b"\n"))
        if lines == table.num_rows:
            numbers = np.arange(row, row + lines)
        else:
            numbers = np.array([row + n for n, line in enumerate(block.split(b"\n")) if line.strip()], np.int64)
        if len(numbers) == table.num_rows:  # else an object spans lines, or a line holds two
            if len(numbers):
                yield as_rows(part, numbers, *picked(table, columns))
            return
    yield from _one_by_one(part, row, block, columns)


def _parsed(block: bytes, columns: Columns) -> pa.Table | None:
    """A block of JSON lines as a table, or None where one of them is not as the others."""
    try:
        line = FILLED_LINE.search(block)
        first = json.loads(line[0]) if line else {}
        kinds = {
            name: pa.int64() if type(first.get(name)) is int and name != columns.text else pa.large_string()
            for name in columns.wanted()
        }
        return pa.json.read_json(
            pa.BufferReader(block),
            pa.json.ReadOptions(use_threads=False, block_size=len(block) + 1),
            pa.json.ParseOptions(pa.schema(list(kinds.items())), unexpected_field_behavior="ignore"),
        )
    except (ValueError, AttributeError, pa.ArrowException):
        return None


def _one_by_one(part: FilePart, row: int, block: bytes, columns: Columns) -> Read:
    """The slow way, to name the lines that are bad."""
    taken: list[tuple[int, bytes, bytes | None, bytes | None]] = []
    for number, line in enumerate(block.split(b"\n"), row):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
            if not isinstance(value, dict) or columns.text not in value:
                raise ValueError(f"no field {columns.text!r}")
            text = value[columns.text]
            if not isinstance(text, str):
                raise ValueError(f"{columns.text!r} holds no text but {type(text).__name__}")
            taken.append((number, text.encode(), _name(value, columns.id), _name(value, columns.source)))
        except UnicodeEncodeError:
            yield Reject(part.unit.label, number, "the text holds half of a surrogate pair")
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            yield Reject(part.unit.label, number, f"not JSON: {error}")
        except ValueError as error:
            yield Reject(part.unit.label, number, str(error))
    if taken:
        numbers, *values = zip(*taken, strict=True)
        yield as_rows(part, numbers, *(pa.array(column, pa.large_binary()) for column in values))


def _name(value: dict[str, Any], field: str | None) -> bytes | None:
    """An id or source out of a line. Raises ValueError for what can be neither."""
    name = None if field is None else value.get(field)
    if name is None:
        return None
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise ValueError(f"{field!r} holds no name but {type(name).__name__}")
    return str(name).encode()
