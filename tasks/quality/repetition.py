"""How much of a text repeats itself: the measures of Gopher's repetition rules, and of FineWeb's on lines.

Rae et al. 2021 (arXiv 2112.11446), table A1. Works on the words and lines of a `Scan` alone: an n-gram is a difference
of two rolling hashes, and has been seen if its 64 bits stand in a table, so no string is built. An n-gram can only
occur twice where both shorter ones in it do: after the 2-grams few candidates are left. Cost: 3 to 5 ns a byte, where
a table of all n-grams of each size took 6 to 13.
"""

import numpy as np
from numba import uint64
from numpy.typing import NDArray

from tasks.core.kernels import njit
from tasks.core.murmur import mix
from tasks.quality.rules import DUPLICATE_SIZES, TOP_SIZES
from tasks.quality.scan import LENGTH, LINE_WORDS, OPENS, ROLL, TERMINAL, Scan

REPETITIONS = (
    "repeated_lines",
    "repeated_line_characters",
    "paragraphs",
    "repeated_paragraphs",
    "repeated_paragraph_characters",
    *(f"top_{size}" for size in TOP_SIZES),
    *(f"duplicate_{size}" for size in DUPLICATE_SIZES),
)
"""Columns, for each text: lines that repeat an earlier line of it, and their characters; paragraphs, those that repeat
an earlier one (line by line), and the characters of their lines; for each size of n-grams the characters in all
occurrences of the most frequent one, its words joined by spaces, the longest if several are (0 if none occurs twice);
for each size the characters in words of n-grams seen before, reading from the start and going on behind an n-gram that
was."""
LINE_AT, LINE_CHARACTERS_AT, PARAGRAPHS_AT, PARAGRAPH_AT, PARAGRAPH_CHARACTERS_AT, GRAMS_AT = range(6)

REMAINS = ("left_lines", "left_terminal", "left_short", "left_repeated", "left_characters", "left_words")
"""Columns, for each text's chosen lines: how many; those that end in terminal punctuation; short ones; characters in
those that repeat an earlier one; characters; words."""


def measure_repetition(scan: Scan) -> NDArray[np.int64]:
    """The REPETITIONS of each scanned text, shape [texts, len(REPETITIONS)]."""
    texts = len(scan.counts)
    measures = np.zeros((texts, len(REPETITIONS)), dtype=np.int64)
    keys, counts = _tables(scan.text_words, scan.text_lines)
    _repetition(
        scan.text_words,
        scan.rolling,
        scan.lengths,
        scan.text_lines,
        scan.lines,
        scan.line_hashes,
        keys,
        counts,
        np.empty(len(keys), dtype=np.int64),
        np.empty(len(keys), dtype=np.int32),
        measures,
    )
    return measures


def measure_lines(scan: Scan, chosen: NDArray[np.bool_], short: int) -> NDArray[np.int64]:
    """The REMAINS of each scanned text, shape [texts, len(REMAINS)].

    Args:
        chosen: shape [lines], the lines to look at.
        short: most characters of a short line.
    """
    measures = np.zeros((len(scan.counts), len(REMAINS)), dtype=np.int64)
    keys, _ = _tables(scan.text_lines, scan.text_lines)
    _lines(scan.text_lines, scan.lines, scan.line_hashes, chosen, short, keys, measures)
    return measures


