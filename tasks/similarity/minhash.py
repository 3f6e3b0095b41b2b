"""MinHash in one pass over the bytes of texts: words, shingles and all permutations, with no string ever built.

Datasketch's and datatrove's signatures cost one hash per shingle and permutation over tokenised Python strings. Here a
shingle is a rolling combination of word hashes, and eight shingles meet a permutation at a time, so that LLVM keeps
the minimum in a vector register: 20 ns a shingle for 112 permutations, of 80 ns a word in all (90 MB of text a second
on one core), compiled in 5 s once per machine. All arithmetic is on unsigned integers, so results are the same on every
processor.

A word is a run of letters, digits, underscores and non-ASCII characters, with ASCII letters in lower case; each
character of the scripts written without spaces around U+3000 to U+D7FF (Chinese, Japanese, Korean) is one. A shingle
is `width` words in sequence; a text with fewer words is one shingle, a text without words has none.

Who is compared and how alike they are is asked of two different summaries. Bands of MinHash values find the pairs;
each value serves in three groupings, so 14 bands of 8 give 42 keys and find a pair of Jaccard similarity 0.8 with
probability 0.997 instead of 0.924, from the same 112 values. How alike a pair is, is read off a sketch of one
permutation and 512 bins (Li, Owen and Zhang 2012, "One Permutation Hashing"), 4 bits a bin (Li and Koenig 2010, "b-Bit
Minwise Hashing"): 256 bytes a text, standard error 0.019 at 0.8 where the 112 values (448 bytes) have 0.038, and nearly
none for texts of under 200 words, most of whose shingles have a bin of their own.
"""

import numpy as np
from numba import int64, uint8, uint32, uint64
from numpy.typing import NDArray

from tasks.core.kernels import njit
from tasks.core.murmur import mix

Signatures = NDArray[np.uint32]

BLOCK = 8  # shingles that meet one permutation together
BUFFER = 64 * BLOCK
NOTHING = 2**32 - 1
"""The minimum over no shingle."""
EMPTY = np.uint64(2**64 - 1)

FNV_OFFSET, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
ROLL = np.uint64(0x9DDFEA08EB382D69)
CONTENT = np.uint64(0xD6E8FEB86659FD93)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)

GROUPINGS = 3
"""Bands that each MinHash value serves in."""
BINS = 512
SKETCH_WORDS = BINS // 16
"""uint64 in a sketch: 16 bins of 4 bits in each."""
VALUES = 15
"""Values that a bin can have: 1 to 15; 0 is a bin that no shingle fell into."""


def _splitmix64(count: int) -> NDArray[np.uint64]:
    """`count` fixed pseudo-random numbers (Steele et al. 2014): permutations outlive any library's generator."""
    mask = 2**64 - 1
    numbers = []
    for index in range(1, count + 1):
        mixed = index * 0x9E3779B97F4A7C15 & mask
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & mask
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & mask
        numbers.append(mixed ^ mixed >> 31)
    return np.array(numbers, dtype=np.uint64)


def _word_bytes() -> NDArray[np.uint8]:
    """Per byte: what it contributes to a word (letters in lower case), or 0 where it ends one."""
    table = np.zeros(256, dtype=np.uint8)
    for byte in range(256):
        if byte >= 0x80 or chr(byte).isalnum() or chr(byte) == "_":
            table[byte] = ord(chr(byte).lower()) if byte < 0x80 else byte
    return table


_WORD_BYTES = _word_bytes()


