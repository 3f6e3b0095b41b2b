"""The parent's side: a killed training is started again, a stopped one is saved, a failed one says why."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from models.spec import FitSpec, Machine
from tasks.core.errors import StageError
from tasks.training.supervise import supervise
from tests.models.shards import file_bytes, stream_spec
from tests.tasks.conftest import HeardLog

LONG = 100_000
EAGER = Machine(precision="float32", compile=False)  # so many steps would be worth compiling


def is_alive(process: psutil.Process) -> bool:
    """Whether it may still write; its parent may not have looked at its end yet."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def when_training(spec: FitSpec, act: Callable[[psutil.Process], None], times: int = 1) -> threading.Thread:
    """Do something to the training process when it has made progress; once, or again to its successors."""

    def watch() -> None:
        done: set[int] = set()
        at_first: dict[int, int] = {}
        deadline = time.monotonic() + 120
        progress = spec.work / "progress.jsonl"
        while len(done) < times and time.monotonic() < deadline:
            time.sleep(0.02)
            reported = progress.read_bytes().count(b"\n") if progress.exists() else 0
            for child in psutil.Process().children():
                with suppress(psutil.NoSuchProcess):  # it has just ended
                    if child.pid in done or str(spec.work / "spec.json") not in child.cmdline():
                        continue
                    if reported > at_first.setdefault(child.pid, reported) + 20:
                        act(child)
                        done.add(child.pid)

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_a_killed_training_is_started_again_and_ends_in_the_same_bits(tmp_path: Path) -> None:
    """Twice, with one restart allowed: a new checkpoint between the two deaths gives it back."""
    from models.fit import fit

    spec, log = stream_spec(tmp_path / "killed", steps=400, checkpoint_every=5), HeardLog()
    checkpoints = spec.work / "checkpoints"
    seen: set[str] = set()

    def kill_after_a_new_checkpoint(child: psutil.Process) -> None:
        while not {path.name for path in checkpoints.glob("step-*")} - seen and is_alive(child):
            time.sleep(0.01)
        child.kill()
        while is_alive(child):
            time.sleep(0.01)
        seen.update(path.name for path in checkpoints.glob("step-*"))

    killer = when_training(spec, kill_after_a_new_checkpoint, times=2)
    supervise(spec, log, restarts=1)
    killer.join()
    assert len([line for line in log.lines if "killed by SIGKILL" in line]) == 2
    assert [step for step, values in log.series if "loss" in values] == list(range(1, 401))
    whole = stream_spec(tmp_path / "whole", steps=400, checkpoint_every=50)
    fit(whole)
    assert file_bytes(spec.out) == file_bytes(whole.out)


def test_a_request_to_stop_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path, steps=LONG, checkpoint_every=100, machine=EAGER)
    asker = when_training(spec, lambda child: child.terminate())
    with pytest.raises(StageError, match=r"stopped and saved at step (\d+) of 100000") as raised:
        supervise(spec, HeardLog())
    asker.join()
    newest = max((spec.work / "checkpoints").iterdir())
    assert f"step {int(newest.name.removeprefix('step-'))} of" in str(raised.value)


def test_a_hung_training_is_killed_and_one_killed_too_often_fails(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path, steps=LONG, checkpoint_every=100, machine=EAGER)
    holder = when_training(spec, lambda child: child.suspend())
    with pytest.raises(StageError, match=r"hung: no step in \d+ s, where one takes .* s at step \d+, again"):
        supervise(spec, HeardLog(), restarts=0, patience_s=25.0)
    holder.join()


def test_a_failure_is_told_in_its_last_line(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path)
    shards = spec.data.sources[0].shards  # type: ignore[union-attr]
    shards[0].write_bytes(b"rubbish")
    with pytest.raises(StageError, match=r"failed: .*train-00000.arrow is not a readable Arrow file") as raised:
        supervise(spec, HeardLog())
    assert str(spec.work / "stderr.txt") in str(raised.value)


def test_an_interrupted_parent_leaves_no_training_behind(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path, steps=LONG, checkpoint_every=100, machine=EAGER)
    interrupter = when_training(spec, lambda child: os.kill(os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # xdist's workers ignore Ctrl-C
    try:
        with pytest.raises(KeyboardInterrupt):
            supervise(spec, HeardLog())
    finally:
        signal.signal(signal.SIGINT, before)
    interrupter.join()
    assert not [c for c in psutil.Process().children() if str(spec.work) in " ".join(c.cmdline())]
    assert list((spec.work / "checkpoints").glob("step-*"))
