"""Leases: one holder, succession after death or silence, and a stale holder refused."""

import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from models.files import write_file
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


def test_nobody_takes_a_lease_over_while_something_is_written_under_it(tmp_path: Path) -> None:
    mine = try_take(tmp_path / "l")
    assert mine is not None
    code = f"{HOLD} print(try_take(Path({str(tmp_path / 'l')!r})), flush=True)"
    claim = json.loads((tmp_path / "l").read_text())
    with mine.held():
        claim["renewed"] -= lease_module.TTL_S + 1  # frozen in the middle of a write
        (tmp_path / "l").write_text(json.dumps(claim))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "None\n"
    successor = try_take(tmp_path / "l")
    assert successor is not None
    successor.release()
    mine.release()


@pytest.mark.parametrize("seconds", [5, -3600, 86_400])
def test_a_step_of_the_clock_ends_no_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    process = hold_in_another_process(tmp_path / "l")
    stepped = time.time() + seconds
    monkeypatch.setattr(time, "time", lambda: stepped)
    assert holder(tmp_path / "l") is not None
    assert try_take(tmp_path / "l") is None
    process.kill()
    process.wait()
    assert holder(tmp_path / "l") is None


def test_a_lease_of_before_the_machine_went_down_is_free(tmp_path: Path) -> None:
    process = hold_in_another_process(tmp_path / "l")
    claim = json.loads((tmp_path / "l").read_text())
    claim["born"] = "another-boot " + claim["born"].partition(" ")[2]
    (tmp_path / "l").write_text(json.dumps(claim))
    assert holder(tmp_path / "l") is None
    process.kill()
    process.wait()


def test_a_renewal_that_a_full_disk_refuses_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "TTL_S", 1.0)
    monkeypatch.setattr(lease_module, "RENEWAL_S", 0.1)
    held, refused = try_take(tmp_path / "l"), iter([True, True])

    def full(*arguments: Any, **named: Any) -> None:
        if next(refused, False):
            raise OSError(errno.ENOSPC, "No space left on device")
        write_file(*arguments, **named)

    monkeypatch.setattr(lease_module, "write_file", full)
    time.sleep(1.6)
    assert held is not None
    held.confirm()
    assert try_take(tmp_path / "l") is None
    held.release()


def test_who_waits_hears_for_whom(tmp_path: Path) -> None:
    code = HOLD + (
        f"lease = try_take(Path({str(tmp_path / 'l')!r})); print('held', flush=True); time.sleep(0.5); lease.release()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    heard: list[int] = []
    with take(tmp_path / "l", lambda claim: heard.append(claim["pid"])):
        pass
    assert heard == [process.pid]
    assert process.wait() == 0


def test_a_renewed_lease_outlives_its_time_to_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "TTL_S", 0.6)
    monkeypatch.setattr(lease_module, "RENEWAL_S", 0.1)
    held = try_take(tmp_path / "l")
    assert held is not None
    time.sleep(1.2)
    assert try_take(tmp_path / "l") is None
    held.release()
