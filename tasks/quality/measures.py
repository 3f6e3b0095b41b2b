"""Measures a column of texts for the rule sets that are on, a slice of it at a time, and applies C4's rules on lines.

A slice is small enough for its words and lines to stay in the processor's second cache, and is what bounds the scratch
memory of a thread: some ten times the slice, or the longest text if that is longer.
"""

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from tasks.corpus.documents import text_buffers
from tasks.quality.c4 import FINDINGS, choose_lines, cut_citations, join_lines
from tasks.quality.repetition import REMAINS, REPETITIONS, measure_lines, measure_repetition
from tasks.quality.rules import C4, FineWeb, GopherRepetition
from tasks.quality.scan import COUNTS, NEWLINES, scan_texts

SLICE_BYTES = 256_000
UNLIMITED = 2**62

Bytes = NDArray[np.uint8]
Offsets = NDArray[np.int64]


def measure(
    texts: pa.LargeStringArray, repetition: GopherRepetition | None, c4: C4 | None, fineweb: FineWeb | None
) -> tuple[pl.DataFrame, pa.LargeStringArray]:
    """A row of measures a text (columns as the rules of each set that is on name them), and what C4 leaves of it."""
    data, offsets = text_buffers(texts)
    parts, left = [], []
    for first, last in slices(offsets):
        measures, kept, bounds = _measure_slice(data, offsets[first : last + 1], repetition, c4, fineweb)
        parts.append(measures)
        left.append((kept, bounds))
    columns = [*COUNTS]
    if repetition is not None:
        columns += REPETITIONS
    if c4 is not None:
        columns += FINDINGS
    if c4 is not None or fineweb is not None:
        columns += [*REMAINS, "left_newlines"]
    matrix = np.concatenate(parts) if parts else np.empty((0, len(columns)), dtype=np.int64)
    frame = pl.DataFrame({name: matrix[:, index] for index, name in enumerate(columns)})
    return frame, texts if c4 is None else _joined(left)


def slices(offsets: Offsets) -> list[tuple[int, int]]:
    """Ranges of texts that hold about SLICE_BYTES, at least one text each, in order."""
    ranges, first = [], 0
    while first < len(offsets) - 1:
        last = max(int(np.searchsorted(offsets, offsets[first] + SLICE_BYTES, side="right")) - 1, first + 1)
        ranges.append((first, last))
        first = last
    return ranges


def _measure_slice(
    data: Bytes, offsets: Offsets, repetition: GopherRepetition | None, c4: C4 | None, fineweb: FineWeb | None
) -> tuple[NDArray[np.int64], Bytes, Offsets]:
    scan = scan_texts(data, offsets)
    parts = [scan.counts]
    newlines = scan.counts[:, NEWLINES]
    joined, bounds = data[:0], offsets[:0]
    if repetition is not None:
        parts.append(measure_repetition(scan))
    chosen = np.ones(len(scan.lines), dtype=np.bool_)
    if c4 is not None:
        if c4.cut_citations:
            shorter, shortened = cut_citations(data, offsets)
            if len(shorter) < offsets[-1] - offsets[0]:
                data, offsets = shorter, shortened
                scan = scan_texts(data, offsets)
        chosen, findings = choose_lines(
            data,
            scan,
            c4.end_punctuation,
            c4.min_line_words or 0,
            c4.max_word_length or UNLIMITED,
            c4.remove_javascript,
            c4.remove_policies,
        )
        parts.append(findings)
        joined, bounds = join_lines(data, scan, chosen)
    if c4 is not None or fineweb is not None:
        remains = measure_lines(scan, chosen, FineWeb().short_line if fineweb is None else fineweb.short_line)
        parts.append(remains)
        parts.append((newlines if c4 is None else np.maximum(remains[:, 0] - 1, 0))[:, None])
    return np.concatenate(parts, axis=1), joined, bounds


def _joined(left: list[tuple[Bytes, Offsets]]) -> pa.LargeStringArray:
    """One column of the texts of all slices."""
    offsets, before = [np.zeros(1, dtype=np.int64)], 0
    for _, bounds in left:
        offsets.append(bounds[1:] + before)
        before += int(bounds[-1])
    data = np.concatenate([kept for kept, _ in left]) if left else np.empty(0, dtype=np.uint8)
    bounds = np.concatenate(offsets)
    return pa.LargeStringArray.from_buffers(len(bounds) - 1, pa.py_buffer(bounds), pa.py_buffer(data))
