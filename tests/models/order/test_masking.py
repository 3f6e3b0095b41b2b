"""Hidden tokens: exactly as many as asked, the same whoever hides them, and never the same twice."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.order.masking import Hidden, hidden_tokens, hide
from models.spec import MaskedToken

MASK = 1
VOCABULARY = 50


def hidden(
    positions: NDArray[np.uint64], length: int, settings: MaskedToken, seed: int = 5, ends: tuple[int, ...] = ()
) -> tuple[NDArray[np.int64], Hidden]:
    """True tokens, of which none is the mask, and what is hidden of them."""
    tokens = 2 + np.arange(len(positions) * length).reshape(-1, length) % (VOCABULARY - 2)
    ends_BT = np.zeros(tokens.shape, dtype=bool)
    ends_BT[:, list(ends)] = True
    return tokens, hide(tokens, ends_BT, positions, settings, VOCABULARY, seed)


@given(
    length=st.integers(1, 90),
    rate=st.floats(0.01, 0.99),
    start=st.integers(0, 2**61),
    seed=st.integers(0, 2**63 - 1),
    corruption=st.sampled_from(["bert", "mask"]),
)
def test_every_window_hides_exactly_its_share_and_nothing_else_changes(
    length: int, rate: float, start: int, seed: int, corruption: Literal["bert", "mask"]
) -> None:
    settings = MaskedToken(mask_token=MASK, rate=rate, corruption=corruption)
    tokens, found = hidden(start + np.arange(4, dtype=np.uint64), length, settings, seed)
    assert found.picked_BK.shape == (4, max(1, round(rate * length)))
    assert (np.diff(found.picked_BK, axis=1) > 0).all()
    assert np.array_equal(np.take_along_axis(tokens, found.picked_BK, axis=1), found.targets_BK)
    changed = found.tokens_BT != tokens
    np.put_along_axis(changed, found.picked_BK, False, axis=1)
    assert not changed.any()
    if corruption == "mask":
        assert (np.take_along_axis(found.tokens_BT, found.picked_BK, axis=1) == MASK).all()
    assert found.tokens_BT.min() >= 0 and found.tokens_BT.max() < VOCABULARY


@given(cut=st.integers(1, 29), length=st.integers(1, 40))
def test_a_window_hides_the_same_in_whatever_batch_it_is(cut: int, length: int) -> None:
    settings = MaskedToken(mask_token=MASK)
    positions = np.arange(10**9, 10**9 + 30, dtype=np.uint64)
    tokens = np.full((30, length), 7)
    ends = np.zeros(tokens.shape, dtype=bool)
    whole = hide(tokens, ends, positions, settings, VOCABULARY, 3)
    first = hide(tokens[:cut], ends[:cut], positions[:cut], settings, VOCABULARY, 3)
    second = hide(tokens[cut:], ends[cut:], positions[cut:], settings, VOCABULARY, 3)
    for together, one, other in zip(whole, first, second, strict=True):
        assert np.array_equal(together, np.concatenate((one, other)))


def test_positions_and_seeds_hide_unlike_tokens() -> None:
    settings = MaskedToken(mask_token=MASK)
    found = [hidden(np.arange(2, dtype=np.uint64), 1000, settings, seed)[1].picked_BK for seed in (0, 1)]
    rows = [set(row) for picked in found for row in picked.tolist()]
    for one in range(4):
        for other in range(one):
            assert 5 <= len(rows[one] & rows[other]) <= 45  # 22.5 by chance, standard deviation 4.1


def test_the_frequencies_are_berts() -> None:
    settings = MaskedToken(mask_token=MASK)
    _, found = hidden(np.arange(20_000, dtype=np.uint64), 64, settings)
    seen = np.take_along_axis(found.tokens_BT, found.picked_BK, axis=1)
    n = seen.size  # 200,000; the bounds are five standard deviations
    masked, kept = np.mean(seen == MASK), np.mean(seen == found.targets_BK)
    by_chance = 0.1 / VOCABULARY  # a random token is the mask, or what it replaces
    assert abs(masked - 0.8 - by_chance) < 5 * np.sqrt(0.16 / n)
    assert abs(kept - 0.1 - by_chance) < 5 * np.sqrt(0.09 / n)
    drawn = seen[(seen != MASK) & (seen != found.targets_BK)]
    assert drawn.size and set(np.unique(drawn)) == set(range(VOCABULARY)) - {MASK}
    counts = np.bincount(drawn, minlength=VOCABULARY)[2:]
    assert (np.abs(counts - counts.mean()) < 5 * np.sqrt(counts.mean())).all()
    places = np.bincount(found.picked_BK.ravel(), minlength=64)
    share = hidden_tokens(settings.rate, 64) / 64
    assert (np.abs(places - 20_000 * share) < 5 * np.sqrt(20_000 * share * (1 - share))).all()


def test_hidden_tokens_are_fixed_for_all_time() -> None:
    _, found = hidden(np.array([10**12], dtype=np.uint64), 20, MaskedToken(mask_token=MASK, rate=0.5))
    assert found.picked_BK.tolist() == [[0, 3, 5, 7, 9, 11, 12, 13, 14, 17]]
    assert found.tokens_BT[0, found.picked_BK[0]].tolist() == [1, 1, 1, 1, 1, 1, 18, 1, 1, 20]


def test_the_end_of_a_document_is_hidden_only_where_nothing_else_is_left() -> None:
    settings = MaskedToken(mask_token=MASK, rate=0.5)
    _, found = hidden(np.arange(500, dtype=np.uint64), 8, settings, ends=(1, 4, 6))
    assert not np.isin(found.picked_BK, (1, 4, 6)).any()
    _, found = hidden(np.arange(500, dtype=np.uint64), 8, settings, ends=(0, 1, 2, 3, 4))
    assert (np.isin((5, 6, 7), found.picked_BK[0])).all() and (found.picked_BK[:, 1:] == (5, 6, 7)).all()
    assert set(found.picked_BK[:, 0]) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(("rate", "length", "count"), [(0.15, 1024, 154), (0.15, 3, 1), (0.01, 1, 1), (0.99, 8, 8)])
def test_the_share_is_rounded_and_never_nothing(rate: float, length: int, count: int) -> None:
    assert hidden_tokens(rate, length) == count
