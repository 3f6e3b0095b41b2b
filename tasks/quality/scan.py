"""Reads texts once, byte by byte, into what all quality rules are made of: words, lines and counts of characters.

Rules written over Python strings split every text some ten times and hash each word as an object. Here one compiled
pass over the UTF-8 bytes leaves two small tables (a row a word, a row a line) and a row of counts a text; nothing
downstream looks at a character again. Cost: 8 ns a byte, compiled in 5 s once per machine.

White space, letters and terminal punctuation are the characters with the Unicode properties White_Space, L and
Sentence_Terminal. A *word* is a maximal run of characters that are not white space; each character from U+3001 to
U+D7FF (Chinese, Japanese, Korean; as in minhash.py) is a word by itself. A *line* is what stands between two line
feeds, without the white space at its ends; a line of nothing else is blank and does not count. A *paragraph* is a
maximal sequence of lines without a blank one between them. A *sentence* ends with a word that ends in terminal
punctuation (closing quotation marks and brackets after it aside), and at the latest with its line; it has at least one
character that is none of these marks. Two lines are the same if they have the same words in the same order. Lengths
are in characters (code points).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import uint64
from numpy.typing import NDArray

from tasks.core.kernels import njit
from tasks.core.murmur import mix

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")  # Rae et al. 2021, appendix A1.1

COUNTS = (
    "characters",
    "newlines",
    "words",
    "letters",
    "alphabetic",
    "stop_words",
    "hashes",
    "ellipses",
    "lines",
    "bullets",
    "cut",
)
"""Columns, for each text: characters; line feeds; words; characters in words; words with a letter; different stop words
(a word whose letters, in one run and in lower case, are one of STOP_WORDS); hash signs; ellipses ("..." or "…"); lines;
lines that start with a bullet (•, ‣, *, -); lines that end in an ellipsis."""
CHARACTERS, NEWLINES, WORDS, LETTERS, ALPHABETIC, STOPS, HASHES, ELLIPSES, LINES, BULLETS, CUT = range(len(COUNTS))

LINE_COLUMNS = 8
BEGIN, END, LENGTH, LINE_WORDS, LONGEST, SENTENCES, TERMINAL, OPENS = range(LINE_COLUMNS)
"""Columns, for each line: its bytes from BEGIN to END; characters; words; characters of its longest word; sentences;
whether it ends in terminal punctuation; whether it opens a paragraph."""

SPACE, LETTER, STOP, CLOSING = 1, 2, 4, 8
CODE_POINTS = 0x40000  # no letter, white space or terminal punctuation stands beyond
PACKED = 7  # bytes of a word that are hashed at a time, below a bit that says where they begin
ALONE_FROM, ALONE_TO = 0x3001, 0xD7FF

ROLL = np.uint64(0x9DDFEA08EB382D69)
"""The base of rolling hashes: that of words a, b, c is a ROLL^2 + b ROLL + c mod 2^64."""


@dataclass(frozen=True)
class Scan:
    """What `scan_texts` found in some texts; ranges of rows are those of the words and lines of each text."""

    counts: NDArray[np.int64]
    """Shape [texts, len(COUNTS)]."""
    text_words: NDArray[np.int64]
    """Shape [texts + 1], where each text's words begin."""
    rolling: NDArray[np.uint64]
    """Shape [words + 1], the rolling hash of all words before."""
    lengths: NDArray[np.int64]
    """Shape [words + 1], the characters in all words before."""
    text_lines: NDArray[np.int64]
    """Shape [texts + 1], where each text's lines begin."""
    lines: NDArray[np.int64]
    """Shape [lines, LINE_COLUMNS]."""
    line_hashes: NDArray[np.uint64]
    """Shape [lines], equal where two lines have the same words."""


