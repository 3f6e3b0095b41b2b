"""SIGKILL at random moments in the data stages: the same artifacts, and no finished batch is done again."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.conftest import PROJECT
from tests.prose import write_prose

WORKERS = os.cpu_count() or 1


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some hundred documents in several batches, with duplicates and an evaluation set."""
    folder = tmp_path_factory.mktemp("prose")
    write_prose(folder / "texts", files=6, documents=300, seed=0)
    write_prose(folder / "evaluation", files=1, documents=20, seed=0)
    path = folder / "recipe.yaml"
    settings = {
        "name": "chaos",
        "ingest": {"sources": [{"kind": "files", "name": "prose", "paths": [str(folder / "texts")]}]},
        "decontaminate": {"sets": {"quiz": {"path": str(folder / "evaluation" / "0.jsonl")}}},
        "tokenizer": {"vocabulary": 400, "sample_megabytes": 0.1, "heldout": 0.2},
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def command(recipe: Path, home: Path, log: Path) -> list[str]:
    return [sys.executable, "-m", "tests.plain", str(recipe), str(home), str(log)]


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], list[str], float]:
    """Digests, batches and seconds of a run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    began = time.monotonic()
    done = subprocess.run(
        command(recipe, folder / "home", folder / "log"), capture_output=True, text=True, check=True, cwd=PROJECT
    )
    return json.loads(done.stdout), sorted(begun(folder / "log")), time.monotonic() - began


def begun(log: Path) -> list[str]:
    """The batches that were begun, one entry for each time."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [line.split()[1] for line in lines if line.startswith("begun")]


def kill_and_finish(
    recipe: Path, folder: Path, undisturbed: tuple[dict[str, str], list[str], float], seed: int, kills: int
) -> None:
    """Kill the run at `kills` random moments after its imports, then let it finish and compare."""
    digests, batches, seconds = undisturbed
    home, log = folder / "home", folder / "log"
    chance = random.Random(seed)
    for _ in range(kills):
        already = len(begun(log))
        victim = subprocess.Popen(
            command(recipe, home, log), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=PROJECT
        )
        deadline = time.monotonic() + 60
        while len(begun(log)) == already and victim.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, seconds / 3))
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
    last = subprocess.run(command(recipe, home, log), capture_output=True, text=True, check=True, cwd=PROJECT)
    assert json.loads(last.stdout) == digests
    times = Counter(begun(log))
    assert sorted(times) == batches
    assert sum(times.values()) - len(times) <= kills * WORKERS
    assert not list((home / "scratch").iterdir())


def test_data_stages_that_are_killed_end_with_the_same_artifacts(
    recipe: Path, tmp_path: Path, undisturbed: tuple[dict[str, str], list[str], float]
) -> None:
    kill_and_finish(recipe, tmp_path, undisturbed, seed=0, kills=2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 31))
def test_kills_at_many_random_moments_change_no_byte_and_repeat_no_finished_batch(
    recipe: Path, tmp_path: Path, undisturbed: tuple[dict[str, str], list[str], float], seed: int
) -> None:
    kill_and_finish(recipe, tmp_path, undisturbed, seed=seed, kills=1)
