"""The n-gram kernel finds what a plain search finds, whatever the texts are made of."""

from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from tasks.similarity.ngrams import Table, find_ngrams, hash_ngrams, make_table

TEXTS = st.lists(
    st.one_of(
        st.lists(st.sampled_from(["a", "B", "ab", "c_1", "é", "中", "文", "—", "…", "\u00a0"]), max_size=30).map(
            " ".join
        ),
        st.text(st.sampled_from("aB1_ \n.,-ä\u00a0\u00a9\u00aa—“…\u203f\u2040中か\u3000한\ud7a3\ufb01😀"), max_size=60),
    ),
    max_size=5,
)


def words_of(text: str) -> list[str]:
    """The word definition, spelled out."""
    words, word = [], ""
    for char in "".join(chr(ord(char) + 32) if "A" <= char <= "Z" else char for char in text) + " ":
        alone = "\u3000" <= char <= "\ud7ff"
        inside = char.isalnum() or char == "_" if char.isascii() else not _is_punctuation(char)
        if alone or not inside:
            words += [word] if word else []
            words += [char] if alone else []
            word = ""
        else:
            word += char
    return words


def _is_punctuation(char: str) -> bool:
    return "\u0080" <= char <= "\u00a9" or "\u2000" <= char <= "\u203f"


def ngrams_of(words: list[str], width: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + width]) for start in range(len(words) - width + 1)]


def buffers(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    column = pa.array(texts, pa.large_string())
    return np.frombuffer(column.buffers()[2] or b"", np.uint8), np.frombuffer(column.buffers()[1], np.int64)


def table_of(texts: list[str], width: int, shortest: int) -> tuple[Table, list[tuple[str, ...]]]:
    """The table of the texts' n-grams, and those n-grams as words in the order of their numbers."""
    grams: list[tuple[str, ...]] = []
    for words in map(words_of, texts):
        grams += [tuple(words)] if shortest <= len(words) < width else ngrams_of(words, width)
    _, hashes, widths = hash_ngrams(*buffers(texts), width, shortest)
    assert widths.tolist() == [len(gram) for gram in grams]
    distinct, first = np.unique(hashes, return_index=True)
    assert len(distinct) == len(set(grams))
    return make_table(distinct, widths), [grams[place] for place in first]


@given(TEXTS, TEXTS, st.integers(1, 6), st.integers(1, 6))
def test_exactly_the_shared_ngrams_are_found_where_they_stand(
    collection: list[str], texts: list[str], width: int, shortest: int
) -> None:
    table, grams = table_of(collection, width, min(shortest, width))
    if not grams:
        return
    data, offsets = buffers(texts)
    found = find_ngrams(data, offsets, table.slots, table.numbers, table.marks, table.widths)
    expected = [
        (index, gram)
        for index, words in enumerate(map(words_of, texts))
        for end in range(1, len(words) + 1)
        for size in table.widths.tolist()
        if size <= end and (gram := tuple(words[end - size : end])) in set(grams)
    ]
    assert [(text, grams[number]) for text, number, _, _ in found.tolist()] == expected
    for _, number, begin, end in found.tolist():
        assert tuple(words_of(bytes(data[begin:end]).decode())) == grams[number]


def test_more_hits_than_the_first_buffers_hold_are_all_found(tmp_path: Path) -> None:
    text = " ".join(f"w{index}" for index in range(5000))
    table, grams = table_of([text], 13, 8)
    table.save(tmp_path)
    table = Table.load(tmp_path)
    data, offsets = buffers(["", text.upper(), "w1 w2", text])
    found = find_ngrams(data, offsets, table.slots, table.numbers, table.marks, table.widths)
    assert len(grams) == 4988
    assert found[:, 0].tolist() == [1] * 4988 + [3] * 4988
    assert [grams[number][0] for number in found[:4988, 1]] == [f"w{index}" for index in range(4988)]
