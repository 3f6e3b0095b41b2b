"""The index: entries sorted by key, merged by level, found again."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.similarity.band_index import (
    DocumentFile,
    SortedRun,
    find_entries,
    key_ranges,
    part_path,
    read_entries,
    sort_entries,
    swallowed_runs,
    take_rows,
    write_entries,
)

KEYS = st.lists(st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 7, 8, 2**63, 2**64 - 1])), max_size=300).map(
    lambda keys: np.array(keys, dtype=np.uint64)
)


@given(KEYS, st.integers(1, 90))
def test_sorting_keeps_the_order_within_a_key(keys: np.ndarray, copies: int) -> None:
    keys = np.repeat(keys, copies)
    by_key, positions = sort_entries(keys, np.arange(len(keys)), 0, 2**64 - 1)
    order = np.argsort(keys, kind="stable")
    assert np.array_equal(positions, order)
    assert np.array_equal(by_key, keys[order])


def test_ranges_divide_a_part_without_a_gap() -> None:
    for part, bits, entries in ((0, 0, 1), (0, 0, 10**7), (3, 2, 10**6), (255, 8, 10**8)):
        ranges = list(key_ranges(part, bits, entries))
        assert ranges[0][0] == part << (64 - bits)
        assert ranges[-1][1] == (part + 1 << (64 - bits)) - 1
        assert all(after[0] == before[1] + 1 for before, after in itertools.pairwise(ranges))


def test_entries_of_a_batch_are_read_by_range(tmp_path: Path) -> None:
    keys = np.random.default_rng(0).integers(0, 2**64 - 1, (500, 3), dtype=np.uint64)
    chosen = np.flatnonzero(np.arange(500) % 5)
    write_entries(tmp_path, "bands", keys, chosen)
    file = DocumentFile(tmp_path, 0, 1000, 500)
    for bits in (0, 3, 9):
        seen = []
        for number in range(1 << bits):
            first = number << (64 - bits)
            part, positions = read_entries(file, "bands", first, first + (1 << (64 - bits)) - 1)
            assert ((part >> np.uint64(64 - bits)) == number).all() or bits == 0
            seen += list(zip(part.tolist(), positions.tolist(), strict=True))
        assert sorted(seen) == sorted((int(key), int(row) + 1000) for row in chosen for key in keys[row])


@given(KEYS, KEYS)
def test_a_run_gives_all_entries_of_the_keys_asked_for(
    tmp_path_factory: pytest.TempPathFactory, held: np.ndarray, asked: np.ndarray
) -> None:
    folder = tmp_path_factory.mktemp("run")
    run = SortedRun(night=0, start=50, entries=len(held), bits=2)
    held = np.sort(held)
    for part in range(4):
        inside = (held >> np.uint64(62)) == part
        held[inside].tofile(part_path(folder, "bands", part, "keys"))
        np.flatnonzero(inside).astype(np.uint32).tofile(part_path(folder, "bands", part, "positions"))
    keys, positions = find_entries(folder, "bands", run, np.unique(asked), 0, 2**64 - 1)
    expected = np.flatnonzero(np.isin(held, asked))
    assert keys.tolist() == held[expected].tolist()
    assert positions.tolist() == (expected + 50).tolist()


@given(st.lists(st.integers(1, 10_000), max_size=60))
def test_few_runs_stand_and_entries_are_seldom_rewritten(sizes: list[int]) -> None:
    live: list[SortedRun] = []
    rewritten = 0
    for number, size in enumerate(sizes):
        swallowed = swallowed_runs(live, size)
        merged = sum(run.entries for run in live[len(live) - swallowed :])
        rewritten += merged
        live = [*live[: len(live) - swallowed], SortedRun(night=number, start=0, entries=size + merged, bits=0)]
    levels = max(sum(sizes), 1).bit_length() // 2 + 1
    assert sum(run.entries for run in live) == sum(sizes)
    assert len(live) <= 3 * levels
    assert rewritten <= levels * sum(sizes)


def test_rows_are_taken_from_the_file_that_holds_them(tmp_path: Path) -> None:
    files = [DocumentFile(tmp_path, number, start, count) for number, start, count in ((0, 0, 3), (1, 3, 0), (2, 3, 2))]
    for file in files:
        np.arange(file.start, file.start + file.count).repeat(2).tofile(file.path("rows"))
    taken = take_rows(files, "rows", (np.int64, (2,)), np.array([4, 0, 3, 3, 2]))
    assert taken.tolist() == [[4, 4], [0, 0], [3, 3], [3, 3], [2, 2]]
