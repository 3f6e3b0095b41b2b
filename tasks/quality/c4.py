"""C4's rules on lines: which lines of a text stay, and what is left of it.

Raffel et al. 2020 (arXiv 1910.10683), section 2.2, in the order of the code that made C4 (TensorFlow Datasets,
c4_utils) and of datatrove's C4QualityFilter, with two departures where those act on an accident: words are counted
after citations are cut, and a line is stripped again then, so "A sentence. [1]" ends in punctuation. Cost: 2 ns a byte,
and a second scan of the texts if one of them has a citation. Case is ignored for ASCII letters.
"""

import numpy as np
from numpy.typing import NDArray

from tasks.core.kernels import njit
from tasks.quality.scan import BEGIN, END, LINE_WORDS, LONGEST, SENTENCES, Scan

PLACEHOLDER = "lorem ipsum"
SCRIPT = "javascript"
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
NOTES = ("[edit]", "[citation needed]")
"""Cut together with brackets around nothing but ASCII digits, or nothing at all."""

FINDINGS = ("sentences", "placeholders", "curly_brackets")
"""Columns, for each text: sentences in the lines that stay; lines with "lorem ipsum", with "{", among those that no
rule before these in the order has removed."""


def _table(phrases: tuple[str, ...]) -> NDArray[np.uint8]:
    """A row a phrase, filled up with zeros."""
    longest = max(map(len, phrases)) + 1
    return np.array([list(phrase.encode().ljust(longest, b"\0")) for phrase in phrases], dtype=np.uint8)


_PHRASES = _table((PLACEHOLDER, SCRIPT, *POLICIES))
_NOTES = _table(NOTES)
_LOWER = np.array([ord(chr(byte).lower()) if byte < 0x80 else byte for byte in range(256)], dtype=np.uint8)


def _bits(column: int) -> NDArray[np.uint8]:
    """Per byte, in either case, which phrases have it in this column: bit i for row i."""
    rows = 1 << np.arange(len(_PHRASES))
    return np.array([rows[_PHRASES[:, column] == _LOWER[byte]].sum() for byte in range(256)], dtype=np.uint8)


_FIRST, _SECOND = _bits(0), _bits(1)  # two bytes in sequence are looked up before phrases are compared


def cut_citations(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The texts without "[12]", "[]", "[edit]" and "[citation needed]", as bytes and offsets like those given."""
    shorter = np.empty(offsets[-1] - offsets[0], dtype=np.uint8)
    bounds = np.zeros(len(offsets), dtype=np.int64)
    _cut(data, offsets, shorter, bounds)
    shorter = shorter[: bounds[-1]]
    for array in (shorter, bounds):
        array.setflags(write=False)  # the type that the kernels are compiled for
    return shorter, bounds


def choose_lines(
    data: NDArray[np.uint8],
    scan: Scan,
    punctuation: bool,
    least_words: int,
    longest_word: int,
    scripts: bool,
    policies: bool,
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which lines stay (shape [lines]), and the FINDINGS of each text (shape [texts, len(FINDINGS)]).

    Args:
        data: the bytes that were scanned.
        punctuation: a line must end in one of . ? ! " ' and not in three dots.
        least_words: fewest words of a line.
        longest_word: most characters of a word.
        scripts, policies: lines that name JavaScript, or a phrase of POLICIES, go.
    """
    chosen = np.zeros(len(scan.lines), dtype=np.bool_)
    findings = np.zeros((len(scan.counts), len(FINDINGS)), dtype=np.int64)
    _choose(
        data, scan.text_lines, scan.lines, punctuation, least_words, longest_word, scripts, policies, chosen, findings
    )
    return chosen, findings


def join_lines(
    data: NDArray[np.uint8], scan: Scan, chosen: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Texts of the chosen lines alone, a line feed between two, as bytes and offsets."""
    joined = np.empty(int((scan.lines[chosen, END] - scan.lines[chosen, BEGIN] + 1).sum()), dtype=np.uint8)
    bounds = np.zeros(len(scan.counts) + 1, dtype=np.int64)
    _join(data, scan.text_lines, scan.lines, chosen, joined, bounds)
    return joined[: bounds[-1]], bounds


@njit
def _matches(data, position, end, phrase):  # type: ignore[no-untyped-def]
    """The length of the phrase if it stands here in either case, else 0."""
    length = 0
    while phrase[length] != 0:
        if position + length >= end or _LOWER[data[position + length]] != phrase[length]:
            return 0
        length += 1
    return length


@njit(nogil=True, cache=True)
def _cut(data, offsets, shorter, bounds):  # type: ignore[no-untyped-def]
    written = 0
    for text in range(offsets.size - 1):
        position, end = offsets[text], offsets[text + 1]
        while position < end:
            if data[position] == 0x5B:  # [
                behind = position + 1
                while behind < end and 0x30 <= data[behind] <= 0x39:
                    behind += 1
                if behind < end and data[behind] == 0x5D:
                    position = behind + 1
                    continue
                length = 0
                for note in range(_NOTES.shape[0]):
                    length = max(length, _matches(data, position, end, _NOTES[note]))
                if length:
                    position += length
                    continue
            shorter[written] = data[position]
            written += 1
            position += 1
        bounds[text + 1] = written


@njit(nogil=True, cache=True)
def _choose(  # type: ignore[no-untyped-def]
    data, text_lines, lines, punctuation, least_words, longest_word, scripts, policies, chosen, findings
):
    for text in range(findings.shape[0]):
        for line in range(text_lines[text], text_lines[text + 1]):
            begin, end = lines[line, BEGIN], lines[line, END]
            if lines[line, LONGEST] > longest_word:
                continue
            if punctuation:
                last = data[end - 1]
                dots = 0
                while end - 1 - dots >= begin and data[end - 1 - dots] == 0x2E:
                    dots += 1
                if dots >= 3 or not (last == 0x2E or last == 0x3F or last == 0x21 or last == 0x22 or last == 0x27):
                    continue
            if lines[line, LINE_WORDS] < least_words:
                continue
            found, bracket = 0, data[begin] == 0x7B
            for position in range(begin + 1, end):
                byte = data[position]
                bracket |= byte == 0x7B  # {
                likely = _FIRST[data[position - 1]] & _SECOND[byte]
                if likely:
                    for phrase in range(_PHRASES.shape[0]):
                        if likely >> phrase & 1 and _matches(data, position - 1, end, _PHRASES[phrase]):
                            found |= 1 << phrase
            findings[text, 1] += found & 1
            if scripts and found & 2:
                continue
            findings[text, 2] += bracket
            if policies and found >> 2:
                continue
            chosen[line] = True
            findings[text, 0] += lines[line, SENTENCES]


@njit(nogil=True, cache=True)
def _join(data, text_lines, lines, chosen, joined, bounds):  # type: ignore[no-untyped-def]
    written = 0
    for text in range(bounds.size - 1):
        for line in range(text_lines[text], text_lines[text + 1]):
            if chosen[line]:
                if written > bounds[text]:
                    joined[written] = 0x0A
                    written += 1
                begin, end = lines[line, BEGIN], lines[line, END]
                joined[written : written + end - begin] = data[begin:end]
                written += end - begin
        bounds[text + 1] = written
