"""A process is known for as long as it lives and for no other, whatever the clock does."""

import os
import subprocess
import sys
import time

import pytest

from tasks.core.processes import identity


def test_a_process_has_one_identity_for_all_its_life_whatever_the_clock_says(monkeypatch: pytest.MonkeyPatch) -> None:
    before = identity(os.getpid())
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert before is not None and identity(os.getpid()) == before


def test_a_dead_process_has_none_although_nobody_has_fetched_its_end() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    alive = identity(child.pid)
    assert alive is not None and alive != identity(os.getpid())
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # a zombie, which still has a pid
    assert identity(child.pid) is None
    child.communicate()
    assert identity(child.pid) is None