def permutations(count: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Odd multipliers and summands (uint32, shape [count]) of x -> a x + b mod 2^32, a bijection for each pair."""
    numbers = _splitmix64(count)
    return (numbers >> np.uint64(32)).astype(np.uint32) | np.uint32(1), numbers.astype(np.uint32)


@njit
def _lower_minima(shingles, filled, multipliers, summands, minima):  # type: ignore[no-untyped-def]
    """Take `filled` shingles into the minima; the last block is filled up with repetitions of the last shingle."""
    padded = (filled + BLOCK - 1) // BLOCK * BLOCK
    for index in range(filled, padded):
        shingles[index] = shingles[filled - 1]
    for start in range(0, padded, BLOCK):
        for index in range(minima.size):
            multiplier, summand, minimum = multipliers[index], summands[index], minima[index]
            for offset in range(BLOCK):
                minimum = min(minimum, uint32(uint32(multiplier * shingles[start + offset]) + summand))
            minima[index] = minimum


@njit
def _next_word(data, position, end):  # type: ignore[no-untyped-def]
    """Hash (FNV-1a, mixed) of the first word at or after `position`, and where it ends; position == end: none left."""
    hashed = FNV_OFFSET
    inside = False
    while position < end:
        byte = _WORD_BYTES[data[position]]
        size = 1
        if byte >= 0x80:
            if 0xE3 <= byte <= 0xED:  # a word by itself
                if inside:
                    break
                for offset in range(3):
                    hashed = uint64(hashed ^ uint64(data[position + offset])) * FNV_PRIME
                return mix(hashed), position + 3, True
            if byte == 0xE2 and data[position + 1] == 0x80:  # dashes, quotation marks, ellipsis
                size, byte = 3, uint8(0)
            elif byte == 0xC2 and data[position + 1] < 0xAA:  # no-break space and signs
                size, byte = 2, uint8(0)
        if byte != 0:
            hashed = uint64(hashed ^ uint64(byte)) * FNV_PRIME
            inside = True
        elif inside:
            break
        position += size
    return mix(hashed), position, inside


@njit
def _pack_sketch(least, sketch):  # type: ignore[no-untyped-def]
    """Four bits of each bin's least shingle; they are not those that decided which is least."""
    for word in range(SKETCH_WORDS):
        packed = uint64(0)
        for offset in range(16):
            shingle = least[word * 16 + offset]
            if shingle != EMPTY:
                value = ((shingle >> uint64(9)) & uint64(0xFFFF)) * uint64(VALUES) >> uint64(16)
                packed |= (value + uint64(1)) << uint64(4 * offset)
        sketch[word] = packed


@njit(nogil=True, cache=True)
def sign(  # type: ignore[no-untyped-def]
    data, offsets, first, last, width, multipliers, summands, signatures, sketches, contents
):
    """Sign the texts `first` to `last` (exclusive) of an Arrow string column; threads may share the column.

    Args:
        data: uint8, the UTF-8 bytes of all texts.
        offsets: int64, shape [texts + 1], where each begins in `data`.
        width: words in a shingle.
        multipliers, summands: uint32, shape [k], from `permutations`.
        signatures: uint32, shape [last - first, k], written: for each permutation the least image of a shingle.
        sketches: uint64, shape [texts, SKETCH_WORDS], written: what `estimate` compares.
        contents: uint64, shape [texts, 2], written: 128 bits over the sequence of words, zero for no words. Not a
            cryptographic hash: someone may build two texts that collide.
    """
    shingles = np.empty(BUFFER, dtype=np.uint32)
    recent = np.empty(width, dtype=np.uint64)
    least = np.empty(BINS, dtype=np.uint64)
    leaving = uint64(1)  # factor with which a word leaves the shingle
    for _ in range(width):
        leaving *= ROLL
    for text in range(first, last):
        minima = signatures[text - first]
        minima[:] = uint32(NOTHING)
        least[:] = EMPTY
        recent[:] = uint64(0)
        rolling, low, high = uint64(0), uint64(0), uint64(0)
        words, oldest, filled = 0, 0, 0
        position, end = offsets[text], offsets[text + 1]
        while True:
            word, position, found = _next_word(data, position, end)
            if not found:
                break
            words += 1
            low = low * CONTENT + word
            high = mix(high ^ word)
            rolling = rolling * ROLL + word - recent[oldest] * leaving
            recent[oldest] = word
            oldest = oldest + 1 if oldest + 1 < width else 0
            if words >= width:
                shingle = mix(rolling)
                least[shingle & uint64(BINS - 1)] = min(shingle, least[shingle & uint64(BINS - 1)])
                shingles[filled] = uint32(shingle >> uint64(32))
                filled += 1
                if filled == BUFFER:
                    _lower_minima(shingles, filled, multipliers, summands, minima)
                    filled = 0
        if 0 < words < width:
            shingle = mix(rolling)
            least[shingle & uint64(BINS - 1)] = shingle
            shingles[0] = uint32(shingle >> uint64(32))
            filled = 1
        if filled > 0:
            _lower_minima(shingles, filled, multipliers, summands, minima)
        _pack_sketch(least, sketches[text])
        contents[text, 0] = low
        contents[text, 1] = high


@njit(nogil=True, cache=True)
def band_keys(signatures, bands, rows, keys):  # type: ignore[no-untyped-def]
    """Hash the values of each band to one key; no two bands share keys, but for a collision of 64 bits.

    Args:
        signatures: uint32, shape [texts, bands x rows].
        keys: uint64, shape [texts, GROUPINGS x bands], written. Values are laid out in `rows` rows and `bands` columns:
            first the bands of neighbours in this order, then its columns, then its diagonals. Bands of two groupings
            have hardly a value in common, so that what one grouping misses another may find.
    """
    for text in range(signatures.shape[0]):
        values = signatures[text]
        for band in range(bands):
            near = mix(uint64(band + 1))
            column = mix(uint64(bands + band + 1))
            diagonal = mix(uint64(2 * bands + band + 1))
            for row in range(rows):
                near = mix(near ^ uint64(values[band * rows + row])) + GOLDEN
                column = mix(column ^ uint64(values[row * bands + band])) + GOLDEN
                diagonal = mix(diagonal ^ uint64(values[row * bands + (band + row) % bands])) + GOLDEN
            keys[text, band] = near
            keys[text, bands + band] = column
            keys[text, 2 * bands + band] = diagonal


@njit
def _filled(word):  # type: ignore[no-untyped-def]
    """The lowest bit of each 4 that are not all zero."""
    word |= word >> uint64(2)
    return (word | word >> uint64(1)) & uint64(0x1111111111111111)


@njit
def _by_byte(bits):  # type: ignore[no-untyped-def]
    return (bits & uint64(0x0101010101010101)) + (bits >> uint64(4) & uint64(0x0101010101010101))


@njit
def _sum_of_bytes(word):  # type: ignore[no-untyped-def]
    total = 0
    for byte in range(8):
        total += int64(word >> uint64(8 * byte) & uint64(0xFF))
    return total


@njit(nogil=True, cache=True)
def estimate(sketches, others, similarities):  # type: ignore[no-untyped-def]
    """Estimate the Jaccard similarity of each pair of texts with words.

    Of the bins that either text has filled, the share in which both have the same least shingle is an unbiased estimate
    (Li, Owen and Zhang 2012, section 3). Of 4 bits, 1 in VALUES is equal by chance where both bins are filled by
    different shingles; that is taken off (Li and Koenig 2010, section 2).

    Args:
        sketches, others: uint64, shape [pairs, SKETCH_WORDS].
        similarities: float64, shape [pairs], written: at most 1, and below 0 by chance.
    """
    for pair in range(sketches.shape[0]):
        equal, both, either = uint64(0), uint64(0), uint64(0)
        for word in range(SKETCH_WORDS):
            one, other = sketches[pair, word], others[pair, word]
            in_one, in_other = _filled(one), _filled(other)
            equal += _by_byte(in_one & ~_filled(one ^ other))
            both += _by_byte(in_one & in_other)
            either += _by_byte(in_one | in_other)
        same = VALUES * _sum_of_bytes(equal) - _sum_of_bytes(both)
        similarities[pair] = same / ((VALUES - 1) * _sum_of_bytes(either))
