"""Divides an inventory into batches: what one worker reads at a time, and what a kill costs at most.

About 32 MB each, measured in the files' own bytes (for Parquet unpacked): many small files together, big ones in
pieces where the format lets a reader begin in the middle. Numbers of rows must be right in every piece, so JSON lines
are first counted, at 1.2 s of CPU time per GB; a remote file is not divided, since it would travel twice.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.batches import Batches, Facts
from tasks.core.errors import StageError
from tasks.corpus.documents import BATCH_BYTES
from tasks.intake.installed import installed, standard_library
from tasks.intake.inventory import Stock, Unit
from tasks.intake.jsonlines import count_lines
from tasks.intake.places import open_file
from tasks.intake.reading import FilesBatch, PythonBatch
from tasks.intake.rows import FilePart
from tasks.intake.sources import PYTHON, Datasets, Files, PythonDocs

FILES_AT_MOST = 4096
PYTHON_BYTES = 8_000_000  # of source: parsed in about a second, and a quarter of it is documentation
LOOK_INSIDE = 8_000_000
"""A Parquet file of fewer bytes is not opened to be divided: that would be a request for each of thousands of files."""


def divide(
    stocks: Sequence[tuple[PythonDocs | Files | Datasets, Stock]], batches: Batches
) -> list[FilesBatch | PythonBatch]:
    """The batches of all sources in canonical order.

    Raises:
        StageError: a distribution changed since stock was taken.
    """
    found: list[FilesBatch | PythonBatch] = []
    ranges = _counted([part for source, stock in stocks for part in _ranges(source, stock)], batches)
    for source, stock in stocks:
        if isinstance(source, PythonDocs):
            found += _python(source, stock)
        else:
            found += _files(source, stock, ranges)
    return found


def count_range(part: FilePart, _folder: Path) -> Facts:
    """How many lines begin in a piece of a file: the work of one batch."""
    return {"lines": count_lines(part)}


def _files(source: Files | Datasets, stock: Stock, ranges: dict[str, list[FilePart]]) -> Iterator[FilesBatch]:
    held: list[FilePart] = []
    weight = 0
    for unit in stock.units:
        for part, size in _pieces(unit, ranges):
            if held and (weight + size > BATCH_BYTES or len(held) == FILES_AT_MOST):
                yield _batch(source, stock, held)
                held, weight = [], 0
            held.append(part)
            weight += size
    if held:
        yield _batch(source, stock, held)


def _batch(source: Files | Datasets, stock: Stock, parts: Sequence[FilePart]) -> FilesBatch:
    return FilesBatch(source.name, source.columns, source.content == "html", stock.night, tuple(parts))


def _pieces(unit: Unit, ranges: dict[str, list[FilePart]]) -> Iterator[tuple[FilePart, int]]:
    """The parts of a unit with their bytes."""
    if unit.name in ranges:
        yield from ((part, (part.stop or 0) - part.start) for part in ranges[unit.name])
    elif unit.path.lower().endswith(".parquet") and unit.size > LOOK_INSIDE:
        yield from _row_groups(unit)
    else:
        yield FilePart(unit), unit.size


def _row_groups(unit: Unit) -> Iterator[tuple[FilePart, int]]:
    try:
        with open_file(unit.path) as stream:
            about = pq.read_metadata(stream)
    except (OSError, pa.ArrowException):
        yield FilePart(unit), unit.size  # its reader will say what is wrong
        return
    row = 0
    for number in range(about.num_row_groups):
        group = about.row_group(number)
        yield FilePart(unit, group=number, row=row), group.total_byte_size
        row += group.num_rows


def _ranges(source: PythonDocs | Files | Datasets, stock: Stock) -> Iterator[FilePart]:
    """The pieces of big local files of JSON lines, their rows not numbered yet."""
    for unit in stock.units:
        if unit.path.lower().endswith(".jsonl") and not unit.is_remote and unit.size > 2 * BATCH_BYTES:
            for start in range(0, unit.size, BATCH_BYTES):
                yield FilePart(unit, start=start, stop=min(start + BATCH_BYTES, unit.size))


def _counted(parts: Sequence[FilePart], batches: Batches) -> dict[str, list[FilePart]]:
    lines = [batch.facts["lines"] for batch in batches.map("count", count_range, parts)] if parts else []
    found: dict[str, list[FilePart]] = {}
    rows = 0
    for part, count in zip(parts, lines, strict=True):
        rows = rows if part.start else 0
        found.setdefault(part.unit.name, []).append(replace(part, row=rows))
        rows += count
    return found


def _python(source: PythonDocs, stock: Stock) -> Iterator[PythonBatch]:
    now = {unit.name: unit.mark for unit in source.take_stock().units}
    for unit in stock.units:
        if now.get(unit.name) != unit.mark:
            raise StageError(
                f"{unit.name} {unit.mark} is no longer what is installed here; run again to take in what is."
            )
    names = {unit.name for unit in stock.units}
    modules, licences = installed(source.packages, names)
    standard = standard_library() if PYTHON in names else []
    files = [(file, PYTHON) for file in standard] + [(file, file.module.partition(".")[0]) for file in modules]
    sizes = accumulate(os.path.getsize(file.path) if os.path.exists(file.path) else 0 for file, _ in files)
    pieces: dict[int, list[int]] = {}
    for index, end in enumerate(sizes):
        pieces.setdefault(end // PYTHON_BYTES, []).append(index)
    if PYTHON in names:
        yield PythonBatch(stock.night, topics=True)
    for piece in pieces.values():
        yield PythonBatch(stock.night, modules=tuple(files[index] for index in piece))
    if licences:
        yield PythonBatch(stock.night, licences=tuple(licences))
