"""The learning rate is a function of the step, and only matrices decay."""

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.optim import adamw, learning_rate
from models.spec import Optimisation
from models.transformer import fresh
from tests.models.shards import TINY


def test_the_rate_rises_stays_and_falls() -> None:
    settings = Optimisation(learning_rate=2.0, warmup_steps=4, cooldown_steps=10)
    rates = [learning_rate(step, 30, settings) for step in range(30)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert set(rates[3:21]) == {2.0}
    assert rates[21:] == pytest.approx([2 * (1 - sqrt(i / 10)) for i in range(1, 10)])


@given(steps=st.integers(1, 200), warmup=st.integers(0, 200), cooldown=st.integers(0, 200), peak=st.floats(1e-6, 10))
def test_the_rate_is_always_between_zero_and_its_peak(steps: int, warmup: int, cooldown: int, peak: float) -> None:
    settings = Optimisation(learning_rate=peak, warmup_steps=warmup, cooldown_steps=cooldown)
    assert all(0 < learning_rate(step, steps, settings) <= peak for step in range(steps))


def test_norms_and_biases_do_not_decay() -> None:
    model = fresh(TINY.model_copy(update={"classes": 3}), 0)
    settings = Optimisation(learning_rate=1.0, warmup_steps=0, cooldown_steps=0, weight_decay=0.3)
    decay = {
        id(parameter): group["weight_decay"]
        for group in adamw(model.named_parameters(), settings).param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.0 if "norm" in name or name.endswith("bias") else 0.3), name
