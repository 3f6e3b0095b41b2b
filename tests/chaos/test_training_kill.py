"""SIGKILL the real training at random moments and in every phase of saving, run it again, and compare every byte with
an undisturbed run; nor may it read a window twice or leave one out."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest

from models.learn.incidents import read_incidents
from models.process.progress import read_reports
from models.spec import FitSpec, Machine
from tests.chaos.trainee import NONE, Faults, events, finish, kill_at, log, start, tree, windows_in_order, windows_seen
from tests.conftest import PROJECT
from tests.models.shards import examples_spec, file_bytes, stream_spec

STEPS = 300
SHORT = 24


def made(folder: Path, steps: int = STEPS, **changes: Any) -> FitSpec:
    return stream_spec(folder, steps=steps, keep_trunk=True, **changes)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    spec = made(tmp_path_factory.mktemp("undisturbed"), checkpoint_every=1000)
    finish(spec)
    return tree(spec.out)


@pytest.fixture(scope="module")
def undisturbed_short(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    spec = made(tmp_path_factory.mktemp("short"), SHORT, checkpoint_every=1000)
    finish(spec)
    return tree(spec.out)


def check(spec: FitSpec, undisturbed: dict[str, bytes], faults: Faults = NONE) -> None:
    """Run to the end: the same bytes, every step reported once, every window read in its turn, no litter."""
    finish(spec, faults)
    assert tree(spec.out) == undisturbed
    assert [report.step for report, _ in read_reports(spec.work / "progress.jsonl")] == list(range(1, spec.steps + 1))
    order = windows_in_order(spec)
    assert len(set(order)) == spec.steps
    reached = 0
    for seen in windows_seen(spec):
        first = order.index(seen[0])
        assert first <= reached, "windows were left out"
        assert seen == order[first : first + len(seen)]
        reached = first + len(seen)
    assert reached == spec.steps
    kept = {path.name for path in (spec.work / "checkpoints").iterdir()}
    assert len(kept) <= 3 and {f"step-{step:012d}" for step in (spec.trunk_step, spec.steps)} <= kept


def kill_randomly(spec: FitSpec, kills: int, seed: int) -> None:
    generator = random.Random(seed)
    for step in sorted(generator.sample(range(1, spec.steps - 20), kills)):
        assert kill_at(spec, step, generator.uniform(0, 0.02)) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("kills", "workers"),
    [(4, 0), (1, 2), pytest.param(20, 0, marks=pytest.mark.slow), pytest.param(20, 2, marks=pytest.mark.slow)],
)
def test_kills_at_random_steps_change_no_bit(
    tmp_path: Path, undisturbed: dict[str, bytes], kills: int, workers: int
) -> None:
    spec = made(tmp_path, checkpoint_every=7, workers=workers)
    kill_randomly(spec, kills, seed=kills + workers)
    check(spec, undisturbed)


BEGUN = 110
"""Events in the checkpoints' folder until the fourth save is under way."""
PHASES = 68
"""Events from the next start on: looking for the newest checkpoint, saving, removing, beginning to save again."""


def begun(folder: Path, every: int, faults: Faults = NONE) -> FitSpec:
    """A training that has three saves behind it and died in the fourth."""
    spec = made(folder, SHORT, checkpoint_every=every)
    process = start(spec, replace(faults, die_at_event=BEGUN))
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    return spec


def check_kills_at_events(
    begun: FitSpec, which: range, undisturbed: dict[str, bytes], faults: Faults = NONE, disk: Path | None = None
) -> None:
    """Let the training go on, die at one of the next events, and go on to its end; each time from the same state."""
    for event in which:
        folder = begun.work.parent / f"killed-{event}"
        spec = begun.model_copy(update={"work": folder / "work", "out": folder / "out"})
        shutil.copytree(begun.work, spec.work)
        if disk:
            place = shutil.move(spec.work / "checkpoints", disk / str(event))
            (spec.work / "checkpoints").symlink_to(place)
        process = start(spec, replace(faults, die_at_event=event))
        process.join(60)
        assert process.exitcode == -signal.SIGKILL and len(events(spec)) == event, log(spec)
        check(spec, undisturbed, faults)


