"""A spike is skipped and a noisy norm is not, a new level is learnt, and what was usual survives a resume bit for bit.

The courses are drawn or recorded, not trained: what a sound training's numbers look like is stated here, so that a
verdict is the same on every processor.
"""

import json
import random
from math import exp
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.learn.spike_guard import FEWEST, PATIENCE, WINDOW, SpikeGuard

Course = list[tuple[float, float]]


def usual(count: int, seed: int = 0, level: float = 3.0, log_spread: float = 0.2) -> Course:
    """Loss and gradient norm of steps without spikes; the norm's median is .37 for the loss 3."""
    draws = random.Random(seed)
    return [(draws.gauss(level, 0.1), draws.lognormvariate(level - 4.0, log_spread)) for _ in range(count)]


def falling(count: int, seed: int, log_spread: float) -> Course:
    """A small model's training: loss from 9 to 4 and norm from 3 to .5, steeply first, with noise of each batch."""
    draws = random.Random(seed)
    left = [exp(-step / 120) for step in range(count)]
    return [
        (4 + 5 * part + draws.gauss(0, 0.15), (0.5 + 2.5 * part) * draws.lognormvariate(0, log_spread)) for part in left
    ]


def heavy_tailed(count: int, seed: int) -> Course:
    """Norms whose logarithm has Laplace's distribution: a step in 1,500 is three times the median, or a third."""
    draws = random.Random(seed)
    return [
        (draws.gauss(3.0, 0.1), 0.5 * exp(0.15 * (draws.expovariate(1) - draws.expovariate(1)))) for _ in range(count)
    ]


def skipped(course: Course, guard: SpikeGuard | None = None) -> list[int]:
    guard = guard or SpikeGuard(6.0)
    return [number for number, step in enumerate(course) if guard.judge(*step)]


def watching(course: Course, deviations: float = 6.0) -> SpikeGuard:
    guard = SpikeGuard(deviations)
    assert skipped(course, guard) == []
    return guard


@pytest.mark.parametrize("log_spread", [0.1, 0.2, 0.3, 0.4])
def test_a_sound_training_is_never_skipped(log_spread: float) -> None:
    for seed in range(2):
        assert skipped(falling(150, seed, log_spread)) == []
        assert skipped(falling(2000, seed, log_spread)) == []


def test_nor_is_one_that_was_recorded() -> None:
    """Two trainings of the tiny model of tests/models/order/shards.py, whose norms have heavy tails: they
    come within a fiftieth of six median absolute deviations."""
    courses = json.loads(Path(__file__).with_name("sound_courses.json").read_bytes())
    assert [len(course) for course in courses] == [600, 520]
    assert [skipped(course) for course in courses] == [[], []]


def test_of_steps_with_heavy_tails_at_most_one_in_five_thousand_are_skipped() -> None:
    assert sum(len(skipped(heavy_tailed(2000, seed))) for seed in range(5)) <= 2


@pytest.mark.parametrize("log_spread", [0.05, 0.1, 0.2, 0.3])
def test_a_real_spike_is_skipped_however_noisy_the_course_is(log_spread: float) -> None:
    for seed in range(2):
        before = falling(600, seed, log_spread)
        for spike in [(before[-1][0], 20 * 0.5), (before[-1][0] + 3.0, 0.5)]:
            assert skipped([*before, spike]) == [600]


def test_both_of_a_pair_and_each_of_a_burst_are_skipped() -> None:
    spike = (9.0, 8.0)
    course = [*usual(WINDOW), spike, spike, *usual(5, 1), spike, *usual(20, 2), spike]
    assert skipped(course) == [WINDOW, WINDOW + 1, WINDOW + 7, WINDOW + 28]


def test_a_noisy_norm_is_no_spike() -> None:
    """As one sound step had it, 6.5 standard deviations of the plain norms above their mean."""
    norms = [0.5487 * exp(0.27 * z) for z in (-1.5, -1.0, -0.6, -0.3, 0.0, 0.0, 0.3, 0.6, 1.0, 1.5)]
    guard = watching([(4.0, norms[step % 10]) for step in range(WINDOW)])
    assert guard.judge(4.0, 1.547) is None


def test_the_warm_up_is_not_judged_and_what_it_saw_is_remembered() -> None:
    guard = SpikeGuard(6.0)
    course = [*usual(36), (5.0, 10.0), *usual(100, seed=1), (5.0, 10.0)]
    assert [guard.judge(*step, warming_up=True) for step in course] == [None] * len(course)
    assert guard.judge(5.0, 10.0) is not None


