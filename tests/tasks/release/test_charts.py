"""Axes and lines of the report's charts."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.release.charts import Axis, line, losses_of, smooth
from tests.night import losses


def test_ticks_are_round_and_cover_the_values() -> None:
    axis = Axis.over([0.13, 4.021], 100, 700, from_zero=True)
    assert axis.ticks == [0, 1, 2, 3, 4, 5]
    assert (axis.at(0), axis.at(5), axis.at(2.5)) == (100, 700, 400)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20), st.booleans())
def test_every_value_lies_between_the_ends_of_its_axis(values: list[float], from_zero: bool) -> None:
    axis = Axis.over(values, 0, 500, from_zero=from_zero)
    assert 1 <= len(axis.ticks) <= 13
    for value in values:
        assert -0.2 <= axis.at(value) <= 500.2


def test_an_axis_of_one_value_has_a_length() -> None:
    axis = Axis.over([3.0], 0, 100)
    assert axis.low <= 3.0 <= axis.high
    assert math.isfinite(axis.at(3.0))


def test_what_is_not_a_number_has_no_point() -> None:
    across, up = Axis(0, 4, 0, 40), Axis(0, 10, 100, 0)
    x, y = np.arange(4.0), np.array([0.0, np.nan, 5.0, np.inf])
    assert line(x, y, across, up) == "0.0,100.0 20.0,50.0"


def test_a_long_line_is_averaged_to_as_many_points_as_the_eye_can_use() -> None:
    x = np.arange(10_000.0)
    points = line(x, np.ones(10_000), Axis(0, 9_999, 0, 900), Axis(0, 1, 100, 0), most_points=500).split()
    assert len(points) == 500
    assert points[0] == "0.9,0.0"


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=60), st.integers(1, 30))
def test_smoothing_keeps_length_and_range(values: list[float], window: int) -> None:
    smoothed = smooth(np.array(values), window)
    assert len(smoothed) == len(values)
    assert min(values) - 1e-6 <= smoothed.min() <= smoothed.max() <= max(values) + 1e-6


def test_smoothing_is_the_mean_over_a_centred_window() -> None:
    assert smooth(np.array([0.0, 3.0, 6.0, 0.0]), 3) == pytest.approx([0, 3, 3, 0])


def test_a_training_of_one_step_and_one_that_diverged_have_a_curve() -> None:
    one = losses_of(losses(1))
    assert (one.last_step, one.window, len(one.raw.split())) == (1, 1, 1)
    diverged = losses(50).with_columns(loss=pl.when(pl.col("step") > 40).then(float("nan")).otherwise(pl.col("loss")))
    assert 0 < len(losses_of(diverged).raw.split()) <= 40