def _tables(*ranges: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
    """Room for the keys of the longest text, and a count for each."""
    most = max(int(np.diff(bounds).max(initial=0)) for bounds in ranges)
    size = 2 << most.bit_length()  # at most half full
    return np.empty(size, dtype=np.uint64), np.empty(size, dtype=np.int32)


@njit
def _key(value):  # type: ignore[no-untyped-def]
    """A hash of the value that is never 0, which marks an empty place."""
    return mix(value) | uint64(1)


@njit
def _room(entries):  # type: ignore[no-untyped-def]
    """Places of a table that is at most half full."""
    size = 2
    while size < 2 * entries:
        size *= 2
    return size


@njit
def _place(keys, places, key):  # type: ignore[no-untyped-def]
    """Where a key stands among the first `places` (a power of two) of a table, or the empty place where it belongs."""
    place = np.int64((key >> uint64(20)) & uint64(places - 1))
    while keys[place] != uint64(0) and keys[place] != key:
        place = (place + 1) & (places - 1)
    return place


@njit
def _count_grams(rolling, size, positions, candidates, keys, counts, where):  # type: ignore[no-untyped-def]
    """Count the n-grams that begin at the candidates; `where` says for each which count is its own."""
    places = _room(candidates)
    keys[:places] = uint64(0)
    counts[:places] = 0
    leaving = uint64(1)
    for _ in range(size):
        leaving *= ROLL
    for index in range(candidates):
        word = positions[index]
        key = _key(rolling[word + size] - rolling[word] * leaving)
        place = _place(keys, places, key)
        keys[place] = key
        counts[place] += 1
        where[index] = place


@njit
def _top_characters(lengths, size, positions, candidates, counts, where):  # type: ignore[no-untyped-def]
    """Characters in all occurrences of the most frequent counted n-gram; 0 if none occurs twice."""
    best, longest = 1, 0
    for index in range(candidates):
        count = counts[where[index]]
        if count > 1 and count >= best:
            word = positions[index]
            length = lengths[word + size] - lengths[word] + size - 1
            longest = max(longest, length) if count == best else length
            best = count
    return best * longest


@njit
def _duplicate_characters(lengths, size, positions, candidates, counts, where):  # type: ignore[no-untyped-def]
    """Characters in words of n-grams seen before, going on behind each; counts of n-grams seen turn negative."""
    repeated, behind = 0, np.int64(0)
    for index in range(candidates):
        word = positions[index]
        if word >= behind:
            if counts[where[index]] < 0:
                repeated += lengths[word + size] - lengths[word]
                behind = word + size
            else:
                counts[where[index]] = -counts[where[index]]
    return repeated


@njit
def _longer_candidates(positions, candidates, counts, where):  # type: ignore[no-untyped-def]
    """Leave the positions at which an n-gram of one more word may occur twice; how many.

    Both n-grams in it occur twice then, the one that begins here and the one that begins a word later.
    """
    left = 0
    for index in range(candidates - 1):
        follows = positions[index + 1] == positions[index] + 1
        if follows and abs(counts[where[index]]) > 1 and abs(counts[where[index + 1]]) > 1:
            positions[left] = positions[index]
            left += 1
    return left


@njit(nogil=True, cache=True)
def _repetition(  # type: ignore[no-untyped-def]
    text_words, rolling, lengths, text_lines, lines, line_hashes, keys, counts, positions, where, measures
):
    for text in range(measures.shape[0]):
        row = measures[text]
        first, last = text_lines[text], text_lines[text + 1]
        places = _room(last - first)
        keys[:places] = uint64(0)
        for line in range(first, last):
            place = _place(keys, places, line_hashes[line] | uint64(1))
            if keys[place] != uint64(0):
                row[LINE_AT] += 1
                row[LINE_CHARACTERS_AT] += lines[line, LENGTH]
            keys[place] = line_hashes[line] | uint64(1)
        if row[LINE_AT]:
            keys[:places] = uint64(0)
        hashed, length = uint64(0), 0
        for line in range(first, last):
            hashed = _key(hashed) * ROLL + line_hashes[line]
            length += lines[line, LENGTH]
            if line + 1 == last or lines[line + 1, OPENS]:
                row[PARAGRAPHS_AT] += 1
                if row[LINE_AT]:  # else no paragraph repeats either
                    key = _key(hashed)
                    place = _place(keys, places, key)
                    if keys[place] != uint64(0):
                        row[PARAGRAPH_AT] += 1
                        row[PARAGRAPH_CHARACTERS_AT] += length
                    keys[place] = key
                hashed, length = uint64(0), 0
        first, last = text_words[text], text_words[text + 1]
        candidates = max(last - first - 1, 0)
        for index in range(candidates):
            positions[index] = first + index
        for size in range(TOP_SIZES[0], DUPLICATE_SIZES[-1] + 1):
            if candidates < 2:
                break
            _count_grams(rolling, size, positions, candidates, keys, counts, where)
            if size <= TOP_SIZES[-1]:
                found = _top_characters(lengths, size, positions, candidates, counts, where)
            else:
                found = _duplicate_characters(lengths, size, positions, candidates, counts, where)
            row[GRAMS_AT + size - TOP_SIZES[0]] = found
            candidates = _longer_candidates(positions, candidates, counts, where)


@njit(nogil=True, cache=True)
def _lines(text_lines, lines, line_hashes, chosen, short, keys, measures):  # type: ignore[no-untyped-def]
    for text in range(measures.shape[0]):
        first, last = text_lines[text], text_lines[text + 1]
        places = _room(last - first)
        keys[:places] = uint64(0)
        left = terminal = brief = repeated = characters = words = 0
        for line in range(first, last):
            if not chosen[line]:
                continue
            left += 1
            terminal += lines[line, TERMINAL]
            brief += lines[line, LENGTH] <= short
            characters += lines[line, LENGTH]
            words += lines[line, LINE_WORDS]
            key = line_hashes[line] | uint64(1)
            place = _place(keys, places, key)
            if keys[place] == key:
                repeated += lines[line, LENGTH]
            keys[place] = key
        row = measures[text]
        row[0], row[1], row[2], row[3], row[4], row[5] = left, terminal, brief, repeated, characters, words