def test_a_loss_or_a_norm_that_stands_out_is_skipped_with_its_numbers() -> None:
    """The medians are 3 and .5, the deviations 1.4826 x .1 and 1.4826 ln 1.25, more than the standard deviations."""
    steps = [(2.9, 0.4), (3.0, 0.5), (3.1, 0.625)] * 30
    guard = watching(steps)
    assert guard.judge(3.0 + 6 * 0.148, 0.5) is None
    guard = watching(steps)
    assert guard.judge(3.0 + 7 * 0.14826, 0.5) == "loss 4.038 is 7.0 deviations above the median 3 of the last 90 steps"
    guard = watching(steps)
    assert guard.judge(3.0, 0.5 * 1.25 ** (6 * 1.48)) is None
    guard = watching(steps)
    assert (
        guard.judge(3.0, 0.5 * 1.25 ** (8 * 1.4826))
        == "gradient norm 7.053 is 8.0 deviations (in logarithms) above the median 0.5 of the last 90 steps"
    )


def test_of_steps_that_are_all_alike_a_small_change_is_no_spike() -> None:
    alike = [(0.125, 0.7)] * WINDOW
    assert watching(alike).judge(0.125 + 0.29, 0.7) is None
    assert watching(alike).judge(0.125 + 0.31, 0.7) is not None
    assert watching(alike).judge(0.125, 0.7 * exp(0.89)) is None
    assert watching(alike).judge(0.125, 0.7 * exp(0.91)) is not None


def test_nothing_low_is_a_spike_and_a_norm_may_be_zero() -> None:
    assert watching(usual(WINDOW)).judge(0.001, 0.0) is None
    assert watching([(3.0, 0.0)] * WINDOW).judge(3.0, 0.0) is None
    assert watching([(3.0, 0.0)] * WINDOW).judge(3.0, 0.5) is not None


def test_nothing_is_judged_before_half_a_window() -> None:
    assert watching(usual(FEWEST - 1)).judge(1e9, 1e9) is None
    assert watching(usual(FEWEST)).judge(1e9, 0.3) is not None


def test_a_new_level_is_skipped_a_few_times_and_becomes_the_usual() -> None:
    course = [*usual(WINDOW), *usual(WINDOW, seed=1, level=9.0)]
    guard = SpikeGuard(6.0)
    assert skipped(course, guard) == list(range(WINDOW, WINDOW + PATIENCE))
    assert skipped(usual(2 * WINDOW, seed=2, level=9.0), guard) == []
    assert guard.judge(13.0, exp(5.0)) is not None


def test_what_is_not_a_number_is_not_its_business() -> None:
    with pytest.raises(AssertionError, match="loss nan"):
        SpikeGuard(6.0).judge(float("nan"), 1.0)


numbers = st.floats(-1e30, 1e30, allow_nan=False).map(abs)


@given(steps=st.lists(st.tuples(numbers, numbers), max_size=30), cut=st.integers(0, 200), seed=st.integers(0, 9))
def test_a_resume_gives_the_same_verdicts(steps: Course, cut: int, seed: int) -> None:
    course = [*usual(150, seed), *steps]
    whole = SpikeGuard(3.0)
    expected = [whole.judge(*step) for step in course]
    first = SpikeGuard(3.0)
    verdicts = [first.judge(*step) for step in course[:cut]]
    second = SpikeGuard(3.0)
    second.load(json.loads(json.dumps(first.state())))
    verdicts += [second.judge(*step) for step in course[cut:]]
    assert verdicts == expected
    assert second.state() == whole.state()


def test_the_state_of_version_1_is_gone_on_with() -> None:
    guard = SpikeGuard(6.0)
    losses, norms = zip(*usual(WINDOW), strict=True)
    guard.load({"losses": list(losses), "grad_norms": list(norms), "skips": 3})
    assert guard.judge(9.0, 0.3) is not None
    assert guard.judge(3.0, 0.3) is None


@given(steps=st.lists(st.tuples(numbers, numbers), max_size=300), deviations=st.floats(0.01, 20))
def test_never_more_skips_in_a_window_than_the_patience(steps: Course, deviations: float) -> None:
    guard = SpikeGuard(deviations)
    found = skipped([*usual(WINDOW), *steps], guard)
    assert all(later - earlier >= WINDOW for earlier, later in zip(found, found[PATIENCE:], strict=False))
