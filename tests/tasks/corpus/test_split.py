"""The held-out split and the choice of labels are arithmetic: same answer everywhere, nested, balanced."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import UserError
from tasks.corpus.split import choose_labels, is_heldout

IDS = pl.Series("doc_id", [f"library/library.module_{i}.function" for i in range(20_000)])


def test_the_held_out_ids_are_the_same_in_every_version() -> None:
    held = is_heldout(pl.Series("doc_id", [f"numpy/numpy.f{i}" for i in range(12)]), 0.3)
    assert [i for i, value in enumerate(held) if value] == HELD_OUT_OF_TWELVE


HELD_OUT_OF_TWELVE = [0, 1, 2, 4, 5]


def test_about_the_asked_fraction_is_held_out() -> None:
    share = is_heldout(IDS, 0.1).mean()
    assert isinstance(share, float)
    assert abs(share - 0.1) < 4 * (0.1 * 0.9 / len(IDS)) ** 0.5


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 0), (1.0, len(IDS))])
def test_the_ends_of_the_range_hold_out_nothing_and_everything(fraction: float, expected: int) -> None:
    assert is_heldout(IDS, fraction).sum() == expected


@given(st.lists(st.text(max_size=20), max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_fraction_holds_out_a_superset(ids: list[str], one: float, other: float) -> None:
    series = pl.Series("doc_id", ids, dtype=pl.String)
    small, large = is_heldout(series, min(one, other)), is_heldout(series, max(one, other))
    assert (small & ~large).sum() == 0


@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.integers(0, 2**32 - 1), st.data())
def test_chosen_labels_are_distinct_balanced_and_nested(labels: list[int], seed: int, data: st.DataObject) -> None:
    array = np.array(labels, dtype=np.int32)
    budget = data.draw(st.integers(0, len(labels)))
    chosen = choose_labels(array, budget, seed)
    assert chosen.dtype == np.int64
    assert len(set(chosen.tolist())) == budget
    available = np.bincount(array, minlength=6)
    taken = np.bincount(array[chosen], minlength=6)
    most = taken.max(initial=0)
    assert all(count == have or count >= most - 1 for count, have in zip(taken, available, strict=True))
    assert choose_labels(array, len(labels), seed)[:budget].tolist() == chosen.tolist()


def test_another_seed_chooses_other_labels() -> None:
    labels = np.repeat(np.arange(10), 100)
    assert set(choose_labels(labels, 50, 0).tolist()) != set(choose_labels(labels, 50, 1).tolist())


def test_a_budget_above_the_pool_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match=r"budget of 5 labels .* pool has 3"):
        choose_labels(np.array([0, 1, 1]), 5, 0)
