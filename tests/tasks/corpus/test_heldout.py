"""The held-out split is arithmetic: the same answer everywhere, and a larger one contains a smaller."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.corpus.heldout import is_heldout

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
