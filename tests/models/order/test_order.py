"""The order of samples: a bijection with an inverse, in constant memory, whatever the size."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.order.order import Order, Permutation

seeds = st.integers(0, 2**64 - 1)
sizes = st.one_of(st.integers(1, 300), st.integers(1, 10**12))


@given(n=st.integers(1, 3000), seed=seeds, epoch=st.integers(0, 10**6))
def test_a_permutation_takes_every_item_exactly_once(n: int, seed: int, epoch: int) -> None:
    items = Permutation(n, seed, epoch).forward(np.arange(n, dtype=np.uint64))
    assert np.array_equal(np.sort(items), np.arange(n))


@given(n=sizes, seed=seeds, epoch=st.integers(0, 10**6), data=st.data())
def test_the_inverse_finds_the_position_of_every_item(n: int, seed: int, epoch: int, data: st.DataObject) -> None:
    positions = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=50)), dtype=np.uint64)
    permutation = Permutation(n, seed, epoch)
    items = permutation.forward(positions)
    assert int(items.max()) < n
    assert np.array_equal(permutation.inverse(items), positions)
    assert np.array_equal(permutation.forward(permutation.inverse(positions)), positions)


@given(n=st.integers(10**6, 10**12), seed=seeds, start=st.integers(0, 10**12))
@settings(max_examples=30)
def test_no_item_repeats_within_an_epoch(n: int, seed: int, start: int) -> None:
    first = start // n * n
    items = Order(n, seed).items(first, min(n, 20_000))
    assert len(np.unique(items)) == len(items)


@given(n=st.integers(1, 500), seed=seeds, start=st.integers(0, 2000), counts=st.lists(st.integers(0, 90), max_size=8))
def test_the_order_is_the_same_however_it_is_cut_into_batches(n: int, seed: int, start: int, counts: list[int]) -> None:
    order = Order(n, seed)
    whole = order.items(start, sum(counts))
    ends = np.cumsum([0, *counts])
    cut = [order.items(start + int(end), count) for end, count in zip(ends, counts, strict=False)]
    assert np.array_equal(whole, np.concatenate([np.empty(0, np.uint64), *cut]))


@given(n=sizes, seed=seeds, epoch=st.integers(0, 1000), data=st.data())
def test_position_answers_when_an_item_is_seen(n: int, seed: int, epoch: int, data: st.DataObject) -> None:
    item = data.draw(st.integers(0, n - 1))
    order = Order(n, seed)
    position = order.position(item, epoch)
    assert position // n == epoch
    assert order.items(position, 1).tolist() == [item]


def test_epochs_and_seeds_give_unlike_orders() -> None:
    orders = [
        Permutation(1000, seed, epoch).forward(np.arange(1000, dtype=np.uint64)) for seed in (0, 1) for epoch in (0, 1)
    ]
    for one in range(4):
        for other in range(one):
            assert np.mean(orders[one] == orders[other]) < 0.02


def test_an_order_is_fixed_for_all_time() -> None:
    few = Permutation(10, seed=7, epoch=0).forward(np.arange(10, dtype=np.uint64))
    assert few.tolist() == [9, 1, 8, 3, 6, 7, 0, 5, 2, 4]
    many = Permutation(10**12, seed=7, epoch=3).forward(np.arange(3, dtype=np.uint64))
    assert many.tolist() == [116973690129, 752784570587, 197681575613]


def test_small_permutations_are_about_equally_likely() -> None:
    first_items = [int(Order(6, seed).items(0, 1)[0]) for seed in range(3000)]
    counts = np.bincount(first_items, minlength=6)
    assert counts.min() > 400 and counts.max() < 600


def test_neighbours_are_scattered_over_the_whole_corpus() -> None:
    n = 10**12
    items = Order(n, 3).items(10**15, 5000).astype(np.float64) / n
    assert abs(items.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(items[:-1], items[1:])[0, 1]) < 0.06
    assert np.histogram(items, bins=10, range=(0, 1))[0].min() > 400


def test_a_far_resume_needs_no_memory_of_what_was_read() -> None:
    order = Order(10**12, 3)
    tracemalloc.start()
    order.items(10**18, 64)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(("n", "seed", "epoch"), [(0, 0, 0), (2**63, 0, 0), (5, -1, 0), (5, 0, 2**64)])
def test_a_size_or_key_out_of_range_is_refused(n: int, seed: int, epoch: int) -> None:
    with pytest.raises(ValueError, match=r"must be|needs"):
        Permutation(n, seed, epoch)


def test_an_item_outside_the_range_is_refused() -> None:
    with pytest.raises(ValueError, match="outside"):
        Permutation(5, 0, 0).inverse(np.array([5], dtype=np.uint64))
