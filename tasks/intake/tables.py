"""Tables: Parquet, Arrow and CSV files, whole columns at a time by Arrow's C++ readers."""

from contextlib import closing
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from tasks.intake.places import open_file
from tasks.intake.rows import BLOCK, Columns, FilePart, Read, Reject, as_rows, decompressed, picked


def read_parquet(part: FilePart, columns: Columns) -> Read:
    """Read a row group of a Parquet file, or all of them; a file without the wanted columns is rejected whole."""
    with closing(open_file(part.unit.path)) as stream, pq.ParquetFile(stream, buffer_size=1 << 20) as file:
        if reason := _unfit(file.schema_arrow, columns):
            yield Reject(part.unit.label, None, reason)
            return
        groups = range(file.num_row_groups) if part.group is None else [part.group]
        row = part.row
        for group in groups:
            about = file.metadata.row_group(group)
            rows = max(1, min(16_384, BLOCK * about.num_rows // max(about.total_byte_size, 1)))
            for batch in file.iter_batches(rows, row_groups=[group], columns=columns.wanted(), use_threads=False):
                yield _typed(part, row, batch, columns)
                row += batch.num_rows


def read_arrow(part: FilePart, columns: Columns) -> Read:
    """Read an Arrow stream batch by batch; a file without the wanted columns is rejected whole."""
    with closing(open_file(part.unit.path)) as stream, pa.ipc.open_stream(stream) as reader:
        if reason := _unfit(reader.schema, columns):
            yield Reject(part.unit.label, None, reason)
            return
        row = part.row
        for batch in reader:
            yield _typed(part, row, batch, columns)
            row += batch.num_rows


def read_csv(part: FilePart, columns: Columns) -> Read:
    """Read a CSV file with a header; rows of another width are rejected one by one, an empty file has no rows."""
    fresh: list[tuple[int, str]] = []

    def refuse(row: Any) -> str:
        reason = f"{row.actual_columns} fields where the header has {row.expected_columns}"
        fresh.append((row.number - 2, reason))  # Arrow counts records from 1, the header among them
        return "skip"

    with closing(open_file(part.unit.path)) as stream:
        try:
            reader = pa.csv.open_csv(
                decompressed(stream, part.unit.path),
                pa.csv.ReadOptions(use_threads=False, block_size=2 * BLOCK),
                pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=refuse),
                pa.csv.ConvertOptions(
                    include_columns=columns.wanted(),
                    column_types={name: pa.large_binary() for name in columns.wanted()},
                    strings_can_be_null=False,
                    check_utf8=False,
                ),
            )
        except KeyError as error:  # "Column 'text' in include_columns does not exist in CSV file"
            yield Reject(part.unit.label, None, f"no c{str(error.args[0])[1:].partition(' in include')[0]}")
            return
        except pa.ArrowInvalid as error:
            if "Empty CSV file" in str(error):
                return
            raise
        row, ahead = part.row, np.array([], np.int64)
        for batch in reader:
            # The parser reads before it converts, so the bad rows that it has met may lie behind the batch.
            ahead = np.append(ahead[ahead >= row], [number for number, _ in fresh]).astype(np.int64)
            yield from (Reject(part.unit.label, number, reason) for number, reason in fresh)
            fresh.clear()
            if batch.num_rows:
                numbers = np.setdiff1d(np.arange(row, row + batch.num_rows + len(ahead)), ahead)[: batch.num_rows]
                yield as_rows(part, numbers, *picked(batch, columns))
                row = int(numbers[-1]) + 1
        yield from (Reject(part.unit.label, number, reason) for number, reason in fresh)


def _typed(part: FilePart, row: int, batch: pa.RecordBatch, columns: Columns) -> pa.Table:
    return as_rows(part, np.arange(row, row + batch.num_rows), *picked(batch, columns))


def _unfit(schema: pa.Schema, columns: Columns) -> str | None:
    """Why this table cannot be read, or None."""
    for name in columns.wanted():
        if name not in schema.names:
            return _no_column(name, schema.names)
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        texts = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(), pa.binary_view())
        if kind not in (*texts, pa.null()) and not (name != columns.text and pa.types.is_integer(kind)):
            return f"column {name!r} holds no {'text' if name == columns.text else 'name'} but {kind}"
    return None


def _no_column(name: str, names: list[str]) -> str:
    return f"no column {name!r} among {', '.join(names)}"
