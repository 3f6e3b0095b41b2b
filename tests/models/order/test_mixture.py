"""The mixture: every source in its share at all times, and every sample findable."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.order.mixture import SLOTS, Mixture, quotas, turns
from models.order.order import Order

seeds = st.integers(0, 2**63 - 1)
sizes = st.one_of(st.integers(1, 300), st.integers(1, 10**12))
weights = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=6)
few_slots = st.lists(st.integers(1, 60), min_size=1, max_size=9).map(tuple)


def mixtures(size: st.SearchStrategy[int] = sizes) -> st.SearchStrategy[Mixture]:
    """Mixtures of one to five sources."""
    shares = st.sampled_from([0.05, 1.0, 3.0])
    parts = st.lists(st.tuples(size, shares), min_size=1, max_size=5)
    return st.builds(
        lambda parts, seed: Mixture([size for size, _ in parts], [share for _, share in parts], seed), parts, seeds
    )


@given(weights=weights)
def test_every_source_has_its_share_of_the_slots(weights: list[float]) -> None:
    slots = quotas(weights)
    cycle = sum(slots)
    assert SLOTS % cycle == 0 and min(slots) >= 1
    exact = [Fraction(weight) / sum(map(Fraction, weights)) for weight in weights]
    if min(exact) >= Fraction(1, SLOTS):
        assert all(abs(Fraction(q, cycle) - share) < Fraction(1, SLOTS) for q, share in zip(slots, exact, strict=True))
    order = np.argsort(weights, kind="stable")
    assert (np.diff(np.array(slots)[order]) >= -1).all()


@pytest.mark.parametrize(
    ("weights", "slots"),
    [([0.3], (1,)), ([1, 1], (1, 1)), ([3, 1], (3, 1)), ([1, 1e-9], (SLOTS - 1, 1)), ([2, 1, 1e-9, 1e-12], None)],
)
def test_the_slots_of_simple_weights(weights: list[float], slots: tuple[int, ...] | None) -> None:
    assert quotas(weights) == (slots or (10_922 - 1, 5461, 1, 1))


@pytest.mark.parametrize("wrong", [[], [1.0, 0.0], [1.0, -1.0], [float("inf")], [float("nan")]])
def test_weights_that_are_no_shares_are_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="needs finite weights above zero"):
        quotas(wrong)


def test_more_sources_than_slots_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 16,384 sources, not 16,385"):
        quotas([1.0] * (SLOTS + 1))


@given(slots=few_slots)
def test_after_any_prefix_every_source_is_within_tijdemans_bound_of_its_share(slots: tuple[int, ...]) -> None:
    order, cycle, parts = turns(slots), sum(slots), max(1, 2 * len(slots) - 2)
    counts = np.cumsum(order[:, None] == np.arange(len(slots)), axis=0)
    assert tuple(counts[-1]) == slots
    due = np.arange(1, cycle + 1)[:, None] * np.array(slots)  # times the cycle
    assert (np.abs(counts * cycle - due) * parts <= cycle * (parts - 1)).all()


@given(mixture=mixtures(), start=st.integers(0, 10**13), count=st.integers(1, 3000))
@settings(max_examples=40)
def test_any_stretch_of_training_is_mixed_by_the_weights(mixture: Mixture, start: int, count: int) -> None:
    sources, _ = mixture.items(start, count)
    found = np.bincount(sources, minlength=len(mixture.slots))
    assert (np.abs(found - count * np.array(mixture.slots) / mixture.cycle) < 2).all()


@given(mixture=mixtures(), start=st.integers(0, 10**13), count=st.integers(1, 60))
def test_the_inverse_finds_the_position_of_every_sample(mixture: Mixture, start: int, count: int) -> None:
    sources, samples = mixture.items(start, count)
    for place, (source, sample) in enumerate(zip(sources.tolist(), samples.tolist(), strict=True)):
        rank = (start + place) // mixture.cycle * mixture.slots[source] + int(
            np.count_nonzero(turns(mixture.slots)[: (start + place) % mixture.cycle] == source)
        )
        assert mixture.position(source, sample, rank // mixture.orders[source].n) == start + place


@given(mixture=mixtures(), data=st.data())
def test_position_answers_when_a_sample_is_seen(mixture: Mixture, data: st.DataObject) -> None:
    source = data.draw(st.integers(0, len(mixture.slots) - 1))
    sample, epoch = data.draw(st.integers(0, mixture.orders[source].n - 1)), data.draw(st.integers(0, 1000))
    position = mixture.position(source, sample, epoch)
    assert [part.tolist() for part in mixture.items(position, 1)] == [[source], [sample]]


@given(mixture=mixtures(st.integers(1, 40)), stop=st.integers(0, 400))
@settings(max_examples=40)
def test_positions_are_all_places_where_a_sample_stands(mixture: Mixture, stop: int) -> None:
    sources, samples = mixture.items(0, stop)
    for source, order in enumerate(mixture.orders):
        for sample in range(min(order.n, 5)):
            expected = np.flatnonzero((sources == source) & (samples == sample)).tolist()
            assert mixture.positions(source, sample, stop) == expected


@given(mixture=mixtures(), epoch=st.integers(0, 1000))
@settings(max_examples=40)
def test_a_source_repeats_nothing_within_its_own_epoch(mixture: Mixture, epoch: int) -> None:
    for source, order in enumerate(mixture.orders):
        first = mixture.position(source, int(order.items(epoch * order.n, 1)[0]), epoch)
        sources, samples = mixture.items(first, 400)
        mine = samples[sources == source][: order.n]
        assert len(np.unique(mine)) == len(mine)


@given(mixture=mixtures(st.integers(1, 60)))
@settings(max_examples=40)
def test_an_epoch_of_a_source_holds_all_its_samples(mixture: Mixture) -> None:
    sources, samples = mixture.items(0, 400)
    for source, order in enumerate(mixture.orders):
        mine = samples[sources == source]
        for epoch in range(len(mine) // order.n):
            assert np.array_equal(np.sort(mine[epoch * order.n : (epoch + 1) * order.n]), np.arange(order.n))


@given(
    mixture=mixtures(),
    start=st.integers(0, 10**9),
    world=st.integers(1, 8),
    accumulate=st.integers(1, 4),
    each=st.integers(1, 3),
)
def test_the_mixture_is_the_same_however_it_is_cut_into_pieces_and_ranks(
    mixture: Mixture, start: int, world: int, accumulate: int, each: int
) -> None:
    whole = mixture.items(start, world * accumulate * each)
    cut = [mixture.items(start + number * each, each) for number in range(world * accumulate)]
    for together, parts in zip(whole, zip(*cut, strict=True), strict=True):
        assert np.array_equal(together, np.concatenate(parts))


@given(n=sizes, seed=seeds, start=st.integers(0, 10**12), weight=st.floats(1e-3, 1e3))
def test_one_source_is_simply_its_order(n: int, seed: int, start: int, weight: float) -> None:
    sources, samples = Mixture([n], [weight], seed).items(start, 20)
    assert not sources.any() and np.array_equal(samples, Order(n, seed).items(start, 20))


def test_sources_of_one_size_have_unlike_orders() -> None:
    one, other = (Mixture([1000, 1000], [1, 1], 3).orders[source].items(0, 1000) for source in range(2))
    assert np.mean(one == other) < 0.02


def test_a_mixture_is_fixed_for_all_time() -> None:
    sources, samples = Mixture([10, 1000, 10**12], [5, 2, 1], seed=7).items(10**9, 10)
    assert sources.tolist() == [0, 0, 1, 0, 2, 0, 0, 1, 0, 0]
    assert samples.tolist() == [0, 6, 340, 9, 65176800568, 3, 7, 53, 5, 2]


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (0, -1), (1 << 62, 1)])
def test_positions_out_of_range_are_refused(start: int, count: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        Mixture([5, 5], [1, 1], 0).items(start, count)
