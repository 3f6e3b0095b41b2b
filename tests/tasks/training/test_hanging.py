"""When silence means that a training hangs."""

from pathlib import Path

from models.process.heartbeat import beat
from tasks.training.hanging import HangWatch


class Clock:
    """Is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_twenty_steps_of_silence_are_a_hang_while_training(tmp_path: Path) -> None:
    clock = Clock()
    watch = HangWatch(tmp_path, clock)
    beat(tmp_path)
    assert watch.too_long(10.0, 900.0) is None
    clock.now = 200.0
    assert watch.too_long(10.0, 900.0) is None
    clock.now = 201.0
    assert watch.too_long(10.0, 900.0) == "hung: no step in 201 s, where one takes 10 s"
    assert watch.too_long(100.0, 900.0) is None


def test_short_steps_are_given_a_minute(tmp_path: Path) -> None:
    clock = Clock()
    watch = HangWatch(tmp_path, clock)
    beat(tmp_path)
    watch.too_long(0.01, 900.0)
    clock.now = 60.0
    assert watch.too_long(0.01, 900.0) is None
    clock.now = 61.0
    assert watch.too_long(0.01, 900.0) == "hung: no step in 61 s, where one takes 0.01 s"


def test_long_phases_are_waited_for(tmp_path: Path) -> None:
    clock = Clock()
    beat(tmp_path)  # of a process that is gone
    watch = HangWatch(tmp_path, clock)
    clock.now = 900.0
    assert watch.too_long(0.01, 900.0) is None
    clock.now = 901.0
    assert watch.too_long(0.01, 900.0) == "hung: no sign of life for 901 s while starting"
    beat(tmp_path, "compiling")
    assert watch.too_long(None, 900.0) is None
    clock.now = 1802.0
    assert watch.too_long(None, 900.0) == "hung: no sign of life for 901 s while compiling"
