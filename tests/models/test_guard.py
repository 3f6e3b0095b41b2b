"""A spike is skipped, a change of level is not skipped for ever, and what was usual survives a resume bit for bit."""

import json
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.fit import fit
from models.guard import FEWEST, PATIENCE, WINDOW, SpikeGuard
from models.progress import read_reports
from tests.models.shards import stream_spec


def usual(count: int, seed: int = 0, level: float = 3.0) -> list[tuple[float, float]]:
    """Loss and gradient norm of steps without spikes."""
    draws = random.Random(seed)
    return [(draws.gauss(level, 0.1), draws.lognormvariate(-1.0, 0.2)) for _ in range(count)]


def watching(steps: list[tuple[float, float]], deviations: float = 6.0) -> SpikeGuard:
    guard = SpikeGuard(deviations)
    assert [guard.judge(*step) for step in steps] == [None] * len(steps)
    return guard


def test_a_loss_or_a_norm_that_stands_out_is_skipped_with_its_numbers() -> None:
    steps = [(3.0, 0.5), (3.2, 0.7)] * (WINDOW // 2)  # means 3.1 and 0.6, deviation 0.1 sqrt(128 / 127)
    guard = watching(steps)
    assert guard.judge(3.65, 0.6) is None
    guard = watching(steps)
    reason = "loss 3.75 is 6.5 standard deviations above the mean 3.1 of the last 128 steps"
    assert guard.judge(3.75, 0.6) == reason
    reason = "gradient norm 2.6 is 19.9 standard deviations above the mean 0.6 of the last 128 steps"
    assert guard.judge(3.1, 2.6) == reason


def test_a_low_loss_is_no_spike() -> None:
    assert watching(usual(WINDOW)).judge(0.001, 0.0) is None


def test_nothing_is_judged_before_half_a_window() -> None:
    guard = watching(usual(FEWEST - 1))
    assert guard.judge(1e9, 1e9) is None
    guard = watching(usual(FEWEST))
    assert guard.judge(1e9, 0.3) is not None


def test_a_skipped_step_does_not_count_as_usual() -> None:
    guard = watching(usual(WINDOW))
    before = guard.state()
    assert guard.judge(50.0, 0.3) is not None
    assert {**guard.state(), "skips": 0} == before


def test_a_lasting_change_of_level_is_accepted_and_becomes_the_usual() -> None:
    guard = watching(usual(WINDOW))
    verdicts = [guard.judge(*step) for step in usual(3 * WINDOW, seed=1, level=9.0)]
    assert [verdict is not None for verdict in verdicts] == [i < PATIENCE for i in range(3 * WINDOW)]
    assert guard.judge(90.0, 0.3) is not None


def test_an_accepted_step_renews_the_patience() -> None:
    guard = watching(usual(WINDOW))
    for step in usual(3 * PATIENCE, seed=2):
        assert guard.judge(50.0, 0.3) is not None
        assert guard.judge(*step) is None


def test_alike_steps_differ_by_no_more_than_rounding() -> None:
    guard = watching([(0.125, 0.7)] * WINDOW)
    assert guard.judge(0.125 + 1e-9, 0.7) is None
    guard = watching([(0.125, 0.7)] * WINDOW)
    assert (
        guard.judge(0.25, 0.7)
        == "loss 0.25 is 1000000.0 standard deviations above the mean 0.125 of the last 128 steps"
    )


def test_a_falling_loss_and_a_slowly_rising_norm_are_never_skipped() -> None:
    watching([(2.0 + 7.0 * 0.99**step, 0.1 + 0.001 * step) for step in range(2000)])


def test_a_sound_training_is_never_skipped(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path, steps=150)
    assert fit(spec).finished
    watching([(report.loss, report.grad_norm) for report, _ in read_reports(spec.work / "progress.jsonl")])


def test_what_is_not_a_number_is_not_its_business() -> None:
    with pytest.raises(AssertionError, match="loss nan"):
        SpikeGuard(6.0).judge(float("nan"), 1.0)


numbers = st.floats(-1e30, 1e30, allow_nan=False).map(abs)


@given(steps=st.lists(st.tuples(numbers, numbers), max_size=30), cut=st.integers(0, 200), seed=st.integers(0, 9))
def test_a_resume_gives_the_same_verdicts(steps: list[tuple[float, float]], cut: int, seed: int) -> None:
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


@given(steps=st.lists(st.tuples(numbers, numbers), max_size=60), deviations=st.floats(0.01, 20))
def test_never_more_skips_in_a_row_than_the_patience(steps: list[tuple[float, float]], deviations: float) -> None:
    guard = watching(usual(WINDOW), 20.0)
    judge = SpikeGuard(deviations)
    judge.load(guard.state())
    accepted = [-1, *(i for i, step in enumerate(steps) if judge.judge(*step) is None), len(steps)]
    assert all(after - before <= PATIENCE + 1 for before, after in pairwise(accepted))
