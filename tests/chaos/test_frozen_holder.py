"""A process that was frozen, succeeded and thawed writes no further byte: journal, ledger, scratch and store."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.nights.ledger import Ledger
from tasks.core.artifact import find_damage
from tasks.core.journal import read_journal
from tasks.core.store import Store
from tests.chaos.freezable import STEPS
from tests.conftest import PROJECT

NIGHT = "20260101-000000-abcd"


def begin(home: Path) -> "subprocess.Popen[str]":
    code = f"from pathlib import Path; from tests.chaos.freezable import main; main(Path({str(home)!r}), {NIGHT!r})"
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=PROJECT, stdout=pipe, stderr=pipe, text=True)


def trial(home: Path, moment: float) -> None:
    frozen = begin(home)
    assert frozen.stdout is not None and frozen.stdout.readline() == "begun\n"
    time.sleep(moment)
    frozen.send_signal(signal.SIGSTOP)
    successor = begin(home)
    try:
        output, errors = successor.communicate(timeout=20)
    except subprocess.TimeoutExpired:  # it froze in the middle of a write, and nobody succeeds it before it goes on
        frozen.send_signal(signal.SIGCONT)
        assert frozen.communicate(timeout=60)[0] == "done\n"
        assert successor.communicate(timeout=60)[0] == "begun\ndone\n"
        check_home(home)
        return
    assert output == "begun\ndone\n", errors
    journal = (home / "journals" / f"{NIGHT}.jsonl").read_bytes()
    entry = Ledger(home).entry(NIGHT)
    files = {path: path.read_bytes() for path in (home / "artifacts").rglob("*") if path.is_file()}
    frozen.send_signal(signal.SIGCONT)
    output, errors = frozen.communicate(timeout=60)
    # Either it is refused, or it had written all that it had to write before it froze.
    assert output == "done\n" or "was taken over by process" in errors, (output, errors)
    assert (home / "journals" / f"{NIGHT}.jsonl").read_bytes() == journal
    assert Ledger(home).entry(NIGHT) == entry
    assert entry is not None and (entry.state, entry.error) == ("done", f"by {successor.pid}")
    assert {path: path.read_bytes() for path in (home / "artifacts").rglob("*") if path.is_file()} == files
    check_home(home)


def check_home(home: Path) -> None:
    """No record is lost or repeated, the artifact is whole, and nothing lies about."""
    records = list(read_journal(home / "journals" / f"{NIGHT}.jsonl"))
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    (record,) = Store(home).records("slowly")
    artifact = Store(home).get(record.reference)
    assert find_damage(artifact, None) is None
    assert len(artifact.manifest.files) == STEPS + 1
    assert not list((home / "scratch").glob("*"))


@pytest.mark.parametrize("moment", [0.0, 0.1, 0.35])
def test_a_night_that_was_frozen_and_succeeded_writes_no_further_byte(tmp_path: Path, moment: float) -> None:
    trial(tmp_path, moment)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_freezes_at_random_moments(tmp_path: Path) -> None:
    chance = random.Random(0)
    for number in range(200):
        trial(tmp_path / str(number), chance.uniform(0, 0.5))
