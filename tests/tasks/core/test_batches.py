"""Batches: each is done once, in any engine, and a kill costs at most those that were at work."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tasks.core.batches import Batches, do_batch
from tasks.core.errors import UserError


def shout(item: str, folder: Path, mark: str = "!") -> dict[str, Any]:
    (folder / "said.txt").write_text(item.upper() + mark)
    with open(folder.parent / "calls.txt", "a") as calls:
        calls.write(item + "\n")
    return {"letters": len(item)}


def stumble(item: str, folder: Path) -> dict[str, Any]:
    (folder / "begun.txt").write_text(item)
    if item == "bad":
        raise UserError("this item is bad; take it out")
    return {}


def calls(folder: Path) -> list[str]:
    return sorted((folder / "pass" / "calls.txt").read_text().split())


def test_results_come_in_the_order_of_the_items(tmp_path: Path) -> None:
    done = Batches(tmp_path).map("pass", partial(shout, mark="?"), ["one", "three", "seven"])
    assert [batch.facts for batch in done] == [{"letters": 3}, {"letters": 5}, {"letters": 5}]
    assert [(batch.folder / "said.txt").read_text() for batch in done] == ["ONE?", "THREE?", "SEVEN?"]


def test_a_batch_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    Batches(tmp_path).map("pass", shout, ["one", "two"])
    again = Batches(tmp_path).map("pass", shout, ["one", "two", "three"])
    assert [batch.facts["letters"] for batch in again] == [3, 3, 5]
    assert calls(tmp_path) == ["one", "three", "two"]


def test_two_passes_of_a_stage_do_not_meet(tmp_path: Path) -> None:
    batches = Batches(tmp_path)
    batches.map("pass", shout, ["one"])
    assert batches.map("other", shout, ["twelve"])[0].facts == {"letters": 6}


def test_a_failing_batch_raises_its_own_error_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this item is bad"):
        Batches(tmp_path).map("pass", stumble, ["good", "bad", "fine"])
    assert sorted(path.name for path in (tmp_path / "pass").iterdir()) == ["000000", "000002"]


def test_two_workers_on_one_batch_agree_on_the_first_that_finished(tmp_path: Path) -> None:
    folder = tmp_path / "pass" / "000000"

    def slow(item: str, aside: Path) -> dict[str, Any]:
        do_batch(partial(shout, mark="first"), item, folder)
        return shout(item, aside, "second")

    assert do_batch(slow, "one", folder) == {"letters": 3}
    assert (folder / "said.txt").read_text() == "ONEfirst"
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == ["000000"]


def test_handing_over_links_the_file_and_refuses_to_overwrite(tmp_path: Path) -> None:
    (batch,) = Batches(tmp_path).map("pass", shout, ["one"])
    batch.hand_over("said.txt", tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text() == "ONE!"
    assert (tmp_path / "out.txt").stat().st_ino == (batch.folder / "said.txt").stat().st_ino
    with pytest.raises(FileExistsError):
        batch.hand_over("said.txt", tmp_path / "out.txt")


def test_facts_that_are_not_plain_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        Batches(tmp_path).map("pass", lambda item, folder: {"share": float("nan")}, ["one"])


SLOW_PASS = """
import sys, time
from pathlib import Path
from tasks.core.batches import Batches

def work(item, folder):
    with open(folder.parent / "calls.txt", "a") as calls:
        calls.write(f"{item}\\n")
    (folder / "half.txt").write_text("half")
    time.sleep(0.05)
    (folder / "whole.txt").write_text(str(item))
    return {"item": item}

Batches(Path(sys.argv[1])).map("pass", work, list(range(20)))
"""


def test_a_kill_costs_no_finished_batch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOW_PASS, str(tmp_path)]
    victim = subprocess.Popen(command)
    while len(list(tmp_path.glob("pass/0*/facts.json"))) < 4:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    finished = {json.loads(path.read_bytes())["item"] for path in tmp_path.glob("pass/0*/facts.json")}
    subprocess.run(command, check=True)
    made = [int(line) for line in (tmp_path / "pass" / "calls.txt").read_text().split()]
    repeated = {item for item in made if made.count(item) > 1}
    assert not repeated & finished
    assert len(repeated) <= (os.cpu_count() or 1)
    assert [(tmp_path / "pass" / f"{n:06d}" / "whole.txt").read_text() for n in range(20)] == [
        str(n) for n in range(20)
    ]
    assert not list(tmp_path.glob("pass/.writing-*"))
