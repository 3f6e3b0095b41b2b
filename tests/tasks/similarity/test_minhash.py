"""MinHash: what the kernels compute is what their definitions say, and estimates are near the truth."""

from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.corpus.deduplicate import DeduplicateSettings, sign_texts
from tasks.similarity.minhash import (
    BINS,
    GROUPINGS,
    NOTHING,
    SKETCH_WORDS,
    VALUES,
    band_keys,
    estimate,
    permutations,
    sign,
)
from tests.tasks.similarity.near_texts import edited, jaccard, prose


def signatures_of(texts: list[str], width: int, count: int) -> np.ndarray:
    column = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, column)])
    data = np.frombuffer(b"".join(column) or b" ", dtype=np.uint8)
    signatures = np.empty((len(texts), count), dtype=np.uint32)
    sketches, contents = np.empty((len(texts), SKETCH_WORDS), np.uint64), np.empty((len(texts), 2), np.uint64)
    for array in (offsets, data):
        array.setflags(write=False)
    sign(data, offsets, 0, len(texts), width, *permutations(count), signatures, sketches, contents)
    return signatures


def sketches_of(texts: list[str], width: int = 5) -> np.ndarray:
    return sign_texts(pa.array(texts, pa.large_string()), DeduplicateSettings(shingle_words=width))[1]


def estimates(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    similarities = np.empty(len(one))
    estimate(one, other, similarities)
    return similarities


def unpacked(sketch: np.ndarray) -> list[int]:
    return [int(word) >> 4 * offset & 15 for word in sketch for offset in range(16)]


def reference_shingles(text: str, width: int) -> list[int]:
    """64-bit hashes of a text's shingles: the definition, spelled out in Python integers."""
    mask = 2**64 - 1

    def mix(value: int) -> int:
        value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & mask
        value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & mask
        return value ^ value >> 33

    def hash_word(word: str) -> int:
        value = 0xCBF29CE484222325
        for byte in word.encode():
            value = (value ^ byte) * 0x100000001B3 & mask
        return mix(value)

    def hash_shingle(words: list[int]) -> int:
        value = 0
        for word in words:
            value = (value * 0x9DDFEA08EB382D69 + word) & mask
        return mix(value)

    text = "".join(chr(ord(char) + 32) if "A" <= char <= "Z" else char for char in text)
    words, word = [], ""
    for char in text + " ":
        alone = "\u3000" <= char <= "\ud7ff"
        ascii_word = char.isascii() and (char.isalnum() or char == "_")
        other = not char.isascii() and not "\u0080" <= char <= "\u00a9" and not "\u2000" <= char <= "\u203f"
        if alone or not (ascii_word or other):
            words += [word] if word else []
            words += [char] if alone else []
            word = ""
        else:
            word += char
    hashes = [hash_word(word) for word in words]
    if not hashes:
        return []
    return [hash_shingle(hashes[start : start + width]) for start in range(max(1, len(hashes) - width + 1))]


def reference_signature(text: str, width: int, count: int) -> list[int]:
    shingles = [shingle >> 32 for shingle in reference_shingles(text, width)]
    return [
        min(((int(a) * shingle + int(b)) % 2**32 for shingle in shingles), default=NOTHING)
        for a, b in zip(*permutations(count), strict=True)
    ]


def reference_sketch(text: str, width: int) -> list[int]:
    """The values of all bins."""
    bins: dict[int, int] = {}
    for shingle in reference_shingles(text, width):
        bins[shingle % BINS] = min(shingle, bins.get(shingle % BINS, shingle))
    return [((bins[number] >> 9 & 0xFFFF) * VALUES >> 16) + 1 if number in bins else 0 for number in range(BINS)]


def reference_estimate(one: list[int], other: list[int]) -> Fraction:
    pairs = [pair for pair in zip(one, other, strict=True) if any(pair)]
    both = sum(all(pair) for pair in pairs)
    by_chance = Fraction(1, VALUES)
    equal = sum(first == second for first, second in pairs)
    return (equal - by_chance * both) / (1 - by_chance) / len(pairs)


TEXTS = st.text(
    st.one_of(
        st.sampled_from("ab C_9 \n.,-"),
        st.sampled_from("äß\u00a0\u00a9\u00aa\u2014\u201c\u2026\u203f\u2040中文かな\u3000한\ud7a3\ufb01😀"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=80,
)


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=5), st.integers(1, 6))
def test_signatures_and_sketches_are_what_their_definitions_say(texts: list[str], width: int) -> None:
    assert signatures_of(texts, width, 6).tolist() == [reference_signature(text, width, 6) for text in texts]
    assert [unpacked(sketch) for sketch in sketches_of(texts, width)] == [
        reference_sketch(text, width) for text in texts
    ]


def test_a_long_text_fills_the_buffer_of_shingles_many_times() -> None:
    text = " ".join(prose(1, words=5000))
    assert signatures_of([text], 5, 112)[0].tolist() == reference_signature(text, 5, 112)
    assert unpacked(sketches_of([text])[0]) == reference_sketch(text, 5)


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 60), st.sampled_from([5, 60, 400]))
def test_estimates_are_what_their_definition_says(seed: int, edits: int, words: int) -> None:
    base = prose(seed, words)
    other = edited(base, min(edits, words), seed)
    sketches = sketches_of([" ".join(base), " ".join(other)])
    expected = reference_estimate(*(unpacked(sketch) for sketch in sketches))
    assert estimates(sketches[:1], sketches[1:])[0] == pytest.approx(float(expected), abs=1e-12)
    assert estimates(sketches, sketches).tolist() == [1, 1]