@pytest.mark.parametrize("which", [range(1, PHASES, 8), pytest.param(range(PHASES), marks=pytest.mark.slow)])
def test_kills_in_every_phase_of_saving_change_no_bit(
    tmp_path: Path, undisturbed_short: dict[str, bytes], which: range
) -> None:
    check_kills_at_events(begun(tmp_path, every=1), which, undisturbed_short)


def test_the_phases_of_saving_are_all_among_them(tmp_path: Path) -> None:
    spec = begun(tmp_path, every=1)
    process = start(spec, Faults(die_at_event=PHASES))
    process.join(60)
    happened = events(spec)
    saves = [place for place, event in enumerate(happened) if event.startswith("os.mkdir .writing")]
    assert len(saves) == 2
    assert {event.split("-0")[0] for event in happened[saves[0] : saves[1]]} >= {
        "os.mkdir .writing",
        "half model.safetensors",
        "half optimizer.safetensors",
        "half random.safetensors",
        "open state.json",
        "open manifest.json",
        "os.fsync model.safetensors",
        "os.fsync optimizer.safetensors",
        "os.fsync random.safetensors",
        "os.fsync state.json",
        "os.fsync manifest.json",
        "os.fsync .writing",
        "os.rename .writing",
        "os.fsync checkpoints",
        "os.rename step",
        "os.remove manifest.json",
        "os.rmdir .removing-step",
    }


@pytest.mark.parametrize("which", [range(60, 200, 35), pytest.param(range(0, 200, 3), marks=pytest.mark.slow)])
def test_kills_in_every_phase_of_a_rollback_change_no_bit(tmp_path: Path, which: range) -> None:
    """The loss of steps 15 and 16 is no number: back to the trunk's step 14, then to 12."""
    faults = Faults(not_a_number_at=(15, 16))
    whole = made(tmp_path / "whole", SHORT, checkpoint_every=4)
    finish(whole, faults)
    assert [(i.first_step, i.last_step) for i in read_incidents(whole.out)] == [(15, 15), (13, 16)]
    check_kills_at_events(begun(tmp_path / "begun", 4, faults), which, tree(whole.out), faults)


@pytest.fixture
def other_disk() -> Iterator[Path]:
    memory = Path("/dev/shm")
    if not memory.is_dir() or not os.access(memory, os.W_OK):
        pytest.skip("there is no /dev/shm to be another file system")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.parametrize("which", [range(20, PHASES, 17), pytest.param(range(PHASES), marks=pytest.mark.slow)])
def test_checkpoints_on_another_file_system_change_no_bit(
    tmp_path: Path, other_disk: Path, undisturbed_short: dict[str, bytes], which: range
) -> None:
    """No hard link leads from there to `out`."""
    if other_disk.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no other file system than that of the tests")
    check_kills_at_events(begun(tmp_path, every=1), which, undisturbed_short, disk=other_disk)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path, but_for: int) -> Path:
    """Take all room but so many bytes."""
    ballast = disk / "ballast"
    room = os.statvfs(disk)
    ballast.write_bytes(bytes(max(0, room.f_bavail * room.f_frsize - but_for)))
    return ballast


def start_and_fill(tmp_path: Path, disk: Path, but_for: int) -> tuple[FitSpec, BaseProcess, Path]:
    """A training whose whole work folder is on the disk, at step 30 or later, when there is no more room."""
    spec = made(tmp_path, checkpoint_every=20).model_copy(update={"work": disk / "work"})
    process = start(spec, Faults(step_s=0.01))
    wait_for(lambda: reported(spec) >= 30)
    return spec, process, fill(disk, but_for)


def test_a_full_disk_is_told_and_a_training_killed_on_it_loses_no_bit(
    tmp_path: Path, small_disk: Path, undisturbed: dict[str, bytes]
) -> None:
    """The whole work folder is on it: the record of steps, the log and the checkpoints."""
    spec, process, ballast = start_and_fill(tmp_path, small_disk, but_for=12_000)
    wait_for(lambda: "could not be written" in log(spec))
    assert "(No space left on device): the training goes on and will try again" in log(spec)
    time.sleep(0.5)
    assert process.is_alive()
    process.kill()
    process.join()
    assert [path.name for path in (spec.work / "checkpoints").iterdir()] == ["step-000000000020"]
    ballast.unlink()
    assert kill_at(spec, reported(spec) + 50, 0.0) == -signal.SIGKILL
    check(spec, undisturbed)


