"""The choice of labels is arithmetic: the same answer everywhere, nested, balanced."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import UserError
from tasks.corpus.labels import choose_labels


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
