"""Leases: one holder, succession after death or silence, and a stale holder refused."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.core import lease as lease_module
from tasks.core.errors import StageError
from tasks.core.lease import holder, take, try_take

HOLD = "import sys,time; from pathlib import Path; from tasks.core.lease import try_take; "


def hold_in_another_process(path: Path) -> subprocess.Popen[str]:
    code = HOLD + f"lease = try_take(Path({str(path)!r})); print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_held_lease_is_not_given_twice_and_a_released_one_is(tmp_path: Path) -> None:
    first = try_take(tmp_path / "l")
    assert first is not None
    assert try_take(tmp_path / "l") is None
    first.release()
    assert holder(tmp_path / "l") is None
    second = try_take(tmp_path / "l")
    assert second is not None and second.token == first.token + 1
    second.release()


def test_a_killed_holder_is_succeeded_at_once(tmp_path: Path) -> None:
    process = hold_in_another_process(tmp_path / "l")
    assert holder(tmp_path / "l") is not None
    process.send_signal(signal.SIGKILL)
    process.wait()
    mine = try_take(tmp_path / "l")  # which does not wait
    assert mine is not None and mine.token == 2
    mine.release()


def test_a_waiting_process_gets_the_lease_when_it_is_released(tmp_path: Path) -> None:
    code = HOLD + (
        f"lease = try_take(Path({str(tmp_path / 'l')!r})); print('held', flush=True); time.sleep(0.5); lease.release()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with take(tmp_path / "l"):
        pass
    assert process.wait() == 0


def test_a_holder_that_was_frozen_and_succeeded_cannot_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = try_take(tmp_path / "l")
    assert frozen is not None
    claim = json.loads((tmp_path / "l").read_text())
    claim["renewed"] -= lease_module.TTL_S + 1  # what the file says after a long silence
    (tmp_path / "l").write_text(json.dumps(claim))
    successor = try_take(tmp_path / "l")
    assert successor is not None
    with pytest.raises(StageError, match="was taken over by process"):
        frozen.confirm()
    successor.confirm()
    frozen.release()
    successor.confirm()
    successor.release()


def test_a_renewed_lease_outlives_its_time_to_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "TTL_S", 0.6)
    monkeypatch.setattr(lease_module, "RENEWAL_S", 0.1)
    held = try_take(tmp_path / "l")
    assert held is not None
    time.sleep(1.2)
    assert try_take(tmp_path / "l") is None
    held.release()
