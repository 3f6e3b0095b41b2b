"""SIGKILL of the whole process tree in mid-stage, then the same command: the same artifacts, bit for bit."""

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.tiny import Commands

STAGES = ("ingest", "deduplicate", "tokenize", "pretrain")


@pytest.fixture(scope="module")
def undisturbed(finished: tuple[Path, dict[str, Any]]) -> dict[str, str]:
    return digests(finished[1])


def digests(night: dict[str, Any]) -> dict[str, str]:
    return {stage["node"]: stage["digest"] for stage in night["stages"]}


def kill_in(commands: Commands, node: str, delay_s: float) -> bool:
    """Start a night, kill its whole process tree `delay_s` after it began `node`; False if it had finished by then."""
    process = commands.start("run", str(commands.recipe))
    root = psutil.Process(process.pid)
    began = None
    while process.poll() is None:
        if began is None and _has_begun(commands.home, process.pid, node):
            began = time.monotonic()
        if began is not None and time.monotonic() - began >= delay_s:
            for victim in [root, *root.children(recursive=True)]:
                try:
                    victim.send_signal(signal.SIGKILL)
                except psutil.NoSuchProcess:
                    continue
            process.communicate()
            return True
        time.sleep(0.02)
    process.communicate()
    return False


def _has_begun(home: Path, pid: int, node: str) -> bool:
    """Whether the newest journal says that the node has begun and not ended."""
    journals = sorted((home / "journals").glob("*.jsonl")) if home.exists() else []
    if not journals or journals[-1].stat().st_mtime < psutil.Process(pid).create_time():
        return False
    text = journals[-1].read_text()
    return f'"kind": "start", "node": "{node}"' in text


def committed(home: Path) -> set[str]:
    return {path.parent.name for path in home.glob("artifacts/*/*/manifest.json")}


def disturb(commands: Commands, seed: int, nodes: tuple[str, ...]) -> None:
    chance = random.Random(seed)
    for node in nodes:
        before = committed(commands.home)
        longest = 4.0 if node == "pretrain" else 0.6
        kill_in(commands, node, chance.uniform(0.0, longest))
        assert before <= committed(commands.home)


def check(commands: Commands, undisturbed: dict[str, str]) -> None:
    before = committed(commands.home)
    night = commands.json("run", str(commands.recipe))
    assert digests(night) == undisturbed
    assert before <= committed(commands.home)
    for stage in night["stages"]:
        if stage["digest"] in before:
            assert stage["action"] == "reused"
    assert not list((commands.home / "scratch").iterdir())
    states = [json.loads(path.read_text())["state"] for path in sorted((commands.home / "nights").glob("*.json"))]
    assert states[-1] == "done"
    assert set(states[:-1]) <= {"killed", "done"}


def test_a_night_killed_among_its_data_and_in_its_training_ends_with_the_same_artifacts(
    ready: Commands, undisturbed: dict[str, str]
) -> None:
    disturb(ready, 1, ("deduplicate", "pretrain"))
    check(ready, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 6))
def test_a_night_killed_three_times_in_every_kind_of_stage_ends_with_the_same_artifacts(
    tiny: Commands, undisturbed: dict[str, str], seed: int
) -> None:
    disturb(tiny, seed, tuple(node for node in STAGES for _ in range(3)))
    check(tiny, undisturbed)
