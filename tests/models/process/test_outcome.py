"""The end of a training, told by a file."""

from pathlib import Path

from models.process.heartbeat import beat, last_beat
from models.process.outcome import Outcome, forget, tell, told


def test_the_first_of_several_processes_to_fail_is_heard(tmp_path: Path) -> None:
    assert told(tmp_path) is None
    tell(tmp_path, Outcome("failed", 1, "The GPU's memory ran out."))
    tell(tmp_path, Outcome("failed", 0, "The other process is gone."))
    assert told(tmp_path) == Outcome("failed", 1, "The GPU's memory ran out.")
    forget(tmp_path)
    forget(tmp_path)
    assert told(tmp_path) is None and not list(tmp_path.iterdir())


def test_a_heartbeat_says_what_comes_next(tmp_path: Path) -> None:
    assert last_beat(tmp_path) == (None, "starting")
    beat(tmp_path, "compiling")
    first, phase = last_beat(tmp_path)
    assert phase == "compiling"
    beat(tmp_path)
    second, phase = last_beat(tmp_path)
    assert phase == "training" and first is not None and second is not None and second >= first