def scan_texts(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> Scan:
    """Scan the texts of an Arrow string column.

    Args:
        data: uint8, read-only, the UTF-8 bytes of the column.
        offsets: int64, read-only, shape [texts + 1], where each text begins in `data`.
    """
    texts = len(offsets) - 1
    most = int(offsets[-1] - offsets[0] + 1) // 2 + texts  # a word takes a byte, and one to end it; or three
    most_lines = int(np.count_nonzero(data[offsets[0] : offsets[-1]] == ord("\n"))) + texts
    counts = np.zeros((texts, len(COUNTS)), dtype=np.int64)
    text_words = np.zeros(texts + 1, dtype=np.int64)
    rolling = np.empty(most + 1, dtype=np.uint64)
    lengths = np.empty(most + 1, dtype=np.int64)
    text_lines = np.zeros(texts + 1, dtype=np.int64)
    lines = np.empty((most_lines, LINE_COLUMNS), dtype=np.int64)
    line_hashes = np.empty(most_lines, dtype=np.uint64)
    words, found = _scan(
        data, offsets, character_classes(), counts, text_words, rolling, lengths, text_lines, lines, line_hashes
    )
    return Scan(
        counts, text_words, rolling[: words + 1], lengths[: words + 1], text_lines, lines[:found], line_hashes[:found]
    )


@lru_cache(1)
def character_classes() -> NDArray[np.uint8]:
    """Per code point the sum of what it is: SPACE, LETTER, STOP (terminal punctuation), CLOSING. Takes 0.1 s."""
    import polars as pl

    surrogates = range(0xD800, 0xE000)
    points = pl.Series([chr(point) if point not in surrogates else "" for point in range(CODE_POINTS)])
    classes = np.zeros(CODE_POINTS, dtype=np.uint8)
    for pattern, value in ((r"\s", SPACE), (r"\p{L}", LETTER), (r"\p{Sentence_Terminal}", STOP)):
        classes[points.str.contains(pattern).to_numpy()] |= np.uint8(value)
    for character in "\"')]}”’»」』）":  # noqa: RUF001
        classes[ord(character)] |= np.uint8(CLOSING)
    classes.setflags(write=False)
    return classes


def _packed(word: str) -> int:
    return int.from_bytes(word.encode(), "big")


_STOP_CODES = np.array([_packed(word) for word in STOP_WORDS], dtype=np.uint64)
_ASCII_LETTERS = np.array([byte < 0x80 and chr(byte).isalpha() for byte in range(256)])
LONGEST_STOP = max(map(len, STOP_WORDS))


@njit
def _decode(data, position):  # type: ignore[no-untyped-def]
    """The code point that begins at a byte of at least 0x80, and its number of bytes."""
    byte = np.int64(data[position])
    if byte < 0xE0:
        return (byte & 0x1F) << 6 | (data[position + 1] & 0x3F), 2
    if byte < 0xF0:
        return (byte & 0x0F) << 12 | (np.int64(data[position + 1]) & 0x3F) << 6 | (data[position + 2] & 0x3F), 3
    point = (byte & 0x07) << 18 | (np.int64(data[position + 1]) & 0x3F) << 12
    return point | (np.int64(data[position + 2]) & 0x3F) << 6 | (data[position + 3] & 0x3F), 4


@njit(nogil=True, cache=True)
def _scan(  # type: ignore[no-untyped-def]
    data, offsets, classes, counts, text_words, rolling, lengths, text_lines, lines, line_hashes
):
    """Fill the arrays of a `Scan`; how many words and lines there are."""
    word = line = 0
    rolling[0] = uint64(0)
    lengths[0] = 0
    for text in range(offsets.size - 1):
        position, end = offsets[text], offsets[text + 1]
        characters = newlines = alphabetic = hashes = ellipses = bullets = cut = dots = 0
        stops = uint64(0)
        first_line = line
        opens = True
        # of the word; `single`: it is one character that stands alone
        inside, single = False, False
        hashed, packed, packed_size = uint64(0), uint64(1), 0
        size, has_letter, core, core_size, core_ended, ends = 0, False, uint64(0), 0, False, False
        # of the line: `begin` < 0 before its first word
        begin, begin_character, stop, stop_character = np.int64(-1), 0, np.int64(0), 0
        line_word, longest, sentences, line_hash = word, 0, 0, uint64(0)
        terminal, ellipsis, unfinished = False, False, False  # unfinished: a sentence has begun
        while True:
            if inside and not single:  # most bytes are ASCII letters of a word that has begun
                first = position
                while position < end and _ASCII_LETTERS[data[position]]:
                    packed = packed << uint64(8) | uint64(data[position])
                    packed_size += 1
                    if packed_size == PACKED:
                        hashed, packed, packed_size = mix(hashed ^ packed), uint64(1), 0
                    core = core << uint64(8) | uint64(data[position] | 32)
                    position += 1
                if position > first:
                    count = position - first
                    size, characters, core_size = size + count, characters + count, core_size + count
                    if core_ended:
                        core_size = LONGEST_STOP + 1
                    has_letter, unfinished = True, True
                    dots, ellipsis, terminal, ends = 0, False, False, False
                    stop, stop_character = position, characters
            point, width = np.int64(10), 1
            if position < end:
                point = np.int64(data[position])
                if point >= 0x80:
                    point, width = _decode(data, position)
            kind = classes[point] if point < CODE_POINTS else 0
            alone = bool(ALONE_FROM <= point <= ALONE_TO)
            if inside and (kind & SPACE or alone or single):
                inside = False
                word += 1
                hashed = mix(hashed ^ packed)
                rolling[word] = rolling[word - 1] * ROLL + hashed
                lengths[word] = lengths[word - 1] + size
                line_hash = line_hash * ROLL + hashed
                longest = max(longest, size)
                alphabetic += has_letter
                if ends and unfinished:
                    sentences += 1
                    unfinished = False
                if core_size <= LONGEST_STOP:
                    for index in range(_STOP_CODES.size):
                        stops |= uint64(core == _STOP_CODES[index]) << uint64(index)
            if kind & SPACE:
                dots = 0
                if point == 10:
                    if begin >= 0:
                        lines[line, BEGIN], lines[line, END] = begin, stop
                        lines[line, LENGTH] = stop_character - begin_character
                        lines[line, LINE_WORDS], lines[line, LONGEST] = word - line_word, longest
                        lines[line, SENTENCES] = sentences + unfinished
                        lines[line, TERMINAL], lines[line, OPENS] = terminal, opens
                        line_hashes[line] = mix(line_hash)
                        cut += ellipsis
                        line += 1
                        opens = False
                    else:
                        opens = True
                    if position >= end:
                        break
                    newlines += 1
                    begin, line_word, longest, sentences, line_hash = np.int64(-1), word, 0, 0, uint64(0)
                    unfinished = False
                characters += 1
                position += width
                continue
            if not inside:
                inside, single = True, alone
                hashed, packed, packed_size = uint64(0), uint64(1), 0
                size, has_letter, core, core_size, core_ended, ends = 0, False, uint64(0), 0, False, False
                if begin < 0:
                    begin, begin_character = position, characters
                    bullets += point == 0x2022 or point == 0x2023 or point == 42 or point == 45
            for offset in range(width):
                packed = packed << uint64(8) | uint64(data[position + offset])
                packed_size += 1
                if packed_size == PACKED:
                    hashed, packed, packed_size = mix(hashed ^ packed), uint64(1), 0
            size += 1
            if kind & LETTER:
                has_letter = True
                if core_ended or point >= 0x80:
                    core_size = LONGEST_STOP + 1  # never a stop word
                core = core << uint64(8) | uint64(point | 32)
                core_size += 1
            elif core_size:
                core_ended = True
            hashes += point == 35
            dots = dots + 1 if point == 46 else 0
            ellipsis = point == 0x2026 or dots >= 3
            if point == 0x2026 or (dots and dots % 3 == 0):
                ellipses += 1
            terminal = bool(kind & STOP)
            ends = terminal or (ends and bool(kind & CLOSING))
            unfinished = unfinished or not kind & (STOP | CLOSING)
            characters += 1
            position += width
            stop, stop_character = position, characters
        row = counts[text]
        row[CHARACTERS], row[NEWLINES], row[WORDS] = characters, newlines, word - text_words[text]
        row[LETTERS] = lengths[word] - lengths[text_words[text]]
        row[ALPHABETIC], row[HASHES], row[ELLIPSES] = alphabetic, hashes, ellipses
        for index in range(_STOP_CODES.size):
            row[STOPS] += (stops >> uint64(index)) & uint64(1)
        row[LINES], row[BULLETS], row[CUT] = line - first_line, bullets, cut
        text_words[text + 1], text_lines[text + 1] = word, line
    return word, line
