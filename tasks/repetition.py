"""How much of a text repeats itself: the measures of Gopher's repetition rules, and of FineWeb's on lines.

Rae et al. 2021 (arXiv 2112.11446), table A1. Works on the words and lines of a `Scan` alone: an n-gram is a difference
of two rolling hashes, and has been seen if its 64 bits stand in a table, so no string is built. A text in which no
n-gram occurs twice has no longer one that does: most texts never reach the sizes 6 to 10. Cost: 4 ns a byte of prose.
"""

import numpy as np
from numba import njit, uint64
from numpy.typing import NDArray

from tasks.rules import DUPLICATE_SIZES, TOP_SIZES
from tasks.scan import LENGTH, LINE_WORDS, OPENS, ROLL, TERMINAL, Scan

REPETITIONS = (
    "repeated_lines",
    "repeated_line_characters",
    "paragraphs",
    "repeated_paragraphs",
    "repeated_paragraph_characters",
    *(f"top_{size}" for size in TOP_SIZES),
    *(f"duplicate_{size}" for size in DUPLICATE_SIZES),
)
"""Of each text: lines that repeat an earlier line of it, and their characters; paragraphs, those that repeat an earlier
one (line by line), and the characters of their lines; for each size of n-grams the characters in all occurrences of the
most frequent one, its words joined by spaces, the longest if several are (0 if none occurs twice); for each size the
characters in words of n-grams seen before, reading from the start and going on behind an n-gram that was."""
LINE_AT, LINE_CHARACTERS_AT, PARAGRAPHS_AT, PARAGRAPH_AT, PARAGRAPH_CHARACTERS_AT, GRAMS_AT = range(6)

REMAINS = ("left_lines", "left_terminal", "left_short", "left_repeated", "left_characters", "left_words")
"""Of each text's chosen lines: how many; those that end in terminal punctuation; short ones; characters in those that
repeat an earlier one; characters; words."""


def measure_repetition(scan: Scan, wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The REPETITIONS of each scanned text, shape [texts, len(REPETITIONS)].

    Args:
        wanted: for each size of n-grams, TOP_SIZES and then DUPLICATE_SIZES, whether to measure it.
    """
    texts = len(scan.counts)
    measures = np.zeros((texts, len(REPETITIONS)), dtype=np.int64)
    keys, counts = _tables(scan.text_words, scan.text_lines)
    sizes = np.array(TOP_SIZES + DUPLICATE_SIZES, dtype=np.int64)
    _repetition(
        scan.text_words,
        scan.rolling,
        scan.lengths,
        scan.text_lines,
        scan.lines,
        scan.line_hashes,
        sizes,
        wanted,
        keys,
        counts,
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
def _mix(value):  # type: ignore[no-untyped-def]
    """MurmurHash3's finaliser, but never 0, which marks an empty place."""
    value = uint64(value ^ (value >> uint64(33))) * uint64(0xFF51AFD7ED558CCD)
    value = uint64(value ^ (value >> uint64(33))) * uint64(0xC4CEB9FE1A85EC53)
    return uint64(value ^ (value >> uint64(33))) | uint64(1)


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
def _top_characters(rolling, lengths, first, last, size, keys, counts):  # type: ignore[no-untyped-def]
    """Characters in all occurrences of the most frequent n-gram of a text; 0 if none occurs twice."""
    places = _room(last - first)
    keys[:places] = uint64(0)
    leaving = uint64(1)
    for _ in range(size):
        leaving *= ROLL
    best, longest = 1, 0
    for word in range(first, last - size + 1):
        place = _place(keys, places, _mix(rolling[word + size] - rolling[word] * leaving))
        if keys[place] == uint64(0):
            keys[place] = _mix(rolling[word + size] - rolling[word] * leaving)
            counts[place] = 1
            continue
        counts[place] += 1
        if counts[place] >= best:
            length = lengths[word + size] - lengths[word] + size - 1
            longest = max(longest, length) if counts[place] == best else length
            best = counts[place]
    return best * longest


@njit
def _duplicate_characters(rolling, lengths, first, last, size, keys):  # type: ignore[no-untyped-def]
    """Characters in words of n-grams seen before; what follows one that was begins behind it."""
    places = _room(last - first)
    keys[:places] = uint64(0)
    leaving = uint64(1)
    for _ in range(size):
        leaving *= ROLL
    repeated, word = 0, first
    while word <= last - size:
        key = _mix(rolling[word + size] - rolling[word] * leaving)
        place = _place(keys, places, key)
        if keys[place] == key:
            repeated += lengths[word + size] - lengths[word]
            word += size
        else:
            keys[place] = key
            word += 1
    return repeated


@njit(nogil=True, cache=True)
def _repetition(  # type: ignore[no-untyped-def]
    text_words, rolling, lengths, text_lines, lines, line_hashes, sizes, wanted, keys, counts, measures
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
            hashed = _mix(hashed) * ROLL + line_hashes[line]
            length += lines[line, LENGTH]
            if line + 1 == last or lines[line + 1, OPENS]:
                row[PARAGRAPHS_AT] += 1
                if row[LINE_AT]:  # else no paragraph repeats either
                    key = _mix(hashed)
                    place = _place(keys, places, key)
                    if keys[place] != uint64(0):
                        row[PARAGRAPH_AT] += 1
                        row[PARAGRAPH_CHARACTERS_AT] += length
                    keys[place] = key
                hashed, length = uint64(0), 0
        first, last = text_words[text], text_words[text + 1]
        for index in range(sizes.size):
            if wanted[index]:
                if index < len(TOP_SIZES):
                    found = _top_characters(rolling, lengths, first, last, sizes[index], keys, counts)
                else:
                    found = _duplicate_characters(rolling, lengths, first, last, sizes[index], keys)
                row[GRAMS_AT + index] = found
                if found == 0:  # then no longer n-gram occurs twice
                    break


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