def test_a_disk_that_gets_room_again_is_saved_to_again(
    tmp_path: Path, small_disk: Path, undisturbed: dict[str, bytes]
) -> None:
    """Lines for which there was no room are written then."""
    spec, process, ballast = start_and_fill(tmp_path, small_disk, but_for=0)
    full = newest(spec)
    time.sleep(1.0)
    assert process.is_alive() and newest(spec) == full
    ballast.unlink()
    wait_for(lambda: newest(spec) > full)
    process.kill()
    process.join()
    check(spec, undisturbed)


def test_a_result_that_finds_no_room_fails_with_a_sentence_and_can_be_gone_on_from(
    tmp_path: Path, undisturbed_short: dict[str, bytes]
) -> None:
    """The limit on a file's size refuses what a full disk does."""
    spec = made(tmp_path, SHORT, checkpoint_every=5)
    process = start(spec, Faults(largest_file=60_000))
    process.join(60)
    assert process.exitcode == 1
    assert log(spec).splitlines()[-1].startswith("[Errno 27] File too large: ")
    # Those of steps 5 and 10 were done without; that of step 14 is the trunk.
    assert log(spec).count("could not be written (File too large)") == 2
    check(spec, undisturbed_short)


def reported(spec: FitSpec) -> int:
    return sum(1 for _ in read_reports(spec.work / "progress.jsonl"))


def newest(spec: FitSpec) -> str:
    return max(path.name for path in (spec.work / "checkpoints").glob("step-*"))


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_termination_saves_within_one_step_and_changes_no_bit(
    tmp_path: Path, undisturbed_short: dict[str, bytes], number: int
) -> None:
    spec = made(tmp_path, SHORT, checkpoint_every=1000)
    step_s = 0.25
    process = start(spec, Faults(step_s=step_s))
    wait_for(lambda: reported(spec) >= 3)
    time.sleep(step_s / 2)
    before = reported(spec)
    asked = time.time()
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 75
    assert reported(spec) <= before + 1
    saved = spec.work / "checkpoints" / f"step-{reported(spec):012d}"
    assert saved.stat().st_mtime - asked < step_s + 1.0  # saving takes .02 s; the rest is for a busy machine
    check(spec, undisturbed_short)


def test_a_killed_training_leaves_no_reader_behind(tmp_path: Path) -> None:
    spec = stream_spec(tmp_path, steps=STEPS, workers=2)
    spec.work.mkdir(parents=True)
    (spec.work / "spec.json").write_text(spec.model_dump_json())
    process = subprocess.Popen([sys.executable, "-m", "models.fit", str(spec.work / "spec.json")], cwd=PROJECT)
    while reported(spec) < 5:
        assert process.poll() is None
        time.sleep(0.01)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3  # the fork server and two readers
    process.kill()
    process.wait()
    assert psutil.wait_procs(family, timeout=20)[1] == []


def test_kills_while_fine_tuning_and_predicting_change_no_bit(tmp_path: Path) -> None:
    whole = examples_spec(tmp_path / "whole", steps=60)
    finish(whole)
    spec = examples_spec(tmp_path / "killed", steps=60, checkpoint_every=7)
    for step in (11, 35, 60):
        kill_at(spec, step, 0.0)
    finish(spec)
    assert file_bytes(spec.out) == file_bytes(whole.out)


@pytest.mark.slow
def test_kills_of_a_compiled_training_change_no_bit(tmp_path: Path) -> None:
    """Compiled anew by each process, or taken from the cache that the one before left half-filled."""

    def compiled(folder: Path) -> FitSpec:
        machine = Machine(precision="bf16", compile=True)
        return made(folder, checkpoint_every=7, machine=machine, cache=folder / "cache")

    whole, killed = compiled(tmp_path / "whole"), compiled(tmp_path / "killed")
    finish(whole)
    kill_randomly(killed, 3, seed=1)
    check(killed, tree(whole.out))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_many_kills_at_random_moments_change_no_bit(tmp_path: Path, undisturbed: dict[str, bytes], seed: int) -> None:
    """At any moment at all, start-up included."""
    generator = random.Random(100 + seed)
    spec = made(tmp_path, checkpoint_every=generator.choice((1, 3, 20)), workers=seed % 2 * 2)
    for _ in range(6):
        kill_at(spec, 0, generator.uniform(0, 1.5))
    check(spec, undisturbed)