@pytest.mark.parametrize(("words", "edits", "deviation"), [(2000, 50, 0.025), (3000, 200, 0.028), (100, 2, 0.015)])
def test_estimates_have_no_bias_and_a_small_error(words: int, edits: int, deviation: float) -> None:
    bases = [prose(seed, words) for seed in range(100)]
    others = [edited(base, edits, seed) for seed, base in enumerate(bases)]
    sketches = [sketches_of([" ".join(text) for text in texts]) for texts in (bases, others)]
    errors = estimates(*sketches) - [jaccard(*pair) for pair in zip(bases, others, strict=True)]
    assert errors.std() < deviation
    assert abs(errors.mean()) < 4 * deviation / 100**0.5


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6))
def test_texts_share_the_keys_of_bands_in_which_all_values_are_equal(bands: int, rows: int, seed: int) -> None:
    signatures = np.random.default_rng(seed).integers(0, 2, (2, bands * rows), dtype=np.uint32)
    keys = np.empty((2, GROUPINGS * bands), dtype=np.uint64)
    band_keys(signatures, bands, rows, keys)
    equal = signatures[0] == signatures[1]
    grid = equal.reshape(rows, bands)
    diagonals = [all(grid[row, (band + row) % bands] for row in range(rows)) for band in range(bands)]
    expected = [*equal.reshape(bands, rows).all(axis=1), *grid.all(axis=0), *diagonals]
    assert (keys[0] == keys[1]).tolist() == expected
    assert len(np.unique(keys)) == 2 * len(expected) - sum(expected)


@pytest.mark.parametrize(("similarity", "one", "all_three"), [(0.75, 0.772, 0.970), (0.8, 0.924, 0.997)])
def test_more_groupings_find_the_pairs_that_one_would_miss(similarity: float, one: float, all_three: float) -> None:
    equal = np.random.default_rng(0).random((4000, 112)) < similarity
    keys = np.empty((2, 4000, GROUPINGS * 14), dtype=np.uint64)
    for side in (0, 1):
        band_keys(np.where(equal, np.uint32(0), np.uint32(side)), 14, 8, keys[side])
    shared = keys[0] == keys[1]
    assert shared[:, :14].any(axis=1).mean() == pytest.approx(one, abs=0.02)
    assert shared.any(axis=1).mean() == pytest.approx(all_three, abs=0.008)


def test_a_sliced_column_is_signed_like_a_whole_one() -> None:
    whole = pa.array([" ".join(prose(index, 30)) for index in range(6)], pa.large_string())
    pairs = zip(
        sign_texts(whole, DeduplicateSettings()), sign_texts(whole.slice(2, 3), DeduplicateSettings()), strict=True
    )
    assert all(np.array_equal(all_rows[2:5], some) for all_rows, some in pairs)
