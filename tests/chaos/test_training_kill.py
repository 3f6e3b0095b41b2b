"""SIGKILL the real training at random moments, run it again, and compare every byte with an undisturbed run.

The processes are forked from one that has imported torch and Lightning already (multiprocessing's fork server),
because a start costs 5 s and a trial 1 s. What runs in them is the whole of `python -m models.fit`.
"""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

from models.progress import read_reports
from models.spec import FitSpec
from tests.conftest import PROJECT
from tests.models.shards import examples_spec, file_bytes, stream_spec

STEPS = 300
server = multiprocessing.get_context("forkserver")
server.set_forkserver_preload(["models.fit", "tests.chaos.test_training_kill"])


def train(spec: Path, log: Path) -> None:
    """What `python -m models.fit spec.json` does."""
    from models.fit import main

    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    multiprocessing.set_start_method("fork", force=True)  # the default of a process that is not forked itself
    sys.exit(main([str(spec)]))


def start(spec: FitSpec) -> BaseProcess:
    spec.work.mkdir(parents=True, exist_ok=True)
    file = spec.work / "spec.json"
    file.write_text(spec.model_dump_json())
    process = server.Process(target=train, args=(file, spec.work / "log.txt"))
    process.start()
    return process


def finish(spec: FitSpec) -> None:
    process = start(spec)
    process.join(120)
    assert process.exitcode == 0, (spec.work / "log.txt").read_text()


def wait_for_step(process: BaseProcess, spec: FitSpec, step: int) -> None:
    """Until the training has reported that many steps in all, or has ended."""
    progress = spec.work / "progress.jsonl"
    while process.is_alive() and sum(1 for _ in read_reports(progress)) < step:
        time.sleep(0.005)


def kill_at(spec: FitSpec, step: int, delay: float, number: int = signal.SIGKILL) -> int | None:
    """Start, send the signal a moment after the step, and return the exit code."""
    process = start(spec)
    wait_for_step(process, spec, step)
    time.sleep(delay)
    if process.is_alive():
        assert process.pid is not None
        os.kill(process.pid, number)
    process.join(60)
    return process.exitcode


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    spec = stream_spec(tmp_path_factory.mktemp("undisturbed"), steps=STEPS, checkpoint_every=1000)
    finish(spec)
    return file_bytes(spec.out)


def check(spec: FitSpec, undisturbed: dict[str, bytes]) -> None:
    finish(spec)
    assert file_bytes(spec.out) == undisturbed
    assert [report.step for report, _ in read_reports(spec.work / "progress.jsonl")] == list(range(1, STEPS + 1))


@pytest.mark.parametrize(("seed", "workers"), [(1, 0), (2, 2)])
def test_kills_at_random_steps_change_no_bit(
    tmp_path: Path, undisturbed: dict[str, bytes], seed: int, workers: int
) -> None:
    generator = random.Random(seed)
    spec = stream_spec(tmp_path, steps=STEPS, checkpoint_every=7, workers=workers)
    for step in sorted(generator.sample(range(1, STEPS - 20), 3)):
        assert kill_at(spec, step, generator.uniform(0, 0.05)) == -signal.SIGKILL
    check(spec, undisturbed)


def test_a_killed_training_leaves_no_reader_behind(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path, steps=STEPS, workers=2)
    spec.work.mkdir(parents=True)
    (spec.work / "spec.json").write_text(spec.model_dump_json())
    process = subprocess.Popen([sys.executable, "-m", "models.fit", str(spec.work / "spec.json")], cwd=PROJECT)
    while sum(1 for _ in read_reports(spec.work / "progress.jsonl")) < 5:
        assert process.poll() is None
        time.sleep(0.01)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3  # the fork server and two readers
    process.kill()
    process.wait()
    assert psutil.wait_procs(family, timeout=20)[1] == []


def test_kills_inside_saving_change_no_bit(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """A checkpoint after every step: most of the time is spent in one phase or other of saving."""
    generator = random.Random(3)
    spec = stream_spec(tmp_path, steps=STEPS, checkpoint_every=1)
    for step in (5, 30, 60, 90):
        assert kill_at(spec, step, generator.uniform(0, 0.05)) == -signal.SIGKILL
    check(spec, undisturbed)


def test_a_termination_saves_at_once_and_changes_no_bit(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    spec = stream_spec(tmp_path, steps=STEPS, checkpoint_every=1000)
    for step, number in ((20, signal.SIGTERM), (100, signal.SIGINT)):
        assert kill_at(spec, step, 0.01, number) == 75
        newest = max((spec.work / "checkpoints").iterdir())
        assert int(newest.name.removeprefix("step-")) == sum(1 for _ in read_reports(spec.work / "progress.jsonl"))
    check(spec, undisturbed)


def test_kills_while_fine_tuning_and_predicting_change_no_bit(tmp_path: Path) -> None:
    whole = examples_spec(tmp_path / "whole", steps=60)
    finish(whole)
    spec = examples_spec(tmp_path / "killed", steps=60, checkpoint_every=7)
    for step in (11, 35, 60):
        kill_at(spec, step, 0.0)
    finish(spec)
    assert file_bytes(spec.out) == file_bytes(whole.out)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_many_kills_at_random_moments_change_no_bit(tmp_path: Path, undisturbed: dict[str, bytes], seed: int) -> None:
    """At any moment at all, start-up included."""
    generator = random.Random(100 + seed)
    spec = stream_spec(tmp_path, steps=STEPS, checkpoint_every=generator.choice((1, 3, 20)), workers=seed % 2 * 2)
    for _ in range(6):
        kill_at(spec, 0, generator.uniform(0, 1.5))
    check(spec, undisturbed)
